// Q2_K, Q3_K and Q6_K: sub-blocks of 16 values.

#include "search.h"

quantize_fn ggufrun_stock_quantize_q2_K;
quantize_fn ggufrun_stock_quantize_q3_K;
quantize_fn ggufrun_stock_quantize_q6_K;

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

// The scale of 16 values and their l in [-4, 4), improved one by one, as make_q3_quants does it. l is -4 where all is
// zero. False where ggml-quants.c must do it.
INLINE bool search_one_by_one(const vf * x, vf * found, vi * l) {
    vf max;
    vi zero;
    if (!largest(SUB16, x, &max, &zero)) {
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
            fine = search_scale(SUB16, x[s], w[s], 4, &found, &iscale);
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
        fine = search_scale(SUBS16, one, weight, 32, &found, &iscale);
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
        if (!search_scale(SUB16, x[s], w[s], 32, &found, &iscale[s])) {
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
