// IQ1_S and IQ1_M: the values are -1, 0 or 1, all a little more or a little less, times a scale; eight are a grid's point.
//
// ggml-quants.c sorts the values of a sub-block and tries every place for the two borders between -1, 0 and 1. Sorting,
// too, is done a sub-block a lane here, by Batcher's network, which always compares the same places.

#include "points.h"

#include <stdlib.h>

#define MOST 32             // values in the largest sub-block

struct kind {
    bool halves;            // IQ1_M: sub-blocks of 16 values, and each half has its own sign of delta
    int n, subs;            // values in a sub-block, sub-blocks in a block
    size_t size;            // bytes of a block
    float least;            // sub-blocks with nothing as large are zeros
};

#define DELTA 0.125f

// What the three levels stand for, with delta above and below. (The fourth is not used.)
static const float plus[4] = { -1 + DELTA, DELTA, 1 + DELTA, 0 }, minus[4] = { -1 - DELTA, -DELTA, 1 - DELTA, 0 };

// --- sorting ---------------------------------------------------------------------------------------------------------

struct pair {
    float value;
    int index;
};

static int compare_pairs(const void * left, const void * right) {
    const float l = ((const struct pair *) left)->value, r = ((const struct pair *) right)->value;
    return l < r ? -1 : l > r ? 1 : 0;
}

// Whether qsort leaves equal values in their order here. The C standard does not say; nearly every Linux does.
static bool sorts_stably(void) {
    uint32_t random = 1;
    for (int trial = 0; trial < 4; ++trial) {
        struct pair pairs[MOST];
        for (int i = 0; i < MOST; ++i) {
            random = random * 1664525 + 1013904223;
            pairs[i] = (struct pair) { (float) (random >> 30), i };
        }
        qsort(pairs, MOST, sizeof *pairs, compare_pairs);
        for (int i = 1; i < MOST; ++i) {
            if (pairs[i].value == pairs[i - 1].value && pairs[i].index < pairs[i - 1].index) {
                return false;
            }
        }
    }
    return true;
}

INLINE void order_pair(vf * x, vi * index, int i, int j) {
    const vi swap = (x[i] > x[j]) | ((x[i] == x[j]) & (index[i] > index[j]));
    const vf low = pick(swap, x[j], x[i]), high = pick(swap, x[i], x[j]);
    const vi first = pick_int(swap, index[j], index[i]), second = pick_int(swap, index[i], index[j]);
    x[i] = low;
    x[j] = high;
    index[i] = first;
    index[j] = second;
}

// Where the values come from, in ascending order, as qsort leaves them.
INLINE void sort_lanes(int n, const vf * values, bool stable, vi * index) {
    vf x[MOST];
    for (int i = 0; i < n; ++i) {
        x[i] = values[i];
        index[i] = (vi) {0} + i;
    }
    for (int p = 1; p < n; p *= 2) {
        for (int k = p; k >= 1; k /= 2) {
            for (int j = k % p; j + k < n; j += 2 * k) {
                for (int i = j; i < j + k && i + k < n; ++i) {
                    if (i / (2 * p) == (i + k) / (2 * p)) {
                        order_pair(x, index, i, i + k);
                    }
                }
            }
        }
    }
    if (stable) {
        return;
    }
    vi tied = {0};
    for (int i = 1; i < n; ++i) {
        tied |= x[i] == x[i - 1];
    }
    for (int k = 0; k < LANES; ++k) {
        if (tied[k]) {
            struct pair pairs[MOST];
            for (int i = 0; i < n; ++i) {
                pairs[i] = (struct pair) { values[i][k], i };
            }
            qsort(pairs, (size_t) n, sizeof *pairs, compare_pairs);
            for (int i = 0; i < n; ++i) {
                index[i][k] = pairs[i].index;
            }
        }
    }
}

// --- the borders -----------------------------------------------------------------------------------------------------

