// Attention: scores, their exponentials, and the sums of values that these weigh. Included like the products.
//
// Vectors have sixteen lanes here, in one register or in two, and every sum has one order, whatever the instruction
// set, the number of rows, and what other rows see. So a token attends alone as it does in company.

#pragma once

// e to the power of x, at most zero: within two units in the last place; zero below -87.
INLINE wide wide_exp(wide x) {
    const wide low = wide_all(-87.f), inside = wide_max(low, x);
    const wide rounder = wide_all(12582912.f), n = wide_fused(inside, wide_all(1.44269504f), rounder);
    const wide whole = wide_sub(n, rounder);
    const wide r = wide_fused(whole, wide_all(-1.42860677e-6f), wide_fused(whole, wide_all(-0.693145752f), inside));
    wide p = wide_all(1.f / 5040);
    p = wide_fused(p, r, wide_all(1.f / 720));
    p = wide_fused(p, r, wide_all(1.f / 120));
    p = wide_fused(p, r, wide_all(1.f / 24));
    p = wide_fused(p, r, wide_all(1.f / 6));
    p = wide_fused(p, r, wide_all(0.5f));
    p = wide_fused(p, r, wide_all(1.f));
    p = wide_fused(p, r, wide_all(1.f));
    return wide_unless_below(wide_add_exponent(p, n), x, low);
}

// The same of one number.
static float exp_of(float x) { return wide_first(wide_exp(wide_all(x))); }

// All lanes.
INLINE float wide_sum(wide v) {
    const wide four[4] = {v, v, v, v}, merged = wide_merge_four(four), halves = wide_merge_halves(merged, merged);
    return wide_first(wide_merge_pairs(halves, halves));
}

// `rows` rows of queries with sixteen keys.
INLINE void scores_of(const int rows, const float * q, const float * k, int width, float * to) {
    wide found[ROWS_AT_ONCE][4];
    UNROLL
    for (int g = 0; g < 4; ++g) {
        // keys 0, 4, 8 and 12, and so on: merging leaves them in order
        const float * const keys = k + g * width;
        wide sum[ROWS_AT_ONCE][4];
        for (int i = 0; i < rows; ++i) {
            for (int c = 0; c < 4; ++c) {
                sum[i][c] = wide_all(0);
            }
        }
        for (int d = 0; d < width; d += 16) {
            for (int c = 0; c < 4; ++c) {
                const wide key = wide_load(keys + 4 * c * width + d);
                for (int i = 0; i < rows; ++i) {
                    sum[i][c] = wide_fused(wide_load(q + i * width + d), key, sum[i][c]);
                }
            }
        }
        for (int i = 0; i < rows; ++i) {
            found[i][g] = wide_merge_four(sum[i]);
        }
    }
    for (int i = 0; i < rows; ++i) {
        const wide u = wide_merge_halves(found[i][0], found[i][1]), v = wide_merge_halves(found[i][2], found[i][3]);
        wide_store(to + i * CELLS, wide_merge_pairs(u, v));
    }
}

// Adds to `rows` rows the values of all cells, weighed; `vectors` of sixteen values each.
INLINE void add_values(const int rows, const int vectors, const float * p, const float * v, int width, float * sum,
                       int stride) {
    wide total[ROWS_AT_ONCE][VALUES_AT_ONCE];
    for (int i = 0; i < rows; ++i) {
        for (int c = 0; c < vectors; ++c) {
            total[i][c] = wide_load(sum + i * stride + 16 * c);
        }
    }
    for (int k = 0; k < CELLS; ++k) {
        wide weight[ROWS_AT_ONCE];
        for (int i = 0; i < rows; ++i) {
            weight[i] = wide_all(p[i * CELLS + k]);
        }
        for (int c = 0; c < vectors; ++c) {
            const wide value = wide_load(v + k * width + 16 * c);
            for (int i = 0; i < rows; ++i) {
                total[i][c] = wide_fused(weight[i], value, total[i][c]);
            }
        }
    }
    for (int i = 0; i < rows; ++i) {
        for (int c = 0; c < vectors; ++c) {
            wide_store(sum + i * stride + 16 * c, total[i][c]);
        }
    }
}

// All scores and sums of `rows` rows, from row i.
INLINE void some_scores(const int rows, const struct attention * a, int i, const float * k) {
    for (int c = 0; c < CELLS; c += 16) {
        scores_of(rows, a->q + i * a->key_width, k + c * a->key_width, a->key_width, a->p + i * CELLS + c);
    }
}

