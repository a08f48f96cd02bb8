// The nearest point of a grid.
//
// The distance to a point is a sum of one term a value, and a term depends on one level only: so all terms there can be
// are made first, 32 for a group, and a distance is 4 or 8 look-ups and as many additions, in the order of ggml-quants.c.
// Here the lanes are nearby points; the first nearest one counts.

#pragma once

#include "grid.h"

#include <float.h>

// Searches for one group of one sub-block, for `count` scales, which are LANES apart. `x` and `w` are the group's values and
// weights, `values` what a level stands for (shape.stride of them), `number` the points that the values were rounded to,
// `code` the points that are found; these are `apart` apart.
#if HAVE_LOOKUP

#define TABLES (32 / LANES)

INLINE void search_points(struct shape shape, const struct grid * grid, int count, int apart, const float * values,
        const float * x, const float * w, const float * scale, const uint16_t * number, uint32_t * code) {
    vf value[TABLES], xs[TABLES], ws[TABLES];
    for (int t = 0; t < TABLES; ++t) {
        for (int k = 0; k < LANES; ++k) {
            const int entry = LANES * t + k;
            value[t][k] = values[entry % shape.stride];
            xs[t][k] = x[entry / shape.stride];
            ws[t][k] = w[entry / shape.stride];
        }
    }
    for (int c = 0; c < count; ++c) {
        const struct near near = grid->near[number[apart * c]];
        const uint32_t * from = grid->codes + near.first;
        if (near.vectors == 0) {
            code[apart * c] = *from;
            continue;
        }
        vf term[TABLES];
        for (int t = 0; t < TABLES; ++t) {
            const vf diff = scale[LANES * c] * value[t] - xs[t];
            term[t] = ws[t] * diff * diff;
        }
        vf least = all(FLT_MAX);
        vi found = {0};
        for (uint32_t v = 0; v < near.vectors; ++v) {
            vi codes;
            memcpy(&codes, from + LANES * v, sizeof codes);
            vf sum = lookup_stride(shape.stride, term, 0, codes);
            for (int i = 1; i < shape.width; ++i) {
                sum += lookup_stride(shape.stride, term, i, codes >> 4 * i);
            }
            if (near.vectors == 1) {
                least = sum;
                break;
            }
            const vi nearer = sum < least;
            least = pick(nearer, sum, least);
            found = pick_int(nearer, codes, found);
        }
        const int lane = first_smallest(least);
        code[apart * c] = near.vectors == 1 ? from[lane] : (uint32_t) found[lane];
    }
}

#else

INLINE void search_points(struct shape shape, const struct grid * grid, int count, int apart, const float * values,
        const float * x, const float * w, const float * scale, const uint16_t * number, uint32_t * code) {
    for (int c = 0; c < count; ++c) {
        const struct near near = grid->near[number[apart * c]];
        const uint32_t * from = grid->codes + near.first;
        if (near.vectors == 0) {
            code[apart * c] = *from;
            continue;
        }
        float term[32];
        for (int i = 0; i < 32; ++i) {
            const float diff = scale[LANES * c] * values[i % shape.stride] - x[i / shape.stride];
            term[i] = w[i / shape.stride] * diff * diff;
        }
        float least = FLT_MAX;
        // In the order of the candidates: down each lane.
        for (uint32_t k = 0; k < LANES; ++k) {
            for (uint32_t v = 0; v < near.vectors; ++v) {
                const uint32_t this = from[LANES * v + k];
                float sum = term[this & 15];
                for (int i = 1; i < shape.width; ++i) {
                    sum += term[(i * shape.stride & 16) + (this >> 4 * i & 15)];
                }
                if (sum < least) {
                    least = sum;
                    code[apart * c] = this;
                }
            }
        }
    }
}

#endif