// The best borders so far: sorted values from `first` on are 0, from `second` on 1. `sign` is a number from 0 on: with
// halves bit 1 for the first half and bit 0 for the second one, else bit 0, set where delta is below. -1: none yet.
struct borders {
    vf scale, best;
    vi first, second, sign;
};

INLINE void try_borders(struct borders * b, vf sum_xq, vf sum_q2, int first, int second, int sign) {
    const vi better = (sum_q2 > 0) & (sum_xq * sum_xq > b->best * sum_q2);
    if (any(better)) {
        const vf ratio = sum_xq / sum_q2;
        b->scale = pick(better, ratio, b->scale);
        b->best = pick(better, ratio * sum_xq, b->best);
        b->first = pick_int(better, (vi) {0} + first, b->first);
        b->second = pick_int(better, (vi) {0} + second, b->second);
        b->sign = pick_int(better, (vi) {0} + sign, b->sign);
    }
}

// `wx` and `w` in the order of the values. Sums from the first one on give those of every part.
INLINE void search_borders(const vf * wx, const vf * w, struct borders * b) {
    enum { N = 32 };
    vf sum_x[N + 1], sum_w[N + 1], last_x[2][N + 1], last_w[2][N + 1];
    sum_x[0] = sum_w[0] = all(0);
    for (int j = 0; j < N; ++j) {
        sum_x[j + 1] = sum_x[j] + wx[j];
        sum_w[j + 1] = sum_w[j] + w[j];
    }
    for (int j = 0; j <= N; ++j) {
        for (int s = 0; s < 2; ++s) {
            const float value = (s ? minus : plus)[2];
            last_x[s][j] = (sum_x[N] - sum_x[j]) * value;
            last_w[s][j] = (sum_w[N] - sum_w[j]) * value * value;
        }
    }
    for (int i = 0; i <= N; ++i) {
        const vf first_x[2] = { sum_x[i] * plus[0], sum_x[i] * minus[0] };
        const vf first_w[2] = { sum_w[i] * plus[0] * plus[0], sum_w[i] * minus[0] * minus[0] };
        for (int j = i; j <= N; ++j) {
            const vf x = sum_x[j] - sum_x[i], weight = sum_w[j] - sum_w[i];
            for (int s = 0; s < 2; ++s) {
                const float value = (s ? minus : plus)[1];
                try_borders(b, first_x[s] + x * value + last_x[s][j], first_w[s] + weight * value * value + last_w[s][j],
                    i, j, s);
            }
        }
    }
}

// The same with a sign of delta for each half; `second_half` says where the sorted values come from.
INLINE void search_borders_of_halves(const vf * wx, const vf * w, const vi * second_half, struct borders * b) {
    enum { N = 16 };
    vf sum_x[2][N + 1], sum_w[2][N + 1];
    for (int h = 0; h < 2; ++h) {
        sum_x[h][0] = sum_w[h][0] = all(0);
        for (int j = 0; j < N; ++j) {
            const vi here = h ? second_half[j] : ~second_half[j];
            sum_x[h][j + 1] = pick(here, sum_x[h][j] + wx[j], sum_x[h][j]);
            sum_w[h][j + 1] = pick(here, sum_w[h][j] + w[j], sum_w[h][j]);
        }
    }
    for (int i = 0; i <= N; ++i) {
        for (int j = i; j <= N; ++j) {
            vf xq[2][2], q2[2][2];
            for (int h = 0; h < 2; ++h) {
                for (int s = 0; s < 2; ++s) {
                    const float * q = s ? minus : plus;
                    xq[h][s] = sum_x[h][N] * q[2] - (sum_x[h][i] + sum_x[h][j]);
                    q2[h][s] = sum_w[h][N] * q[2] * q[2] + sum_w[h][i] * (q[0] * q[0] - q[1] * q[1])
                        + sum_w[h][j] * (q[1] * q[1] - q[2] * q[2]);
                }
            }
            for (int sign = 0; sign < 4; ++sign) {
                try_borders(b, xq[0][sign / 2] + xq[1][sign % 2], q2[0][sign / 2] + q2[1][sign % 2], i, j, sign);
            }
        }
    }
}

