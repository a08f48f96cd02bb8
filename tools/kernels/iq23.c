// IQ3_XXS, IQ3_S, IQ2_XXS, IQ2_XS and IQ2_S: a sub-block is a scale, signs, and points of a grid for the magnitudes.
//
// For every candidate scale each point's values are rounded, and where that is no point of the grid the nearby ones are
// tried, which takes nearly all of the time (points.h).

#include "iq23_blocks.h"
#include "points.h"
#include "search.h"

#define MOST_TRIES 31           // candidate scales

// What differs between the types.
struct kind {
    enum ggml_type type;
    enum grid_name grid;
    struct shape shape;
    int n, subs;                // values in a sub-block, sub-blocks in a block
    size_t size;                // bytes of a block
    int tries;                  // candidates to either side of the plain scale
    float step;
    float least;                // sub-blocks with nothing above it are zeros
    bool even;                  // of 8 signs an even number is minus; the last one is not stored
    bool again_all;             // the last search is for all points, else for those only that are off the grid
    bool again_always;          // and is done even if all are on the grid
};

INLINE int groups_of(struct kind kind) { return kind.n / kind.shape.width; }

// A sub-block a lane.
struct subs {
    vf x[MOST];                 // magnitudes; the value that an even number of signs costs most cheaply is below zero
    vf w[MOST], wx[MOST];       // weights, and their products with x
    vf max;
    vi signs[MOST / 8];         // bit i: value i of these 8 was below zero
    vi dead;                    // nothing to search
};

// --- the search for the scale ----------------------------------------------------------------------------------------

// What a level stands for.
static const float odd_numbers[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };

// The points' numbers and codes for some scales: [scale][group][lane].
struct points {
    uint16_t number[MOST_TRIES * MOST_GROUPS * LANES];
    uint32_t code[MOST_TRIES * MOST_GROUPS * LANES];
};

// Rounds the values of a group for the inverse scale, and puts the number of the point that they make.
INLINE void round_group(struct kind kind, const vf * x, vf inverse, uint16_t * number) {
    vi n = {0};
    for (int i = 0; i < kind.shape.width; ++i) {
        n = n * kind.shape.levels + clamp_int(nearest_int(0.5f * (inverse * x[i] - 1)), 0, kind.shape.levels - 1);
    }
    for (int k = 0; k < LANES; ++k) {
        number[k] = (uint16_t) n[k];
    }
}

// The codes of all groups in all lanes for `count` scales.
INLINE void search_all_points(struct kind kind, const struct grid * grid, const struct subs * subs, int count,
        const float * scale, struct points * points) {
    const int groups = groups_of(kind), apart = groups * LANES;
    float x[LANES][MOST], w[LANES][MOST];
    for (int i = 0; i < kind.n; ++i) {
        const vf square_root = root(subs->w[i]);
        for (int k = 0; k < LANES; ++k) {
            x[k][i] = subs->x[i][k];
            w[k][i] = square_root[k];
        }
    }
    for (int k = 0; k < LANES; ++k) {
        for (int g = 0; g < groups; ++g) {
            const int at = LANES * g + k, first = kind.shape.width * g;
            search_points(kind.shape, grid, count, apart, odd_numbers, x[k] + first, w[k] + first, scale + k,
                points->number + at, points->code + at);
        }
    }
}

// Both sums of the least squares for the codes of one scale.
INLINE void sum_points(struct kind kind, const struct subs * subs, const vi * code, vf * sum_xq, vf * sum_q2) {
    *sum_xq = *sum_q2 = all(0);
    for (int g = 0; g < groups_of(kind); ++g) {
        for (int i = 0; i < kind.shape.width; ++i) {
            const int at = kind.shape.width * g + i;
            const vf q = to_float(2 * ((code[g] >> 4 * i) & (kind.shape.stride - 1)) + 1);
            *sum_xq += subs->wx[at] * q;
            *sum_q2 += subs->w[at] * q * q;
        }
    }
}

INLINE vi load_codes(const uint32_t * code) {
    vi v;
    memcpy(&v, code, sizeof v);
    return v;
}

