// llama.cpp's K-quants, one sub-block a SIMD lane: the same bytes, up to ten times sooner.
//
// A K-quant searches the best scale of every sub-block of 16 or 32 values: some twenty candidates, each with sums over
// the sub-block. A C compiler may not vectorize such a sum, for that would change the order of its additions. Across
// sub-blocks there is no such order: here lane k of every vector belongs to sub-block k, and each lane does exactly the
// additions, products and divisions that ggml-quants.c does, in its order. So the result is the same, bit for bit, as
// long as the compiler contracts no product and sum into one rounding (-ffp-contract=off, as the CMake file says).
//
// ggml-kernels.cmake compiles this file into ggml-base, and ggml-quants.c with its own five functions renamed to
// ggufrun_stock_*. Those still serve what would need care here: blocks with infinities, or with values so small or so
// large that the search's own arithmetic overflows.

#include "ggml-quants.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

typedef size_t quantize_fn(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix);

quantize_fn ggufrun_stock_quantize_q2_K;
quantize_fn ggufrun_stock_quantize_q3_K;
quantize_fn ggufrun_stock_quantize_q4_K;
quantize_fn ggufrun_stock_quantize_q5_K;
quantize_fn ggufrun_stock_quantize_q6_K;

// --- vectors ---------------------------------------------------------------------------------------------------------
//
// The vector extension of GCC and Clang: plain operators, and every target gets its own instructions.

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float   vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf all(float v) { return v - (vf) {0}; }

INLINE vf pick(vi mask, vf yes, vf no) { return (vf) (((vi) yes & mask) | ((vi) no & ~mask)); }

INLINE vi pick_int(vi mask, vi yes, vi no) { return (yes & mask) | (no & ~mask); }

INLINE vf absolute(vf v) { return (vf) ((vi) v & 0x7fffffff); }

INLINE vf root(vf v) {
    for (int k = 0; k < LANES; ++k) {
        v[k] = sqrtf(v[k]);
    }
    return v;
}

INLINE bool any(vi mask) {
    int32_t found = 0;
    for (int k = 0; k < LANES; ++k) {
        found |= mask[k];
    }
    return found != 0;
}

// 1.5 * 2^23: a float of that size has no room for fractions, so adding it rounds, ties to even.
#define ROUNDER 12582912.f

// Rounded values of magnitude below 2^22, as floats.
INLINE vf nearest(vf v) { return (v + ROUNDER) - ROUNDER; }

// The same as integers. Wraps beyond 2^22, and turns a NaN into 0, as ggml-quants.c does.
INLINE vi nearest_int(vf v) { return ((vi) (v + ROUNDER) & 0x007fffff) - 0x00400000; }

