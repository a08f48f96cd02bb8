// The products: whole numbers first, then one float operation after another, the same for every number of columns.

#pragma once

// What is known of a type when its product is compiled: values that have a whole scale (K-quants) or a float (blocks of
// 32), the largest number of a weight, whether weights have minima, and whether their numbers are less by a bias.
struct traits {
    int  sub, most;
    bool mins, biased;
};

// Rows of vector i, from the first tile's row 0.
#define TILE_OF(i) ((i) * LANES / TILE_ROWS)
#define ROW_OF(i) ((i) * LANES % TILE_ROWS)

typedef vi int_sums[VECTORS_AT_ONCE][COLUMNS_AT_ONCE];

// The products of sub-block s.
INLINE void dot_sub(const struct traits t, const int vectors, const int columns, const struct tile * w,
                    const struct act * a, int s, int_sums sum) {
    const int steps = t.sub / 4;
    // Two products of numbers up to 255 do not fit into 16 bits: those are multiplied by size, with the sign on the
    // other side, and without the bias.
    const bool by_size = SHORT_SUMS && t.most > 127;
    for (int j = 0; j < columns; ++j) {
        for (int i = 0; i < vectors; ++i) {
            sum[i][j] = t.biased && !by_size ? int_at(&a[j].start[s]) : all_int(0);
        }
    }
    // Sums of 16 bits hold as many products of two bytes as this.
    const int room = by_size ? 1 : 32767 / (2 * 128 * t.most), turn = SHORT_SUMS && room < steps ? room : steps;
    for (int from = 0; from < steps; from += turn) {
        int_sums shorts;
        UNROLL
        for (int k = from; k < from + turn; ++k) {
            vi q[VECTORS_AT_ONCE];
            for (int i = 0; i < vectors; ++i) {
                q[i] = load_int(w[TILE_OF(i)].q[s * steps + k][ROW_OF(i)]);
                if (by_size) {
                    q[i] = xor(q[i], all_int((int32_t) 0x80808080));
                }
            }
            for (int j = 0; j < columns; ++j) {
                const vi x = int_at(&a[j].q[4 * (s * steps + k)]);
                for (int i = 0; i < vectors; ++i) {
#if SHORT_SUMS
                    const vi u = by_size ? with_sign_of(q[i], q[i]) : q[i], v = by_size ? with_sign_of(x, q[i]) : x;
                    shorts[i][j] = k == from ? bytes_to_shorts(u, v) : add_shorts(shorts[i][j], bytes_to_shorts(u, v));
#else
                    sum[i][j] = bytes_dot(sum[i][j], q[i], x);
#endif
                }
            }
        }
#if SHORT_SUMS
        for (int j = 0; j < columns; ++j) {
            for (int i = 0; i < vectors; ++i) {
                sum[i][j] = short_to_int(sum[i][j], shorts[i][j]);
            }
        }
#else
        (void) shorts;
#endif
    }
}

// K-quants: one record of 256 values.
INLINE void dot_k(const struct traits t, const int vectors, const int columns, const struct tile * w,
                  const struct act * a, float * c, int blocks) {
    (void) blocks;
    int_sums total;
    for (int j = 0; j < columns; ++j) {
        for (int i = 0; i < vectors; ++i) {
            total[i][j] = all_int(0);
        }
    }
    for (int s = 0; s < CHUNK / t.sub; ++s) {
        int_sums sum;
        dot_sub(t, vectors, columns, w, a, s, sum);
        for (int i = 0; i < vectors; ++i) {
            const vi scale = load_int(&w[TILE_OF(i)].k.scale[s][ROW_OF(i)]);
            for (int j = 0; j < columns; ++j) {
                total[i][j] = add(total[i][j], mul(sum[i][j], scale));
            }
        }
    }
    for (int i = 0; i < vectors; ++i) {
        const struct tile * const tile = &w[TILE_OF(i)];
        const vf d = load_float(&tile->k.d[ROW_OF(i)]);
        for (int j = 0; j < columns; ++j) {
            vf sum = mul_float(d, to_float(total[i][j]));
            if (t.mins) {
                vi m = all_int(0);
                for (int p = 0; p < CHUNK / t.sub / 2; ++p) {
                    m = pairs_dot(m, load_int(tile->k.min[p][ROW_OF(i)]), int_at(a[j].k.sum[p]));
                }
                sum = fused_minus(load_float(&tile->k.dmin[ROW_OF(i)]), to_float(m), sum);
            }
            float * const to = c + j * PANEL_ROWS + i * LANES;
            store_float(to, fused(float_at(&a[j].k.d), sum, load_float(to)));
        }
    }
}