// The scale of each sub-block, and its points' codes. `start` is the scale to begin with, `top` what the largest level
// times the scale should come to.
INLINE vf search_scale_and_points(struct kind kind, const struct grid * grid, const struct subs * subs, vf start, vf top,
        vi * best_code) {
    const int groups = groups_of(kind), count = 2 * kind.tries + 1;
    struct points points;
    float tried[MOST_TRIES * LANES];
    for (int c = 0; c < count; ++c) {
        const vf inverse = (2 * kind.shape.levels - 1 + (c - kind.tries) * kind.step) / top;
        const vf this = 1 / inverse;
        memcpy(tried + LANES * c, &this, sizeof this);
        for (int g = 0; g < groups; ++g) {
            round_group(kind, subs->x + kind.shape.width * g, inverse, points.number + LANES * (groups * c + g));
        }
    }
    search_all_points(kind, grid, subs, count, tried, &points);
    vf scale = start, best = all(0);
    vi best_try = (vi) {0} - 1;
    for (int g = 0; g < groups; ++g) {
        best_code[g] = (vi) {0} + (int32_t) grid->codes[grid->near[0].first];
    }
    for (int c = 0; c < count; ++c) {
        vi code[MOST_GROUPS];
        for (int g = 0; g < groups; ++g) {
            code[g] = load_codes(points.code + LANES * (groups * c + g));
        }
        vf sum_xq, sum_q2;
        sum_points(kind, subs, code, &sum_xq, &sum_q2);
        const vf ratio = sum_xq / sum_q2;
        const vi better = (sum_q2 > 0) & (sum_xq * sum_xq > best * sum_q2);
        scale = pick(better, ratio, scale);
        best = pick(better, ratio * sum_xq, best);
        best_try = pick_int(better, (vi) {0} + c, best_try);
        for (int g = 0; g < groups; ++g) {
            best_code[g] = pick_int(better, code[g], best_code[g]);
        }
    }
    // Once more with the scale that was found.
    vi off[MOST_GROUPS], some = {0};
    for (int g = 0; g < groups; ++g) {
        off[g] = (vi) {0};
        for (int k = 0; k < LANES; ++k) {
            const int at = best_try[k] < 0 ? -1 : LANES * (groups * best_try[k] + g) + k;
            const bool is_off = at < 0 ? kind.again_all : grid->near[points.number[at]].vectors != 0;
            off[g][k] = is_off ? -1 : 0;
        }
        some |= off[g];
    }
    const vi again = (scale > 0) & ~subs->dead & (kind.again_always ? (vi) {0} - 1 : some);
    if (!any(again)) {
        return scale;
    }
    const vf this = pick(again, scale, all(1)), inverse = 1 / this;
    memcpy(tried, &this, sizeof this);
    for (int g = 0; g < groups; ++g) {
        round_group(kind, subs->x + kind.shape.width * g, inverse, points.number + LANES * g);
    }
    search_all_points(kind, grid, subs, 1, tried, &points);
    for (int g = 0; g < groups; ++g) {
        const vi these = kind.again_all ? again : again & off[g];
        best_code[g] = pick_int(these, load_codes(points.code + LANES * g), best_code[g]);
    }
    vf sum_xq, sum_q2;
    sum_points(kind, subs, best_code, &sum_xq, &sum_q2);
    return pick(again & (sum_q2 > 0), sum_xq / sum_q2, scale);
}

// --- IQ2_XXS begins with another search ------------------------------------------------------------------------------