INLINE int nearest_scalar(float v) {
    v += ROUNDER;
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

// Into [0, top]; a NaN becomes 0, which is what its integer form would be.
INLINE vf clamp(vf v, float top) {
    v = (vf) ((vi) v & (v > 0));
    return pick(v > top, all(top), v);
}

INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

INLINE vi clamp_int(vi v, int32_t low, int32_t high) {
    const vi lowest = low - (vi) {0}, highest = high - (vi) {0};
    v = pick_int(v < lowest, lowest, v);
    return pick_int(v > highest, highest, v);
}

// Where the search's intermediate results stay finite and normal.
#define TINY 1e-30f
#define HUGE_VALUE 1e30f

// --- searches --------------------------------------------------------------------------------------------------------

#define MOST 32              // values in the largest sub-block

struct range {
    vf scale, min;            // value = scale * l - min
    vf iscale, base;          // the search's own l was nearest(iscale * (x - base))
};

// What a search tries: `steps` + 1 candidates, `step` apart.
struct candidates {
    float first, step;
    int steps;
    bool absolute;            // the error counts as it is, not squared
};

// The candidates of every search that an importance matrix guides.
#define WEIGHTED ((struct candidates) { -0.9f, 0.05f, 36, false })

INLINE vf penalty(vf diff, bool as_it_is) { return as_it_is ? absolute(diff) : diff * diff; }

// The scale and minimum of `n` values with the least weighted error, as make_qkx2_quants and make_qkx3_quants find
// them. False where ggml-quants.c must do it.
INLINE bool search_range(int n, const vf * x, const vf * w, float top, struct candidates these, struct range * found) {
    vf min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; ++i) {
        min = pick(x[i] < min, x[i], min);
        max = pick(x[i] > max, x[i], max);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    min = pick(min > 0, all(0), min);
    const vi flat = max == min;
    const vf width = max - min, lowest = min;
    if (any(~(flat | ((width > TINY) & (width < HUGE_VALUE))))) {
        return false;
    }
    struct range best = { .min = min, .base = min, .iscale = top / width };
    best.scale = 1 / best.iscale;
    vf least = all(0);
    for (int i = 0; i < n; ++i) {
        const vf l = clamp(nearest(best.iscale * (x[i] - min)), top);
        least += w[i] * penalty(best.scale * l + min - x[i], these.absolute);
    }
    for (int c = 0; c <= these.steps; ++c) {
        const vf iscale = (these.first + these.step * c + top) / (max - best.min);
        vf l[MOST], sum_l = all(0), sum_l2 = all(0), sum_xl = all(0);
        for (int i = 0; i < n; ++i) {
            l[i] = clamp(nearest(iscale * (x[i] - best.min)), top);
            const vf wl = w[i] * l[i];
            sum_l += wl;
            sum_l2 += wl * l[i];
            sum_xl += wl * x[i];
        }
        // The least squares' own scale and minimum for these l; a minimum above zero cannot be stored.
        const vf det = sum_w * sum_l2 - sum_l * sum_l;
        const vf free_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        const vi positive = free_min > 0;
        const vf new_min = (vf) ((vi) free_min & ~positive);
        const vf new_scale = pick(positive, sum_xl / sum_l2, (sum_w * sum_xl - sum_x * sum_l) / det);
        vf error = all(0);
        for (int i = 0; i < n; ++i) {
            error += w[i] * penalty(new_scale * l[i] + new_min - x[i], these.absolute);
        }
        const vi better = (det > 0) & (error < least);
        least = pick(better, error, least);
        best.iscale = pick(better, iscale, best.iscale);
        best.base = pick(better, best.min, best.base);
        best.scale = pick(better, new_scale, best.scale);
        best.min = pick(better, new_min, best.min);
    }
    found->scale = pick(flat, all(0), best.scale);
    found->min = -pick(flat, lowest, best.min);
    found->iscale = pick(flat, all(0), best.iscale);
    found->base = best.base;
    return true;
}

// The value of largest magnitude in each lane. False where ggml-quants.c must go on.
INLINE bool largest(int n, const vf * x, vf * max, vi * zero) {
    vf size = all(0);
    *max = all(0);
    for (int i = 0; i < n; ++i) {
        const vi larger = absolute(x[i]) > size;
        size = pick(larger, absolute(x[i]), size);
        *max = pick(larger, x[i], *max);
    }
    *zero = size < 1e-15f;
    return !any(~(size < HUGE_VALUE));
}

// The scale of 16 values that keeps most of their weighted energy, as make_qx_quants finds it; l is in [-top, top).
// `iscale` is zero where all is zero. False where ggml-quants.c must do it.
INLINE bool search_scale(const vf * x, const vf * w, float top, vf * found, vf * found_iscale) {
    vf max;
    vi zero;
    if (!largest(16, x, &max, &zero)) {
        return false;
    }
    vf scale = all(0), best = all(0), best_iscale = all(0);
    for (int c = -10; c <= 9; ++c) {
        if (c == 0) {
            continue;
        }
        // The plain scale first, then a little to either side of it.
        const bool plain = c == -10;
        const vf iscale = -(plain ? top : top + 0.1f * c) / max;
        vf sum_xl = all(0), sum_l2 = all(0);
        for (int i = 0; i < 16; ++i) {
            vf l = nearest(iscale * x[i]);
            l = pick(l > top - 1, all(top - 1), l);
            l = pick(l < -top, all(-top), l);
            sum_xl += w[i] * x[i] * l;
            sum_l2 += w[i] * l * l;
        }
        const vf ratio = sum_xl / sum_l2;
        const vi better = plain ? sum_l2 != 0 : (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2);
        scale = pick(better, ratio, scale);
        best = plain ? scale * sum_xl : pick(better, ratio * sum_xl, best);
        best_iscale = plain ? iscale : pick(better, iscale, best_iscale);
    }
    *found = pick(zero, all(0), scale);
    *found_iscale = pick(zero, all(0), best_iscale);
    return true;
}

// The l of `search_scale`, from 0: what is kept where the rounded scale is zero. All zeros have l = 0, not the middle.
INLINE vi kept_l(vf x, vf iscale, int top) {
    return pick_int(iscale == 0, (vi) {0}, clamp_int(nearest_int(iscale * x), -top, top - 1) + top);
}

// The scale of 16 values and their l in [-4, 4), improved one by one, as make_q3_quants does it. l is -4 where all is
// zero. False where ggml-quants.c must do it.
INLINE bool search_one_by_one(const vf * x, vf * found, vi * l) {
    vf max;
    vi zero;
    if (!largest(16, x, &max, &zero)) {
        return false;
    }
    const vf iscale = -4 / max;
    vf sum_xl = all(0), sum_l2 = all(0);
    for (int i = 0; i < 16; ++i) {
        l[i] = clamp_int(nearest_int(iscale * x[i]), -4, 3);
        const vf w = x[i] * x[i], li = to_float(l[i]);
        sum_xl += w * x[i] * li;
        sum_l2 += w * li * li;
    }
    bool changed = true;
    for (int attempt = 0; attempt < 5 && changed; ++attempt) {
        vi changes = {0};
        for (int i = 0; i < 16; ++i) {
            const vf w = x[i] * x[i], li = to_float(l[i]);
            vf xl = sum_xl - w * x[i] * li, l2 = sum_l2 - w * li * li;
            const vi other = clamp_int(nearest_int(x[i] * l2 / xl), -4, 3);
            const vf of = to_float(other);
            const vi may = ~zero & (xl > 0) & (other != l[i]);
            xl += w * x[i] * of;
            l2 += w * of * of;
            const vi better = may & (l2 > 0) & (xl * xl * sum_l2 > sum_xl * sum_xl * l2);
            l[i] = pick_int(better, other, l[i]);
            sum_xl = pick(better, xl, sum_xl);
            sum_l2 = pick(better, l2, sum_l2);
            changes |= better;
        }
        changed = any(changes);
    }
    *found = pick(~zero & (sum_l2 > 0), sum_xl / sum_l2, all(0));
    for (int i = 0; i < 16; ++i) {
        l[i] = pick_int(zero, (vi) {0} - 4, l[i]);
    }
    return true;
}

// `n` scales as whole numbers up to `most`, weighted, as make_qp_quants does it; returns what one of them is worth.
static float pack_weighted(int n, int most, const float * x, const float * w, uint8_t * l) {
    float max = 0;
    for (int j = 0; j < n; ++j) {
        max = max > x[j] ? max : x[j];
    }
    if (max < 1e-15f) {
        memset(l, 0, (size_t) n);
        return 0;
    }
    float iscale = most / max;
    const float scale = 1 / iscale;
    float least = 0;
    for (int j = 0; j < n; ++j) {
        const float diff = x[j] - scale * (uint8_t) nearest_scalar(iscale * x[j]);
        least += w[j] * diff * diff;
    }
    for (int c = -4; c <= 4; ++c) {
        if (c == 0) {
            continue;
        }
        const float other = (0.1f * c + most) / max, step = 1 / other;
        float error = 0;
        for (int j = 0; j < n; ++j) {
            const int rounded = nearest_scalar(other * x[j]);
            const float diff = x[j] - step * (rounded < most ? rounded : most);
            error += w[j] * diff * diff;
        }
        if (error < least) {
            least = error;
            iscale = other;
        }
    }
    float sum_xl = 0, sum_l2 = 0;
    for (int j = 0; j < n; ++j) {
        const int rounded = nearest_scalar(iscale * x[j]), top = rounded < most ? rounded : most;
        l[j] = (uint8_t) top;
        sum_xl += w[j] * x[j] * top;
        sum_l2 += w[j] * top * top;
    }
    for (int attempt = 0, changed = 1; attempt < 5 && changed; ++attempt) {
        changed = 0;
        for (int j = 0; j < n; ++j) {
            float xl = sum_xl - w[j] * x[j] * l[j], l2 = sum_l2 - w[j] * l[j] * l[j];
            if (!(xl > 0 && l2 > 0)) {
                continue;
            }
            const int rounded = nearest_scalar(x[j] * l2 / xl), top = rounded < most ? rounded : most;
            if (top == l[j]) {
                continue;
            }
            xl += w[j] * x[j] * top;
            l2 += w[j] * top * top;
            if (xl * xl * sum_l2 > sum_xl * sum_xl * l2) {
                l[j] = (uint8_t) top;
                sum_xl = xl;
                sum_l2 = l2;
                changed = 1;
            }
        }
    }
    return sum_l2 > 0 ? sum_xl / sum_l2 : 0;
}

// --- Q4_K and Q5_K: sub-blocks of 32 values, each with a scale and a minimum -----------------------------------------

#define SUB 32                                      // values in a sub-block
#define SUBS (QK_K / SUB)                           // sub-blocks in a block
#define GROUP (LANES > SUBS ? LANES / SUBS : 1)     // blocks that are worked on at once
#define SLICES (GROUP * SUBS / LANES)               // vectors that their sub-blocks fill

// Eight scales to 6 bits each, the largest to 63; returns what one step of them is worth.
static float pack_plain(const float * x, uint8_t * l) {
    float max = 0;
    for (int j = 0; j < SUBS; ++j) {
        max = x[j] > max ? x[j] : max;
    }
    const float iscale = max > 0 ? 63 / max : 0;
    for (int j = 0; j < SUBS; ++j) {
        const uint8_t rounded = (uint8_t) nearest_scalar(iscale * x[j]);
        l[j] = rounded < 63 ? rounded : 63;
    }
    return max / 63;
}

// Two times eight numbers of 6 bits in 12 bytes.
static void join_scales(const uint8_t * scale, const uint8_t * min, uint8_t * bytes) {
    for (int j = 0; j < 4; ++j) {
        bytes[j] = (uint8_t) (scale[j] | scale[j + 4] >> 4 << 6);
        bytes[j + 4] = (uint8_t) (min[j] | min[j + 4] >> 4 << 6);
        bytes[j + 8] = (uint8_t) ((scale[j + 4] & 0xF) | (min[j + 4] & 0xF) << 4);
    }
}

static void split_scales(const uint8_t * bytes, uint8_t * scale, uint8_t * min) {
    for (int j = 0; j < 4; ++j) {
        scale[j] = bytes[j] & 63;
        min[j] = bytes[j + 4] & 63;
        scale[j + 4] = (uint8_t) ((bytes[j + 8] & 0xF) | bytes[j] >> 6 << 4);
        min[j + 4] = (uint8_t) (bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4);
    }
}

// What differs between the two types.
struct kind {
    int top;                        // the largest l
    struct candidates candidates;   // of the search without an importance matrix
    size_t size;                    // bytes of a block
    quantize_fn * stock;
};

// The start of both blocks is the same; `low` and `high` are the quants' four bits and, for Q5_K, the fifth.
INLINE void put_block(char * block, int top, float d, float dmin, const uint8_t * scales, const uint8_t * l) {
    uint8_t * low;
    if (top == 15) {
        block_q4_K * y = (block_q4_K *) block;
        y->d = ggml_fp32_to_fp16(d);
        y->dmin = ggml_fp32_to_fp16(dmin);
        memcpy(y->scales, scales, K_SCALE_SIZE);
        low = y->qs;
    } else {
        block_q5_K * y = (block_q5_K *) block;
        y->d = ggml_fp32_to_fp16(d);
        y->dmin = ggml_fp32_to_fp16(dmin);
        memcpy(y->scales, scales, K_SCALE_SIZE);
        low = y->qs;
        for (int i = 0; i < SUB; ++i) {
            uint8_t bits = 0;
            for (int j = 0; j < SUBS; ++j) {
                bits |= (uint8_t) (l[SUB * j + i] >> 4 << j);
            }
            y->qh[i] = bits;
        }
    }
    for (int j = 0; j < SUBS; j += 2) {
        for (int i = 0; i < SUB; ++i) {
            low[SUB / 2 * j + i] = (uint8_t) ((l[SUB * j + i] & 0xF) | l[SUB * (j + 1) + i] << 4);
        }
    }
}

// GROUP blocks: `src` and `dst` point to each, `imatrix` to the importances of each or is NULL.
INLINE void quantize_group(const struct kind kind, const float ** src, char ** dst, const float ** imatrix) {
    vf x[SLICES][SUB], w[SUB];
    struct range range[SLICES];
    float sum_w[GROUP * SUBS], scale[GROUP * SUBS], min[GROUP * SUBS], d[GROUP * SUBS], m[GROUP * SUBS];
    float sigma[GROUP];
    for (int g = 0; imatrix && g < GROUP; ++g) {
        float sum = 0;
        for (int i = 0; i < QK_K; ++i) {
            sum += src[g][i] * src[g][i];
        }
        sigma[g] = 2 * sum / QK_K;
    }
    for (int s = 0; s < SLICES; ++s) {
        for (int k = 0; k < LANES; ++k) {
            const int sub = LANES * s + k;
            const float * from = src[sub / SUBS] + SUB * (sub % SUBS);
            for (int i = 0; i < SUB; ++i) {
                x[s][i][k] = from[i];
            }
        }
        bool fine;
        if (imatrix) {
            vf variance;
            for (int k = 0; k < LANES; ++k) {
                const int sub = LANES * s + k;
                const float * from = imatrix[sub / SUBS] + SUB * (sub % SUBS);
                variance[k] = sigma[sub / SUBS];
                for (int i = 0; i < SUB; ++i) {
                    w[i][k] = from[i];
                }
            }
            vf sum = all(0);
            for (int i = 0; i < SUB; ++i) {
                w[i] *= root(variance + x[s][i] * x[s][i]);
                sum += w[i];
            }
            memcpy(sum_w + LANES * s, &sum, sizeof sum);
            fine = search_range(SUB, x[s], w, kind.top, WEIGHTED, &range[s]);
        } else {
            vf sum = all(0);
            for (int i = 0; i < SUB; ++i) {
                sum += x[s][i] * x[s][i];
            }
            const vf typical = root(sum / SUB);
            for (int i = 0; i < SUB; ++i) {
                w[i] = typical + absolute(x[s][i]);
            }
            fine = search_range(SUB, x[s], w, kind.top, kind.candidates, &range[s]);
        }
        if (!fine) {
            for (int g = 0; g < GROUP; ++g) {
                kind.stock(src[g], dst[g], 1, QK_K, imatrix ? imatrix[g] : NULL);
            }
            return;
        }
        memcpy(scale + LANES * s, &range[s].scale, sizeof(vf));
        memcpy(min + LANES * s, &range[s].min, sizeof(vf));
    }
    float block_d[GROUP], block_min[GROUP];
    uint8_t packed[GROUP][K_SCALE_SIZE];
    for (int g = 0; g < GROUP; ++g) {
        uint8_t ls[SUBS], lm[SUBS];
        if (imatrix) {
            block_d[g] = pack_weighted(SUBS, 63, scale + SUBS * g, sum_w + SUBS * g, ls);
            block_min[g] = pack_weighted(SUBS, 63, min + SUBS * g, sum_w + SUBS * g, lm);
            for (int j = 0; kind.top > 15 && j < SUBS; ++j) {
                ls[j] = ls[j] < 63 ? ls[j] : 63;
                lm[j] = lm[j] < 63 ? lm[j] : 63;
            }
        } else {
            block_d[g] = pack_plain(scale + SUBS * g, ls);
            block_min[g] = pack_plain(min + SUBS * g, lm);
        }
        join_scales(ls, lm, packed[g]);
        split_scales(packed[g], ls, lm);
        const float one = ggml_fp16_to_fp32(ggml_fp32_to_fp16(block_d[g]));
        const float one_min = ggml_fp16_to_fp32(ggml_fp32_to_fp16(block_min[g]));
        for (int j = 0; j < SUBS; ++j) {
            d[SUBS * g + j] = one * ls[j];
            m[SUBS * g + j] = one_min * lm[j];
        }
    }
    uint8_t l[GROUP][QK_K];
    for (int s = 0; s < SLICES; ++s) {
        vf ds, ms;
        memcpy(&ds, d + LANES * s, sizeof ds);
        memcpy(&ms, m + LANES * s, sizeof ms);
        // Where the rounded scale is zero the search's own l stay.
        const vi none = ds == 0;
        const bool some = any(none);
        for (int i = 0; i < SUB; ++i) {
            vi li = nearest_int((x[s][i] + ms) / ds);
            if (some) {
                li = pick_int(none, nearest_int(range[s].iscale * (x[s][i] - range[s].base)), li);
            }
            li = clamp_int(li, 0, kind.top);
            for (int k = 0; k < LANES; ++k) {
                const int sub = LANES * s + k;
                l[sub / SUBS][SUB * (sub % SUBS) + i] = (uint8_t) li[k];
            }
        }
    }
    for (int g = 0; g < GROUP; ++g) {
        put_block(dst[g], kind.top, block_d[g], block_min[g], packed[g], l[g]);
    }
}

INLINE size_t quantize_range(const struct kind kind, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    const int64_t blocks = nrow * n_per_row / QK_K, in_row = n_per_row / QK_K;
    char * y = dst;
    char spare[sizeof(block_q5_K)] __attribute__((aligned(4)));
    for (int64_t b = 0; b < blocks; b += GROUP) {
        const float * from[GROUP], * weights[GROUP];
        char * to[GROUP];
        for (int g = 0; g < GROUP; ++g) {
            // The last group may lack blocks: the last one is then done again, into nowhere.
            const int64_t n = b + g < blocks ? b + g : blocks - 1;
            from[g] = src + QK_K * n;
            weights[g] = imatrix ? imatrix + QK_K * (n % in_row) : NULL;
            to[g] = b + g < blocks ? y + kind.size * n : spare;
        }
        quantize_group(kind, from, to, imatrix ? weights : NULL);
    }
    return (size_t) blocks * kind.size;
}

size_t quantize_q4_K(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { 15, { -1.f, 0.1f, 20, false }, sizeof(block_q4_K), ggufrun_stock_quantize_q4_K };
    return quantize_range(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_q5_K(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { 31, { -0.5f, 0.1f, 15, false }, sizeof(block_q5_K), ggufrun_stock_quantize_q5_K };
    return quantize_range(kind, src, dst, nrow, n_per_row, imatrix);
}

// --- Q2_K, Q3_K and Q6_K: sub-blocks of 16 values --------------------------------------------------------------------

#define SUB16 16
#define SUBS16 (QK_K / SUB16)
#define SLICES16 (SUBS16 / LANES)

// 256 values, a sub-block a lane, and back.
INLINE void load16(const float * src, vf x[SLICES16][SUB16]) {
    for (int s = 0; s < SLICES16; ++s) {
        for (int k = 0; k < LANES; ++k) {
            for (int i = 0; i < SUB16; ++i) {
                x[s][i][k] = src[SUB16 * (LANES * s + k) + i];
            }
        }
    }
}

INLINE void store16(int s, int i, vi l, uint8_t * dst) {
    for (int k = 0; k < LANES; ++k) {
        dst[SUB16 * (LANES * s + k) + i] = (uint8_t) l[k];
    }
}

// The importances times the size of the values, and the sum of these weights for each sub-block.
INLINE void weigh16(const float * src, vf x[SLICES16][SUB16], const float * imatrix, float factor,
        vf w[SLICES16][SUB16], float * sum_w) {
    float sum = 0;
    for (int i = 0; i < QK_K; ++i) {
        sum += src[i] * src[i];
    }
    const vf variance = all(factor * sum / QK_K);
    load16(imatrix, w);
    for (int s = 0; s < SLICES16; ++s) {
        vf total = all(0);
        for (int i = 0; i < SUB16; ++i) {
            w[s][i] *= root(variance + x[s][i] * x[s][i]);
            total += w[s][i];
        }
        memcpy(sum_w + LANES * s, &total, sizeof total);
    }
}

// The scale of largest magnitude, with its sign.
static float largest_scale(const float * scale) {
    float max = 0, size = 0;
    for (int j = 0; j < SUBS16; ++j) {
        if (fabsf(scale[j]) > size) {
            size = fabsf(scale[j]);
            max = scale[j];
        }
    }
    return max;
}

// 256 numbers of 2 bits in 64 bytes.
static void join_quarters(const uint8_t * l, uint8_t * bytes) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; ++i) {
            const uint8_t * q = l + 128 * half + i;
            bytes[32 * half + i] = (uint8_t) (q[0] | q[32] << 2 | q[64] << 4 | q[96] << 6);
        }
    }
}