// Blocks of 32 with floats of their own, at most eight.
INLINE void dot_b(const struct traits t, const int vectors, const int columns, const struct tile * w,
                  const struct act * a, float * c, int blocks) {
    vf total[VECTORS_AT_ONCE][COLUMNS_AT_ONCE];
    for (int j = 0; j < columns; ++j) {
        for (int i = 0; i < vectors; ++i) {
            total[i][j] = all_float(0);
        }
    }
    for (int s = 0; s < blocks; ++s) {
        int_sums sum;
        dot_sub(t, vectors, columns, w, a, s, sum);
        for (int i = 0; i < vectors; ++i) {
            const struct tile * const tile = &w[TILE_OF(i)];
            const vf d = load_float(&tile->b.d[s][ROW_OF(i)]);
            for (int j = 0; j < columns; ++j) {
                total[i][j] = fused(to_float(sum[i][j]), mul_float(d, float_at(&a[j].b.d[s])), total[i][j]);
                if (t.mins) {
                    total[i][j] = fused(load_float(&tile->b.m[s][ROW_OF(i)]), float_at(&a[j].b.s[s]), total[i][j]);
                }
            }
        }
    }
    for (int i = 0; i < vectors; ++i) {
        for (int j = 0; j < columns; ++j) {
            float * const to = c + j * PANEL_ROWS + i * LANES;
            store_float(to, add_float(load_float(to), total[i][j]));
        }
    }
}

typedef void dot_of_traits(const struct traits t, const int vectors, const int columns, const struct tile * w,
                           const struct act * a, float * c, int blocks);

// All tiles and columns, as many at once as registers hold.
INLINE void dot_all(dot_of_traits * dot, const struct traits t, const int tiles, const int columns,
                    const struct tile * w, const struct act * a, float * c, int blocks) {
    const int vectors = tiles * TILE_ROWS / LANES, groups = (columns + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE;
    for (int g = 0; g < groups; ++g) {
        const int j = columns * g / groups, count = columns * (g + 1) / groups - j;
        for (int i = 0; i < vectors; i += VECTORS_AT_ONCE) {
            const int here = vectors - i < VECTORS_AT_ONCE ? vectors - i : VECTORS_AT_ONCE;
            dot(t, here, count, w + TILE_OF(i), a + j, c + j * PANEL_ROWS + i * LANES, blocks);
        }
    }
}

#define DOT_OF(name, tiles, columns, dot, ...)                                                                    \
    static void name##_##tiles##x##columns(const struct tile * w, const struct act * a, float * c, int blocks) {  \
        dot_all(dot, (struct traits) {__VA_ARGS__}, tiles, columns, w, a, c, blocks);                             \
    }

#define DOTS(name, ...)                                                                                           \
    DOT_OF(name, 1, 1, __VA_ARGS__) DOT_OF(name, 1, 2, __VA_ARGS__) DOT_OF(name, 1, 3, __VA_ARGS__)               \
    DOT_OF(name, 1, 4, __VA_ARGS__) DOT_OF(name, 1, 5, __VA_ARGS__) DOT_OF(name, 1, 6, __VA_ARGS__)               \
    DOT_OF(name, 2, 1, __VA_ARGS__) DOT_OF(name, 2, 2, __VA_ARGS__) DOT_OF(name, 2, 3, __VA_ARGS__)               \
    DOT_OF(name, 2, 4, __VA_ARGS__) DOT_OF(name, 2, 5, __VA_ARGS__) DOT_OF(name, 2, 6, __VA_ARGS__)

#define TABLE(name)                                                                                               \
    {{name##_1x1, name##_1x2, name##_1x3, name##_1x4, name##_1x5, name##_1x6},                                    \
     {name##_2x1, name##_2x2, name##_2x3, name##_2x4, name##_2x5, name##_2x6}}