// The scale of 32 values as whole numbers up to 4, weighted, as make_qp_quants does it. A number is a byte there, and one
// below zero wraps.
INLINE vf search_whole_numbers(const vf * x, const vf * w, vf max) {
    vf iscale = 4 / max, least = all(0);
    const vf plain = 1 / iscale;
    vi l[MOST];
    for (int i = 0; i < MOST; ++i) {
        const vf diff = x[i] - plain * to_float(nearest_int(iscale * x[i]) & 0xFF);
        least += w[i] * diff * diff;
    }
    for (int c = -4; c <= 4; ++c) {
        if (c == 0) {
            continue;
        }
        const vf other = (0.1f * c + 4) / max, step = 1 / other;
        vf error = all(0);
        for (int i = 0; i < MOST; ++i) {
            const vi rounded = nearest_int(other * x[i]);
            const vf diff = x[i] - step * to_float(pick_int(rounded < 4, rounded, (vi) {0} + 4));
            error += w[i] * diff * diff;
        }
        const vi better = error < least;
        least = pick(better, error, least);
        iscale = pick(better, other, iscale);
    }
    vf sum_xl = all(0), sum_l2 = all(0);
    for (int i = 0; i < MOST; ++i) {
        const vi rounded = nearest_int(iscale * x[i]), top = pick_int(rounded < 4, rounded, (vi) {0} + 4);
        const vf lf = to_float(top);
        l[i] = top & 0xFF;
        sum_xl += w[i] * x[i] * lf;
        sum_l2 += w[i] * lf * lf;
    }
    bool changed = true;
    for (int attempt = 0; attempt < 5 && changed; ++attempt) {
        vi changes = {0};
        for (int i = 0; i < MOST; ++i) {
            const vf lf = to_float(l[i]);
            vf xl = sum_xl - w[i] * x[i] * lf, l2 = sum_l2 - w[i] * lf * lf;
            const vi rounded = nearest_int(x[i] * l2 / xl), top = pick_int(rounded < 4, rounded, (vi) {0} + 4);
            const vf of = to_float(top);
            const vi may = (xl > 0) & (l2 > 0) & (top != l[i]);
            xl += w[i] * x[i] * of;
            l2 += w[i] * of * of;
            const vi better = may & (xl * xl * sum_l2 > sum_xl * sum_xl * l2);
            l[i] = pick_int(better, top & 0xFF, l[i]);
            sum_xl = pick(better, xl, sum_xl);
            sum_l2 = pick(better, l2, sum_l2);
            changes |= better;
        }
        changed = any(changes);
    }
    return pick(sum_l2 > 0, sum_xl / sum_l2, all(0));
}

// --- sub-blocks ------------------------------------------------------------------------------------------------------

// Magnitudes and signs from `subs->x` with `subs->w`.
INLINE void split_signs(struct kind kind, struct subs * subs) {
    for (int g = 0; g < kind.n / 8; ++g) {
        vf * x = subs->x + 8 * g;
        const vf * w = subs->w + 8 * g;
        vi bits = {0}, odd = {0}, cheapest = {0};
        vf least = w[0] * x[0] * x[0];
        for (int i = 0; i < 8; ++i) {
            const vi minus = ~(x[i] >= 0);
            bits |= minus & (1 << i);
            odd ^= minus;
            const vf cost = w[i] * x[i] * x[i];
            const vi cheaper = cost < least;
            least = pick(cheaper, cost, least);
            cheapest = pick_int(cheaper, (vi) {0} + i, cheapest);
            x[i] = pick(minus, -x[i], x[i]);
        }
        for (int i = 0; kind.even && i < 8; ++i) {
            const vi turned = odd & (cheapest == i);
            x[i] = pick(turned, -x[i], x[i]);
            bits ^= turned & (1 << i);
        }
        subs->signs[g] = kind.even ? bits & 127 : bits;
    }
    subs->max = subs->x[0];
    for (int i = 0; i < kind.n; ++i) {
        subs->max = pick(subs->max > subs->x[i], subs->max, subs->x[i]);
        subs->wx[i] = subs->w[i] * subs->x[i];
    }
    subs->dead = kind.least > 0 ? subs->max < kind.least : subs->max == 0;
    subs->max = pick(subs->dead, all(1), subs->max);
}