// --- sub-blocks ------------------------------------------------------------------------------------------------------

struct stored {
    float scale[AT_ONCE];
    int sign[AT_ONCE];
    uint16_t index[AT_ONCE][MOST / 8];
    uint32_t code[AT_ONCE][MOST / 8];
    bool refused[AT_ONCE];
};

// Which values the eight of group g are.
INLINE const float * values_of(struct kind kind, int sign, int g) {
    return (kind.halves && g == 0 ? sign / 2 : sign % 2) ? minus : plus;
}

// One sub-block, from its levels on: the grid's points and the scale for them.
static void put_on_grid(struct kind kind, const float * x, const float * w, const uint8_t * level, int j,
        struct stored * stored) {
    const struct grid * grid = &ggufrun_grids[GRID_IQ1];
    const int sign = stored->sign[j];
    bool all_on_grid = true;
    for (int g = 0; g < kind.n / 8; ++g) {
        int number = 0;
        for (int i = 0; i < 8; ++i) {
            number = 3 * number + level[8 * g + i];
        }
        const uint16_t rounded = (uint16_t) number;
        all_on_grid &= grid->near[number].vectors == 0;
        search_points(SHAPE_2BIT, grid, 1, 1, values_of(kind, sign, g), x + 8 * g, w + 8 * g, &stored->scale[j], &rounded,
            &stored->code[j][g]);
        number = 0;
        for (int i = 0; i < 8; ++i) {
            number = 3 * number + (int) (stored->code[j][g] >> 4 * i & 3);
        }
        stored->index[j][g] = grid->index[number];
    }
    if (all_on_grid) {
        return;
    }
    float sum_xq = 0, sum_q2 = 0;
    for (int i = 0; i < kind.n; ++i) {
        const float q = values_of(kind, sign, i / 8)[stored->code[j][i / 8] >> 4 * (i % 8) & 3];
        sum_xq += w[i] * q * x[i];
        sum_q2 += w[i] * q * q;
    }
    if (sum_xq > 0 && sum_q2 > 0) {
        stored->scale[j] = sum_xq / sum_q2;
    }
}

// Sub-blocks `first` to `first` + LANES with their weights; both are emptied where the distances could overflow.
INLINE void quantize_slice(struct kind kind, vf * x, vf * w, bool stable, int first, struct stored * stored) {
    vf largest = all(0), weight = all(0);
    vi fine = (vi) {0} - 1;
    for (int i = 0; i < kind.n; ++i) {
        fine &= (absolute(x[i]) < FLT_MAX) & (w[i] >= 0) & (w[i] < FLT_MAX);
        largest = pick(absolute(x[i]) > largest, absolute(x[i]), largest);
        weight = pick(w[i] > weight, w[i], weight);
    }
    // For each of 8 values a distance is at most the weight times the square of the value and twice the scale.
    fine &= 8 * 16 * weight * largest * largest < FLT_MAX / 2;
    for (int i = 0; any(~fine) && i < kind.n; ++i) {
        x[i] = pick(fine, x[i], all(0));
        w[i] = pick(fine, w[i], all(0));
    }
    vi index[MOST];
    sort_lanes(kind.n, x, stable, index);
    float x_of[LANES][MOST], w_of[LANES][MOST];
    for (int i = 0; i < kind.n; ++i) {
        for (int k = 0; k < LANES; ++k) {
            x_of[k][i] = x[i][k];
            w_of[k][i] = w[i][k];
        }
    }
    vf sorted_wx[MOST], sorted_w[MOST];
    for (int j = 0; j < kind.n; ++j) {
        vf value;
        for (int k = 0; k < LANES; ++k) {
            value[k] = x_of[k][index[j][k]];
            sorted_w[j][k] = w_of[k][index[j][k]];
        }
        sorted_wx[j] = sorted_w[j] * value;
    }
    const vi none = (vi) {0} - 1;
    struct borders borders = { largest, all(-FLT_MAX), none, none, none };
    if (kind.halves) {
        vi second_half[MOST];
        for (int j = 0; j < kind.n; ++j) {
            second_half[j] = index[j] >= kind.n / 2;
        }
        search_borders_of_halves(sorted_wx, sorted_w, second_half, &borders);
    } else {
        search_borders(sorted_wx, sorted_w, &borders);
    }
    for (int k = 0; k < LANES; ++k) {
        const int sub = first + k;
        stored->refused[sub] = !fine[k];
        memset(stored->index[sub], 0, sizeof stored->index[sub]);
        // What the grid's first point is.
        for (int g = 0; g < kind.n / 8; ++g) {
            stored->code[sub][g] = ggufrun_grids[GRID_IQ1].codes[ggufrun_grids[GRID_IQ1].near[0].first];
        }
        stored->scale[sub] = 0;
        stored->sign[sub] = 0;
        if (largest[k] < kind.least || borders.sign[k] < 0 || !fine[k]) {
            continue;
        }
        // A scale below zero turns the levels and the signs of delta.
        const bool turned = borders.scale[k] < 0;
        stored->scale[sub] = turned ? -borders.scale[k] : borders.scale[k];
        stored->sign[sub] = turned ? borders.sign[k] ^ (kind.halves ? 3 : 1) : borders.sign[k];
        uint8_t level[MOST];
        for (int j = 0; j < kind.n; ++j) {
            const int l = j < borders.first[k] ? 0 : j < borders.second[k] ? 1 : 2;
            level[index[j][k]] = (uint8_t) (turned ? 2 - l : l);
        }
        put_on_grid(kind, x_of[k], w_of[k], level, sub, stored);
    }
}