static void quantize_block_q2_K(const float * src, block_q2_K * y, const float * imatrix) {
    vf x[SLICES16][SUB16], w[SLICES16][SUB16];
    struct range range[SLICES16];
    float scale[SUBS16], min[SUBS16], sum_w[SUBS16];
    load16(src, x);
    if (imatrix) {
        weigh16(src, x, imatrix, 1, w, sum_w);
    }
    for (int s = 0; s < SLICES16; ++s) {
        bool fine;
        if (imatrix) {
            fine = search_range(SUB16, x[s], w[s], 3, WEIGHTED, &range[s]);
        } else {
            for (int i = 0; i < SUB16; ++i) {
                w[s][i] = absolute(x[s][i]);
            }
            fine = search_range(SUB16, x[s], w[s], 3, (struct candidates) { -0.5f, 0.1f, 15, true }, &range[s]);
        }
        if (!fine) {
            ggufrun_stock_quantize_q2_K(src, y, 1, QK_K, imatrix);
            return;
        }
        memcpy(scale + LANES * s, &range[s].scale, sizeof(vf));
        memcpy(min + LANES * s, &range[s].min, sizeof(vf));
    }
    uint8_t ls[SUBS16], lm[SUBS16];
    float d, m;
    if (imatrix) {
        d = pack_weighted(SUBS16, 15, scale, sum_w, ls);
        m = pack_weighted(SUBS16, 15, min, sum_w, lm);
    } else {
        float max = 0, max_min = 0;
        for (int j = 0; j < SUBS16; ++j) {
            max = scale[j] > max ? scale[j] : max;
            max_min = min[j] > max_min ? min[j] : max_min;
        }
        for (int j = 0; j < SUBS16; ++j) {
            ls[j] = (uint8_t) (max > 0 ? nearest_scalar(15.f / max * scale[j]) : 0);
            lm[j] = (uint8_t) (max_min > 0 ? nearest_scalar(15.f / max_min * min[j]) : 0);
        }
        d = max > 0 ? max / 15.f : 0;
        m = max_min > 0 ? max_min / 15.f : 0;
    }
    y->d = ggml_fp32_to_fp16(d);
    y->dmin = ggml_fp32_to_fp16(m);
    d = ggml_fp16_to_fp32(y->d);
    m = ggml_fp16_to_fp32(y->dmin);
    for (int j = 0; j < SUBS16; ++j) {
        y->scales[j] = (uint8_t) (ls[j] | lm[j] << 4);
        scale[j] = d * (y->scales[j] & 0xF);
        min[j] = m * (y->scales[j] >> 4);
    }
    uint8_t l[QK_K];
    for (int s = 0; s < SLICES16; ++s) {
        vf ds, ms;
        memcpy(&ds, scale + LANES * s, sizeof ds);
        memcpy(&ms, min + LANES * s, sizeof ms);
        for (int i = 0; i < SUB16; ++i) {
            const vi kept = nearest_int(range[s].iscale * (x[s][i] - range[s].base));
            const vi li = pick_int(ds == 0, kept, nearest_int((x[s][i] + ms) / ds));
            store16(s, i, clamp_int(li, 0, 3), l);
        }
    }
    join_quarters(l, y->qs);
}

