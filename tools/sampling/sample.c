// Sampling by a chain that begins with top-k, without listing the whole vocabulary.
//
// llama_sampler_sample writes 12 bytes for every token of the vocabulary and has the chain sort the k best out of them:
// with 55,296 tokens that is most of what sampling costs, with 151,936 nearly all. Here the chain is given only tokens
// that can be among the k best.
//
// Logits are looked at in blocks. The k-th largest of the blocks' maxima is a bound: k logits at least are not below it,
// so none below it is among the k best. What is left, some more than k, keeps the order of the vocabulary.

#include "llama.h"

#include <math.h>
#include <string.h>

enum {
    LANES = 16,
    BLOCK = 64,            // logits of a block
    MAX_BLOCKS = 8192,     // of a vocabulary
    MAX_NEED = 512,        // largest k
    MAX_CANDIDATES = 4096, // handed to the chain: more only where many logits are equal
};

typedef float   vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

// What ggufrun_sample returns where it has done nothing, and llama_sampler_sample can.
#define NOT_HERE (-1)
// What it returns where the chain chose none; nothing has been accepted.
#define NONE_LEFT (-2)

// The largest of a whole block. Values that are no numbers count as none.
static float block_max(const float * x) {
    vf m = (vf) {0} - INFINITY;
    for (int i = 0; i < BLOCK; i += LANES) {
        vf v;
        memcpy(&v, x + i, sizeof v);
        const vi larger = v > m;
        m = (vf) (((vi) v & larger) | ((vi) m & ~larger));
    }
    float best = -INFINITY;
    for (int k = 0; k < LANES; ++k) {
        best = m[k] > best ? m[k] : best;
    }
    return best;
}

// Replaces the root, the smallest, of a heap of n values.
static void replace_smallest(float * heap, int n, float value) {
    int place = 0;
    for (int child; (child = 2 * place + 1) < n; place = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (value <= heap[child]) {
            break;
        }
        heap[place] = heap[child];
    }
    heap[place] = value;
}

// The next token, which the chain has accepted, where the `need` largest logits are all that the chain can look at;
// NOT_HERE or NONE_LEFT where there is none. `index` as in llama_get_logits_ith.
LLAMA_API int32_t ggufrun_sample(struct llama_sampler * chain, struct llama_context * ctx, int32_t index, int32_t need) {
    const float * logits = llama_get_logits_ith(ctx, index);
    const int size = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    const int blocks = (size + BLOCK - 1) / BLOCK;
    if (logits == NULL || blocks > MAX_BLOCKS || need < 1 || need > MAX_NEED || need > blocks) {
        return NOT_HERE;
    }

    float maxima[MAX_BLOCKS];
    for (int b = 0; b < size / BLOCK; ++b) {
        maxima[b] = block_max(logits + BLOCK * b);
    }
    if (size % BLOCK) {
        float * last = maxima + blocks - 1;
        *last = -INFINITY;
        for (int i = size - size % BLOCK; i < size; ++i) {
            *last = logits[i] > *last ? logits[i] : *last;
        }
    }

    float heap[MAX_NEED];
    for (int i = 0; i < need; ++i) {
        heap[i] = -INFINITY;
    }
    for (int b = 0; b < blocks; ++b) {
        if (maxima[b] > heap[0]) {
            replace_smallest(heap, need, maxima[b]);
        }
    }
    const float bound = heap[0];
    if (bound == -INFINITY) {
        return NOT_HERE;
    }

    llama_token_data candidates[MAX_CANDIDATES];
    size_t count = 0;
    for (int b = 0; b < blocks; ++b) {
        if (maxima[b] < bound) {
            continue;
        }
        const int end = b + 1 < blocks ? BLOCK * (b + 1) : size;
        for (int i = BLOCK * b; i < end; ++i) {
            if (logits[i] >= bound) {
                if (count == MAX_CANDIDATES) {
                    return NOT_HERE;
                }
                candidates[count++] = (llama_token_data) {i, logits[i], 0.0f};
            }
        }
    }

    llama_token_data_array array = {candidates, count, -1, false};
    llama_sampler_apply(chain, &array);
    if (array.selected < 0 || array.selected >= (int64_t) array.size) {
        return NONE_LEFT;
    }
    const llama_token token = array.data[array.selected].id;
    llama_sampler_accept(chain, token);
    return token;
}