// Notes and empties sub-blocks whose distances could overflow, so that no nearby point would be found: values that are not
// finite, or of some hundred thousand millions. (A distance is at most the root of a weight times the square of a level's
// value, 15, times the scale, at most the largest value, for each of 8 values.)
INLINE void check(struct kind kind, struct subs * subs, int first, struct stored * stored) {
    vf largest = all(0), weight = all(0);
    vi fine = (vi) {0} - 1;
    for (int i = 0; i < kind.n; ++i) {
        fine &= (absolute(subs->x[i]) < FLT_MAX) & (subs->w[i] >= 0) & (subs->w[i] < FLT_MAX);
        largest = pick(absolute(subs->x[i]) > largest, absolute(subs->x[i]), largest);
        weight = pick(subs->w[i] > weight, subs->w[i], weight);
    }
    fine &= 8 * 16 * 16 * root(weight) * largest * largest < FLT_MAX / 2;
    for (int k = 0; k < LANES; ++k) {
        stored->refused[first + k] = !fine[k];
    }
    for (int i = 0; any(~fine) && i < kind.n; ++i) {
        subs->x[i] = pick(fine, subs->x[i], all(0));
        subs->w[i] = pick(fine, subs->w[i], all(0));
    }
}

// Sub-blocks `first` to `first` + LANES.
INLINE void quantize_slice(struct kind kind, const struct grid * grid, struct subs * subs, int first,
        struct stored * stored) {
    check(kind, subs, first, stored);
    split_signs(kind, subs);
    const int groups = groups_of(kind), top = 2 * kind.shape.levels - 1;
    vf start = subs->max / (float) top, largest_value = subs->max;
    if (kind.type == GGML_TYPE_IQ2_XXS) {
        start = search_whole_numbers(subs->x, subs->w, subs->max);
        largest_value = start * 3;
        subs->dead |= largest_value <= 0;
        largest_value = pick(subs->dead, all(1), largest_value);
    }
    vi code[MOST_GROUPS];
    vf scale = search_scale_and_points(kind, grid, subs, start, largest_value, code);
    const vi minus = scale < 0;
    scale = pick(minus, -scale, scale);
    scale = pick(subs->dead, all(0), scale);
    memcpy(stored->scale + first, &scale, sizeof scale);
    for (int g = 0; g < kind.n / 8; ++g) {
        const vi signs = (subs->signs[g] ^ minus) & (kind.even ? 127 : 255) & ~subs->dead;
        for (int k = 0; k < LANES; ++k) {
            stored->signs[first + k][g] = (uint8_t) signs[k];
        }
    }
    for (int g = 0; g < groups; ++g) {
        vi number = {0};
        for (int i = 0; i < kind.shape.width; ++i) {
            number = number * kind.shape.levels + ((code[g] >> 4 * i) & (kind.shape.stride - 1));
        }
        for (int k = 0; k < LANES; ++k) {
            stored->index[first + k][g] = subs->dead[k] ? 0 : grid->index[number[k]];
        }
    }
    for (int k = 0; k < LANES; ++k) {
        stored->dead[first + k] = subs->dead[k];
    }
}

// --- blocks ----------------------------------------------------------------------------------------------------------

INLINE void put_block(struct kind kind, char * y, const struct stored * from, int first) {
    switch (kind.type) {
        case GGML_TYPE_IQ3_XXS: put_iq3_xxs((block_iq3_xxs *) y, from, first); break;
        case GGML_TYPE_IQ3_S:   put_iq3_s((block_iq3_s *) y, from, first); break;
        case GGML_TYPE_IQ2_XXS: put_iq2_xxs((block_iq2_xxs *) y, from, first); break;
        case GGML_TYPE_IQ2_XS:  put_iq2_xs((block_iq2_xs *) y, from, first); break;
        default:                put_iq2_s((block_iq2_s *) y, from, first); break;
    }
}

static bool some_of(int n, const bool * flags) {
    bool some = false;
    for (int j = 0; j < n; ++j) {
        some |= flags[j];
    }
    return some;
}

// Weights as the type has them; `energy` is the sum of the block's squares.
INLINE void weigh(struct kind kind, const struct group * group, int first, const float * energy, struct subs * subs) {
    vf sum;
    memcpy(&sum, energy + first, sizeof sum);
    const bool half = kind.type == GGML_TYPE_IQ2_XXS || kind.type == GGML_TYPE_IQ2_XS;
    const vf variance = half ? sum / QK_K : 2 * sum / QK_K;
    if (group->importance[0]) {
        load_lanes(kind.n, group->importance + first, subs->w);
        for (int i = 0; i < kind.n; ++i) {
            subs->w[i] *= root(variance + subs->x[i] * subs->x[i]);
        }
    } else {
        for (int i = 0; i < kind.n; ++i) {
            const vf square = subs->x[i] * subs->x[i];
            subs->w[i] = kind.type == GGML_TYPE_IQ2_S ? 0.25f * variance + square : square;
        }
    }
}

