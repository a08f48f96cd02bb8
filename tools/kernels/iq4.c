// IQ4_NL and IQ4_XS: sub-blocks of 32 values, each a scale times one of 16 fixed numbers.

#include "search.h"

#define SUB 32          // values in a sub-block

// --- the 16 numbers --------------------------------------------------------------------------------------------------
//
// A value gets the nearer of its two neighbours. The points halfway between neighbours are whole or half numbers, and
// close to them both differences are exact: to compare the differences is to compare the value with that point. (Tried
// with every float.) A NaN gets the last number.

static const float numbers[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

#if HAVE_LOOKUP

// The halfway points as a binary tree: below node n are the nodes 2 n and 2 n + 1.
static const float halfway[16] = { 0, -4.5f, -57, 45.5f, -93.5f, -28.5f, 19, 79, -115.5f, -74, -42, -16, 7, 31.5f, 61, 101 };

// The number's index in the low four bits.
INLINE vi nearest_index(vf v) {
    vi node = 2 - ~(v < halfway[1]);
    node = 2 * node - ~(v < lookup_low(halfway, node));
    node = 2 * node - ~(v < lookup_low(halfway, node));
    return 2 * node - ~(v < lookup_high(halfway, node));
}

INLINE vf nearest_number(vf v) { return lookup16(numbers, nearest_index(v)); }

#else

static const float halfway[15] = { -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101 };

INLINE vi nearest_index(vf v) {
    vi index = {0};
    for (int i = 0; i < 15; ++i) {
        index -= ~(v < halfway[i]);
    }
    return index;
}

INLINE vf nearest_number(vf v) {
    vf number = all(numbers[0]);
    for (int i = 0; i < 15; ++i) {
        number += (vf) ((vi) all(numbers[i + 1] - numbers[i]) & ~(v < halfway[i]));
    }
    return number;
}

#endif

// --- the search ------------------------------------------------------------------------------------------------------

// The scale of a sub-block that keeps most of its weighted energy, zero where all is zero.
INLINE vf search_number_scale(const vf * x, const vf * w) {
    vf max;
    vi zero;
    largest(SUB, x, &max, &zero);
    vf scale = all(0), best = all(0);
    for (int c = -8; c <= 7; ++c) {
        // The plain scale first, then some to either side of it.
        const bool plain = c == -8;
        const vf iscale = plain ? 1 / (-max / numbers[0]) : (c + numbers[0]) / max;
        vf sum_xq = all(0), sum_q2 = all(0);
        for (int i = 0; i < SUB; ++i) {
            const vf q = nearest_number(iscale * x[i]), wq = w[i] * q;
            sum_xq += wq * x[i];
            sum_q2 += wq * q;
        }
        const vf ratio = sum_xq / sum_q2;
        if (plain) {
            scale = pick(sum_q2 > 0, ratio, all(0));
            best = scale * sum_xq;
        } else {
            const vi better = (sum_q2 > 0) & (sum_xq * sum_xq > best * sum_q2);
            scale = pick(better, ratio, scale);
            best = pick(better, ratio * sum_xq, best);
        }
    }
    return pick(zero, all(0), scale);
}

// --- blocks ----------------------------------------------------------------------------------------------------------

static void put_scale_nl(block_iq4_nl * y, const float * scale, float * iscale) {
    y->d = ggml_fp32_to_fp16(scale[0]);
    iscale[0] = scale[0] != 0 ? 1 / scale[0] : 0;
}

static void put_scales_xs(block_iq4_xs * y, const float * scale, float * iscale) {
    float size = 0, max = 0;
    for (int j = 0; j < QK_K / SUB; ++j) {
        if (fabsf(scale[j]) > size) {
            size = fabsf(scale[j]);
            max = scale[j];
        }
    }
    const float d = -max / 32, id = d != 0 ? 1 / d : 0;
    y->d = ggml_fp32_to_fp16(d);
    y->scales_h = 0;
    memset(y->scales_l, 0, sizeof y->scales_l);
    for (int j = 0; j < QK_K / SUB; ++j) {
        const int rounded = nearest_scalar(id * scale[j]), l = rounded < -32 ? -32 : rounded > 31 ? 31 : rounded;
        const float dl = d * l;
        iscale[j] = dl != 0 ? 1 / dl : 0;
        y->scales_l[j / 2] |= (uint8_t) (((l + 32) & 0xF) << 4 * (j % 2));
        y->scales_h |= (uint16_t) ((l + 32) >> 4 << 2 * j);
    }
}

INLINE size_t quantize_numbers(int subs, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    const size_t size = subs == 1 ? sizeof(block_iq4_nl) : sizeof(block_iq4_xs);
    const size_t quants = subs == 1 ? offsetof(block_iq4_nl, qs) : offsetof(block_iq4_xs, qs);
    const struct work work = work_of(SUB, subs, size, src, dst, nrow, n_per_row, imatrix);
    struct group group;
    for (int64_t first = 0; first < work.blocks; first += group.blocks) {
        group = group_at(&work, first);
        vf x[AT_ONCE / LANES][SUB];
        float scale[AT_ONCE], iscale[AT_ONCE], variance[AT_ONCE];
        for (int j = 0; imatrix && j < group.blocks * subs; ++j) {
            variance[j] = j % subs ? variance[j - 1] : sum_of_squares(group.x[j], SUB * subs) * (2.f / (SUB * subs));
        }
        for (int s = 0; s < group.slices; ++s) {
            vf w[SUB];
            load_lanes(SUB, group.x + LANES * s, x[s]);
            if (imatrix) {
                vf around;
                memcpy(&around, variance + LANES * s, sizeof around);
                load_lanes(SUB, group.importance + LANES * s, w);
                for (int i = 0; i < SUB; ++i) {
                    w[i] *= root(around + x[s][i] * x[s][i]);
                }
            } else {
                for (int i = 0; i < SUB; ++i) {
                    w[i] = x[s][i] * x[s][i];
                }
            }
            const vf found = search_number_scale(x[s], w);
            memcpy(scale + LANES * s, &found, sizeof found);
        }
        for (int g = 0; g < group.blocks; ++g) {
            if (subs == 1) {
                put_scale_nl((block_iq4_nl *) group.y[g], scale + g, iscale + g);
            } else {
                put_scales_xs((block_iq4_xs *) group.y[g], scale + subs * g, iscale + subs * g);
            }
        }
        for (int s = 0; s < group.slices; ++s) {
            vf factor;
            vi pairs[SUB / 2];
            uint8_t * to[LANES];
            memcpy(&factor, iscale + LANES * s, sizeof factor);
            for (int i = 0; i < SUB / 2; ++i) {
                const vi low = nearest_index(factor * x[s][i]), high = nearest_index(factor * x[s][i + SUB / 2]);
                pairs[i] = (low & 0xF) | (high & 0xF) << 4;
            }
            for (int k = 0; k < LANES; ++k) {
                const int j = LANES * s + k;
                to[k] = (uint8_t *) group.y[j / subs] + quants + SUB / 2 * (j % subs);
            }
            store_bytes(SUB / 2, pairs, to);
        }
    }
    return (size_t) work.blocks * size;
}

size_t quantize_iq4_nl(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    return quantize_numbers(1, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq4_xs(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    return quantize_numbers(QK_K / SUB, src, dst, nrow, n_per_row, imatrix);
}