static void quantize_block_q3_K(const float * src, block_q3_K * y, const float * imatrix) {
    vf x[SLICES16][SUB16], w[SLICES16][SUB16];
    vi kept[SLICES16][SUB16];
    float scale[SUBS16], sum_w[SUBS16];
    bool fine = true;
    load16(src, x);
    if (imatrix) {
        weigh16(src, x, imatrix, 2, w, sum_w);
    }
    for (int s = 0; fine && s < SLICES16; ++s) {
        vf found, iscale;
        if (imatrix) {
            fine = search_scale(x[s], w[s], 4, &found, &iscale);
            for (int i = 0; fine && i < SUB16; ++i) {
                kept[s][i] = kept_l(x[s][i], iscale, 4) - 4;
            }
        } else {
            fine = search_one_by_one(x[s], &found, kept[s]);
        }
        memcpy(scale + LANES * s, &found, sizeof found);
    }
    uint8_t ls[SUBS16];
    float d = 0;
    if (fine && imatrix) {
        // The sixteen scales are quantized as the values are; every lane does it, one is used.
        vf one[SUBS16], weight[SUBS16], found, iscale;
        for (int j = 0; j < SUBS16; ++j) {
            one[j] = all(scale[j]);
            weight[j] = all(sum_w[j]);
        }
        fine = search_scale(one, weight, 32, &found, &iscale);
        for (int j = 0; fine && j < SUBS16; ++j) {
            ls[j] = (uint8_t) kept_l(one[j], iscale, 32)[0];
        }
        d = fine ? found[0] : 0;
    } else if (fine) {
        const float max = largest_scale(scale), iscale = max != 0 ? -32.f / max : 0;
        for (int j = 0; j < SUBS16; ++j) {
            const int rounded = nearest_scalar(iscale * scale[j]);
            ls[j] = max != 0 ? (uint8_t) ((rounded < -32 ? -32 : rounded > 31 ? 31 : rounded) + 32) : 0;
        }
        d = max != 0 ? 1 / iscale : 0;
    }
    if (!fine) {
        ggufrun_stock_quantize_q3_K(src, y, 1, QK_K, imatrix);
        return;
    }
    memset(y->scales, 0, sizeof y->scales);
    y->d = ggml_fp32_to_fp16(d);
    d = ggml_fp16_to_fp32(y->d);
    for (int j = 0; j < SUBS16; ++j) {
        y->scales[j % 8] |= (uint8_t) ((ls[j] & 0xF) << (j < 8 ? 0 : 4));
        y->scales[8 + j % 4] |= (uint8_t) (ls[j] >> 4 << 2 * (j / 4));
        scale[j] = d * (ls[j] - 32);
    }
    uint8_t l[QK_K];
    for (int s = 0; s < SLICES16; ++s) {
        vf ds;
        memcpy(&ds, scale + LANES * s, sizeof ds);
        for (int i = 0; i < SUB16; ++i) {
            const vi li = clamp_int(nearest_int(x[s][i] / ds), -4, 3);
            store16(s, i, pick_int(ds == 0, kept[s][i], li) + 4, l);
        }
    }
    // The third bit of value i goes to bit i / 32 of byte i % 32.
    memset(y->hmask, 0, sizeof y->hmask);
    for (int i = 0; i < QK_K; ++i) {
        y->hmask[i % 32] |= (uint8_t) (l[i] >> 2 << i / 32);
        l[i] &= 3;
    }
    join_quarters(l, y->qs);
}