// --- blocks ----------------------------------------------------------------------------------------------------------

INLINE float largest_of(int n, const float * scale) {
    float max = 0;
    for (int j = 0; j < n; ++j) {
        max = max > scale[j] ? max : scale[j];
    }
    return max;
}

// A scale as a whole number of 3 bits, l for 2 l + 1.
INLINE int round_scale(float scale, float id) {
    const int rounded = nearest_scalar(0.5f * (id * scale - 1));
    return rounded < 0 ? 0 : rounded > 7 ? 7 : rounded;
}

static void put_iq1_s(block_iq1_s * y, const struct stored * from, int first) {
    const float max = largest_of(8, from->scale + first), d = max / 15, id = 1 / d;
    y->d = ggml_fp32_to_fp16(d * 1.125f);
    for (int j = 0; j < 8; ++j) {
        int high = 0;
        for (int g = 0; g < 4; ++g) {
            y->qs[4 * j + g] = (uint8_t) from->index[first + j][g];
            high |= from->index[first + j][g] >> 8 << 3 * g;
        }
        if (max != 0) {
            high |= (round_scale(from->scale[first + j], id) | from->sign[first + j] << 3) << 12;
        }
        y->qh[j] = (uint16_t) high;
    }
}

// The half-precision scale is in four parts, above the sub-blocks' own.
static void put_scale_iq1_m(block_iq1_m * y, float d) {
    const ggml_half half = ggml_fp32_to_fp16(d);
    uint16_t bits, words[4];
    memcpy(&bits, &half, sizeof bits);
    memcpy(words, y->scales, sizeof words);
    for (int i = 0; i < 4; ++i) {
        words[i] |= (uint16_t) ((bits >> 4 * i & 0xF) << 12);
    }
    memcpy(y->scales, words, sizeof words);
}