INLINE void some_sums(const int rows, const struct attention * a, int i, const float * v) {
    const float * const p = a->p + i * CELLS;
    float * const sum = a->rows_of_sums + i * a->stride + ROW_HEAD;
    int d = 0;
    for (; d + 16 * VALUES_AT_ONCE <= a->value_width; d += 16 * VALUES_AT_ONCE) {
        add_values(rows, VALUES_AT_ONCE, p, v + d, a->value_width, sum + d, a->stride);
    }
    for (; d + 64 <= a->value_width; d += 64) {
        add_values(rows, 4, p, v + d, a->value_width, sum + d, a->stride);
    }
    for (; d < a->value_width; d += 16) {
        add_values(rows, 1, p, v + d, a->value_width, sum + d, a->stride);
    }
}

// Scores become weights; sums and totals are brought to the new maximum.
static void weigh(const struct attention * a, const float * mask) {
    for (int i = 0; i < a->rows; ++i, mask += CELLS) {
        float * const p = a->p + i * CELLS, * const total = a->total + 16 * i;
        float * const row = a->rows_of_sums + i * a->stride;
        wide s[CELLS / 16], most = wide_all(-INFINITY);
        for (int c = 0; c < CELLS / 16; ++c) {
            s[c] = wide_fused(wide_load(p + 16 * c), wide_all(a->scale), wide_load(mask + 16 * c));
            most = wide_max(most, s[c]);
        }
        const float here = wide_largest(most);
        if (here == -INFINITY) {
            // nothing that this row sees
            memset(p, 0, CELLS * sizeof(float));
            continue;
        }
        if (here > row[0]) {
            const wide factor = wide_all(exp_of(row[0] - here));
            for (int d = 0; d < a->value_width; d += 16) {
                wide_store(row + ROW_HEAD + d, wide_mul(wide_load(row + ROW_HEAD + d), factor));
            }
            wide_store(total, wide_mul(wide_load(total), factor));
            row[0] = here;
        }
        for (int c = 0; c < CELLS / 16; ++c) {
            s[c] = wide_exp(wide_sub(s[c], wide_all(row[0])));
            wide_store(p + 16 * c, s[c]);
        }
        const wide sum = wide_add(wide_add(s[0], s[1]), wide_add(s[2], s[3]));
        wide_store(total, wide_add(wide_load(total), sum));
    }
}

static void begin(const struct attention * a) {
    memset(a->rows_of_sums, 0, (size_t) a->rows * a->stride * sizeof(float));
    memset(a->total, 0, (size_t) a->rows * 16 * sizeof(float));
    for (int i = 0; i < a->rows; ++i) {
        a->rows_of_sums[i * a->stride] = -INFINITY;
    }
}

static void attend(const struct attention * a, const float * k, const float * v, const float * mask) {
    int i = 0;
    for (; i + ROWS_AT_ONCE <= a->rows; i += ROWS_AT_ONCE) {
        some_scores(ROWS_AT_ONCE, a, i, k);
    }
    for (; i < a->rows; ++i) {
        some_scores(1, a, i, k);
    }
    weigh(a, mask);
    for (i = 0; i + ROWS_AT_ONCE <= a->rows; i += ROWS_AT_ONCE) {
        some_sums(ROWS_AT_ONCE, a, i, v);
    }
    for (; i < a->rows; ++i) {
        some_sums(1, a, i, v);
    }
}

static void finish(const struct attention * a) {
    for (int i = 0; i < a->rows; ++i) {
        a->rows_of_sums[i * a->stride + 1] = wide_sum(wide_load(a->total + 16 * i));
    }
}

static void combine(float * to, const float * from, int width) {
    if (from[1] == 0) {
        return;
    }
    const float most = to[0] > from[0] ? to[0] : from[0];
    const float before = exp_of(to[0] - most), here = exp_of(from[0] - most);
    for (int d = ROW_HEAD; d < ROW_HEAD + width; d += 16) {
        const wide old = wide_mul(wide_load(to + d), wide_all(before));
        wide_store(to + d, wide_fused(wide_load(from + d), wide_all(here), old));
    }
    to[1] = to[1] * before + from[1] * here;
    to[0] = most;
}

static void halves_to_floats(const uint16_t * from, float * to, int count) {
    for (int i = 0; i < count; i += 16) {
        wide_store(to + i, wide_halves(from + i));
    }
}

static const struct attention_kernels attention = {begin, attend, finish, combine, halves_to_floats};