static void quantize_block_q6_K(const float * src, block_q6_K * y, const float * imatrix) {
    vf x[SLICES16][SUB16], w[SLICES16][SUB16], iscale[SLICES16];
    float scale[SUBS16];
    load16(src, x);
    if (imatrix) {
        load16(imatrix, w);
    }
    for (int s = 0; s < SLICES16; ++s) {
        for (int i = 0; !imatrix && i < SUB16; ++i) {
            w[s][i] = x[s][i] * x[s][i];
        }
        vf found;
        if (!search_scale(x[s], w[s], 32, &found, &iscale[s])) {
            ggufrun_stock_quantize_q6_K(src, y, 1, QK_K, imatrix);
            return;
        }
        memcpy(scale + LANES * s, &found, sizeof found);
    }
    const float max = largest_scale(scale);
    if (fabsf(max) < 1e-15f) {
        memset(y, 0, sizeof *y);
        return;
    }
    const float to_int = -128.f / max;
    y->d = ggml_fp32_to_fp16(1 / to_int);
    const float one = ggml_fp16_to_fp32(y->d);
    for (int j = 0; j < SUBS16; ++j) {
        const int rounded = nearest_scalar(to_int * scale[j]);
        y->scales[j] = (int8_t) (rounded < 127 ? rounded : 127);
        scale[j] = one * y->scales[j];
    }
    uint8_t l[QK_K];
    for (int s = 0; s < SLICES16; ++s) {
        vf ds;
        memcpy(&ds, scale + LANES * s, sizeof ds);
        const vi none = ds == 0;
        const bool some = any(none);
        for (int i = 0; i < SUB16; ++i) {
            vi li = clamp_int(nearest_int(x[s][i] / ds), -32, 31) + 32;
            if (some) {
                li = pick_int(none, kept_l(x[s][i], iscale[s], 32), li);
            }
            store16(s, i, li, l);
        }
    }
    for (int half = 0; half < 2; ++half) {
        const uint8_t * q = l + 128 * half;
        uint8_t * low = y->ql + 64 * half, * high = y->qh + 32 * half;
        for (int i = 0; i < 32; ++i) {
            low[i] = (uint8_t) ((q[i] & 0xF) | q[i + 64] << 4);
            low[i + 32] = (uint8_t) ((q[i + 32] & 0xF) | q[i + 96] << 4);
            high[i] = (uint8_t) (q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
        }
    }
}

// The functions that ggml_quantize_chunk calls, for the types whose blocks are done one by one.
#define QUANTIZE(TYPE)                                                                                                 \
    size_t quantize_##TYPE(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {    \
        const int64_t blocks = nrow * n_per_row / QK_K, in_row = n_per_row / QK_K;                                     \
        block_##TYPE * y = dst;                                                                                        \
        for (int64_t b = 0; b < blocks; ++b) {                                                                         \
            quantize_block_##TYPE(src + QK_K * b, y + b, imatrix ? imatrix + QK_K * (b % in_row) : NULL);              \
        }                                                                                                              \
        return (size_t) blocks * sizeof(block_##TYPE);                                                                 \
    }

QUANTIZE(q2_K)
QUANTIZE(q3_K)
QUANTIZE(q6_K)
