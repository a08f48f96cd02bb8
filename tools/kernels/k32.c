// Q4_K and Q5_K: sub-blocks of 32 values, each with a scale and a minimum.

#include "search.h"

quantize_fn ggufrun_stock_quantize_q4_K;
quantize_fn ggufrun_stock_quantize_q5_K;

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
