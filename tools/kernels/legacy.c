// Q4_0, Q4_1, Q5_0 and Q5_1 with an importance matrix: blocks of 32 values, with a scale and perhaps a minimum. Without
// a matrix there is no search, and ggml-quants.c is as quick as can be.

#include "search.h"

quantize_fn ggufrun_stock_quantize_q4_0;
quantize_fn ggufrun_stock_quantize_q4_1;
quantize_fn ggufrun_stock_quantize_q5_0;
quantize_fn ggufrun_stock_quantize_q5_1;

#define SUB 32          // values in a block

struct kind {
    int bits;
    bool with_min;
    size_t size;        // bytes of a block
    quantize_fn * stock;
};

// The l of each block, and its scale and minimum. False where ggml-quants.c must do it.
INLINE bool search(struct kind kind, const vf * x, const vf * w, vf * scale, vf * min, vi * l) {
    if (!kind.with_min) {
        const int middle = 1 << (kind.bits - 1);
        vf iscale;
        *min = all(0);
        if (!search_scale(SUB, x, w, middle, scale, &iscale)) {
            return false;
        }
        for (int i = 0; i < SUB; ++i) {
            l[i] = kept_l(x[i], iscale, middle);
        }
        return true;
    }
    struct range range;
    if (!search_range(SUB, x, w, (1 << kind.bits) - 1, WEIGHTED, &range)) {
        return false;
    }
    *scale = range.scale;
    *min = -range.min;
    for (int i = 0; i < SUB; ++i) {
        l[i] = clamp_int(nearest_int(range.iscale * (x[i] - range.base)), 0, (1 << kind.bits) - 1);
    }
    return true;
}

// A block is the scale, the minimum if there is one, the fifth bits if there are, then two values a byte.
INLINE void put_blocks(struct kind kind, const struct group * group, vf scale, vf min, const vi * l) {
    vi pairs[SUB / 2], fifth = {0};
    for (int i = 0; i < SUB / 2; ++i) {
        pairs[i] = (l[i] & 0xF) | (l[i + SUB / 2] & 0xF) << 4;
    }
    for (int i = 0; i < SUB; ++i) {
        fifth |= (l[i] >> 4 & 1) << i;
    }
    uint8_t * quants[LANES];
    for (int k = 0; k < LANES; ++k) {
        char * y = group->y[k];
        const ggml_half d = ggml_fp32_to_fp16(scale[k]), m = ggml_fp32_to_fp16(min[k]);
        memcpy(y, &d, sizeof d);
        y += sizeof d;
        if (kind.with_min) {
            memcpy(y, &m, sizeof m);
            y += sizeof m;
        }
        if (kind.bits == 5) {
            const int32_t bits = fifth[k];
            memcpy(y, &bits, sizeof bits);
            y += sizeof bits;
        }
        quants[k] = (uint8_t *) y;
    }
    store_bytes(SUB / 2, pairs, quants);
}

INLINE bool quantize_one_row(struct kind kind, const struct work * work) {
    const vf variance = all(sum_of_squares(work->src, work->blocks * SUB) / (float) (work->blocks * SUB));
    for (int64_t first = 0; first < work->blocks; first += LANES) {
        const struct group group = group_at(work, first);
        vf x[SUB], w[SUB], scale, min;
        vi l[SUB];
        load_lanes(SUB, group.x, x);
        load_lanes(SUB, group.importance, w);
        for (int i = 0; i < SUB; ++i) {
            w[i] *= root(variance + x[i] * x[i]);
        }
        if (!search(kind, x, w, &scale, &min, l)) {
            return false;
        }
        put_blocks(kind, &group, scale, min, l);
    }
    return true;
}

INLINE size_t quantize_rows(struct kind kind, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    if (!imatrix) {
        return kind.stock(src, dst, nrow, n_per_row, NULL);
    }
    const size_t row_size = (size_t) (n_per_row / SUB) * kind.size;
    for (int64_t row = 0; row < nrow; ++row) {
        const float * from = src + n_per_row * row;
        char * to = (char *) dst + row_size * (size_t) row;
        const struct work work = work_of(SUB, 1, kind.size, from, to, 1, n_per_row, imatrix);
        if (!quantize_one_row(kind, &work)) {
            kind.stock(from, to, 1, n_per_row, imatrix);
        }
    }
    return (size_t) nrow * row_size;
}

#define QUANTIZE(TYPE, BITS, WITH_MIN)                                                                                 \
    size_t quantize_##TYPE(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {    \
        const struct kind kind = { BITS, WITH_MIN, sizeof(block_##TYPE), ggufrun_stock_quantize_##TYPE };              \
        return quantize_rows(kind, src, dst, nrow, n_per_row, imatrix);                                                \
    }

QUANTIZE(q4_0, 4, false)
QUANTIZE(q4_1, 4, true)
QUANTIZE(q5_0, 5, false)
QUANTIZE(q5_1, 5, true)