INLINE size_t quantize_points(struct kind kind, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    const struct work work = work_of(kind.n, kind.subs, kind.size, src, dst, nrow, n_per_row, imatrix);
    const struct grid * grid = &ggufrun_grids[kind.grid];
    GGML_ASSERT(grid->near && "ggml_quantize_init was not called");
    struct group group;
    for (int64_t at = 0; at < work.blocks; at += group.blocks) {
        group = group_at(&work, at);
        struct stored stored;
        float energy[AT_ONCE];
        for (int j = 0; j < group.blocks * kind.subs; ++j) {
            energy[j] = j % kind.subs ? energy[j - 1] : sum_of_squares(group.x[j], QK_K);
        }
        for (int s = 0; s < group.slices; ++s) {
            struct subs subs;
            load_lanes(kind.n, group.x + LANES * s, subs.x);
            weigh(kind, &group, LANES * s, energy, &subs);
            quantize_slice(kind, grid, &subs, LANES * s, &stored);
        }
        for (int g = 0; g < group.blocks; ++g) {
            const int first = kind.subs * g;
            if (some_of(kind.subs, stored.refused + first)) {
                // No half-precision scale goes so far. ggml-quants.c writes an infinite one, writes zeros, or ends the process.
                memset(group.y[g], 0, kind.size);
                *(ggml_half *) group.y[g] = ggml_fp32_to_fp16(INFINITY);
            } else {
                put_block(kind, group.y[g], &stored, first);
            }
        }
    }
    return (size_t) work.blocks * kind.size;
}

size_t quantize_iq3_xxs(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { GGML_TYPE_IQ3_XXS, GRID_IQ3_XXS, SHAPE_3BIT, 32, 8, sizeof(block_iq3_xxs), 15, 0.2f, 1e-8f,
        true, false, false };
    return quantize_points(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq3_s(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { GGML_TYPE_IQ3_S, GRID_IQ3_S, SHAPE_3BIT, 32, 8, sizeof(block_iq3_s), 9, 0.2f, 0,
        false, true, false };
    return quantize_points(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq2_xxs(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { GGML_TYPE_IQ2_XXS, GRID_IQ2_XXS, SHAPE_2BIT, 32, 8, sizeof(block_iq2_xxs), 6, 0.1f, 1e-15f,
        true, true, true };
    GGML_ASSERT(imatrix && "missing quantization weights");
    return quantize_points(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq2_xs(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { GGML_TYPE_IQ2_XS, GRID_IQ2_XS, SHAPE_2BIT, 16, 16, sizeof(block_iq2_xs), 9, 0.1f, 1e-15f,
        true, false, false };
    GGML_ASSERT(imatrix && "missing quantization weights");
    return quantize_points(kind, src, dst, nrow, n_per_row, imatrix);
}

size_t quantize_iq2_s(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {
    const struct kind kind = { GGML_TYPE_IQ2_S, GRID_IQ2_S, SHAPE_2BIT, 16, 16, sizeof(block_iq2_s), 9, 0.1f, 1e-8f,
        false, false, false };
    return quantize_points(kind, src, dst, nrow, n_per_row, imatrix);
}

// What ggml's table of types calls.
void quantize_row_iq3_xxs_ref(const float * x, block_iq3_xxs * y, int64_t k) { quantize_iq3_xxs(x, y, 1, k, NULL); }
void quantize_row_iq3_s_ref(const float * x, block_iq3_s * y, int64_t k) { quantize_iq3_s(x, y, 1, k, NULL); }
void quantize_row_iq2_s_ref(const float * x, block_iq2_s * y, int64_t k) { quantize_iq2_s(x, y, 1, k, NULL); }
