// The searches for the best scale of a sub-block that several types share.

#pragma once

#include "lanes.h"

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

// The scale of `n` values that keeps most of their weighted energy, as make_qx_quants finds it; l is in [-top, top).
// `iscale` is zero where all is zero. False where ggml-quants.c must do it.
INLINE bool search_scale(int n, const vf * x, const vf * w, float top, vf * found, vf * found_iscale) {
    vf max;
    vi zero;
    if (!largest(n, x, &max, &zero)) {
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
        for (int i = 0; i < n; ++i) {
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