// `x` and `w` are the block's values and weights: the scale is the best one for all that is stored.
static void put_iq1_m(block_iq1_m * y, const struct stored * from, int first, const float * x, const float * w) {
    const float max = largest_of(16, from->scale + first), d = max / 15, id = 1 / d;
    uint16_t words[4] = {0};
    float sum_xq = 0, sum_q2 = 0;
    for (int j = 0; j < 16; ++j) {
        const struct stored * s = from;
        const int sub = first + j, sign = s->sign[sub];
        y->qs[2 * j] = (uint8_t) s->index[sub][0];
        y->qs[2 * j + 1] = (uint8_t) s->index[sub][1];
        y->qh[j] = (uint8_t) (s->index[sub][0] >> 8 | s->index[sub][1] >> 8 << 4);
        if (max == 0) {
            continue;
        }
        const int l = round_scale(s->scale[sub], id);
        y->qh[j] |= (uint8_t) ((sign & 1) << 7 | (sign & 2) << 2);
        words[j / 4] |= (uint16_t) (l << 3 * (j % 4));
        for (int i = 0; i < 16; ++i) {
            const float * values = (i < 8 ? sign / 2 : sign % 2) ? minus : plus;
            const float q = values[s->code[sub][i / 8] >> 4 * (i % 8) & 3] * (2 * l + 1);
            sum_xq += w[16 * j + i] * q * x[16 * j + i];
            sum_q2 += w[16 * j + i] * q * q;
        }
    }
    memcpy(y->scales, words, sizeof words);
    if (max != 0) {
        put_scale_iq1_m(y, (sum_q2 > 0 ? sum_xq / sum_q2 : d) * 1.1125f);
    }
}

static void refuse(struct kind kind, char * y) {
    memset(y, 0, kind.size);
    if (kind.halves) {
        put_scale_iq1_m((block_iq1_m *) y, INFINITY);
    } else {
        ((block_iq1_s *) y)->d = ggml_fp32_to_fp16(INFINITY);
    }
}

INLINE size_t quantize(struct kind kind, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    const struct work work = work_of(kind.n, kind.subs, kind.size, src, dst, nrow, n_per_row, imatrix);
    GGML_ASSERT(ggufrun_grids[GRID_IQ1].near && "ggml_quantize_init was not called");
    const bool stable = sorts_stably();
    struct group group;
    for (int64_t at = 0; at < work.blocks; at += group.blocks) {
        group = group_at(&work, at);
        struct stored stored;
        float variance[AT_ONCE], weights[AT_ONCE * MOST];
        for (int j = 0; j < group.blocks * kind.subs; ++j) {
            variance[j] = j % kind.subs ? variance[j - 1] : 2 * sum_of_squares(group.x[j], QK_K) / QK_K;
        }
        for (int s = 0; s < group.slices; ++s) {
            vf x[MOST], w[MOST], around;
            memcpy(&around, variance + LANES * s, sizeof around);
            load_lanes(kind.n, group.x + LANES * s, x);
            if (imatrix) {
                load_lanes(kind.n, group.importance + LANES * s, w);
            }
            for (int i = 0; i < kind.n; ++i) {
                w[i] = imatrix ? w[i] * root(around + x[i] * x[i]) : x[i] * x[i];
                for (int k = 0; k < LANES; ++k) {
                    weights[kind.n * (LANES * s + k) + i] = w[i][k];
                }
            }
            quantize_slice(kind, x, w, stable, LANES * s, &stored);
        }
        for (int g = 0; g < group.blocks; ++g) {
            const int first = kind.subs * g;
            bool refused = false;
            for (int j = 0; j < kind.subs; ++j) {
                refused |= stored.refused[first + j];
            }
            if (refused) {
                refuse(kind, group.y[g]);
            } else if (kind.halves) {
                put_iq1_m((block_iq1_m *) group.y[g], &stored, first, group.x[first], weights + kind.n * first);
            } else {
                put_iq1_s((block_iq1_s *) group.y[g], &stored, first);
            }
        }
    }
    return (size_t) work.blocks * kind.size;
}

size_t quantize_iq1_s(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    GGML_ASSERT(imatrix && "missing quantization weights");
    const struct kind kind = { false, 32, 8, sizeof(block_iq1_s), 1e-12f };
    return quantize(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq1_m(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { true, 16, 16, sizeof(block_iq1_m), 1e-7f };
    return quantize(kind, src, dst, nrow, n_per_row, imatrix);
}
