// From the file's layout into tiles.

#pragma once

// The rows of a tile's vector: every fourth of them, and the bytes to the one and to the third after it. So few
// addresses stay in registers.
struct some_rows {
    const uint8_t * fourth[LANES / 4];
    size_t          one, three;
    const uint8_t * next;
};

INLINE struct some_rows rows_of(struct source from, int half) {
    struct some_rows s = {.one = from.stride, .three = 3 * from.stride, .next = from.next + 16 * half};
    for (int i = 0; i < LANES / 4; ++i) {
        s.fourth[i] = from.rows + (half + 4 * i) * from.stride;
        // or the compiler computes all addresses again
        __asm__("" : "+r"(s.fourth[i]));
    }
    return s;
}

// 16 bytes of each of the rows, `at` bytes from their start: vector k has bytes 4 k to 4 k + 3, a row a lane. Meanwhile
// memory is asked for as many bytes of what comes after the panel: so all of that is asked for once, in order, in time.
INLINE void columns_of(struct some_rows s, size_t at, vi v[4]) {
    for (int i = 0; i < LANES / 4; ++i) {
        __builtin_prefetch(s.next + 16 * at + 64 * i);
    }
    const vi a = ROWS_AT(at), b = ROWS_AT(at + s.one), c = ROWS_AT(at + 2 * s.one), d = ROWS_AT(at + s.three);
    const vi ab = interleave_low(a, b), AB = interleave_high(a, b);
    const vi cd = interleave_low(c, d), CD = interleave_high(c, d);
    v[0] = interleave_low_pairs(ab, cd);
    v[1] = interleave_high_pairs(ab, cd);
    v[2] = interleave_low_pairs(AB, CD);
    v[3] = interleave_high_pairs(AB, CD);
}

// The same where the number of a byte matters only.
INLINE vi shifted(vi v, int by) { return by < 0 ? left(v, -by) : right(v, by); }

// Byte n of every lane, as a number with a sign or without.
INLINE vi signed_byte(vi v, int n) { return right_signed(left(v, 24 - 8 * n), 24); }
INLINE vi unsigned_byte(vi v, int n) { return and(right(v, 8 * n), all_int(0xff)); }

// Four bytes of a lane as numbers of 16 bits: the first two, the last two.
INLINE void store_pairs(int16_t (*to)[TILE_ROWS][2], int half, vi v) {
    const int8_t first[] = {0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1};
    const int8_t second[] = {2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1};
    store_int(to[0][half], bytes_of(v, all_sixteen(first)));
    store_int(to[1][half], bytes_of(v, all_sixteen(second)));
}

// --- Q4_K, Q5_K: eight sub-blocks, each with a scale and a minimum of six bits --------------------------------------

INLINE void scales_of_six_bits(struct some_rows s, int half, struct tile * t) {
    const vi low = all_int(0x0f0f0f0f), six = all_int(0x3f3f3f3f), top = all_int(0x30303030);
    vi v[4];
    columns_of(s, 0, v);
    store_float(&t->k.d[half], half_to_float(v[0]));
    store_float(&t->k.dmin[half], half_to_float(right(v[0], 16)));
    const vi scales[2] = {and(v[1], six), or(and(v[3], low), and(right(v[1], 2), top))};
    for (int i = 0; i < 8; ++i) {
        store_int(&t->k.scale[i][half], unsigned_byte(scales[i / 4], i % 4));
    }
    store_pairs(&t->k.min[0], half, and(v[2], six));
    store_pairs(&t->k.min[2], half, or(and(right(v[3], 4), low), and(right(v[2], 2), top)));
}

static void unpack_q4_k(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        scales_of_six_bits(s, half, t);
        for (int i = 0; i < 8; ++i) {
            vi v[4];
            columns_of(s, 16 + 16 * i, v);
            for (int k = 0; k < 4; ++k) {
                const int to = 16 * (i / 2) + 4 * (i % 2) + k;
                store_int(t->q[to][half], and(v[k], low));
                store_int(t->q[to + 8][half], and(right(v[k], 4), low));
            }
        }
    }
}

static void unpack_q5_k(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f), fifth = all_int(0x10101010);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        scales_of_six_bits(s, half, t);
        vi high[8];
        columns_of(s, 16, high);
        columns_of(s, 32, high + 4);
        // not unrolled: or all memory would be asked for at once
        for (int p = 0; p < 4; ++p) {
            for (int i = 0; i < 2; ++i) {
                vi v[4];
                columns_of(s, 48 + 32 * p + 16 * i, v);
                for (int k = 0; k < 4; ++k) {
                    const int to = 16 * p + 4 * i + k;
                    const vi h = high[4 * i + k];
                    store_int(t->q[to][half], and_or(left(h, 4), fifth, and(v[k], low)));
                    store_int(t->q[to + 8][half], and_or(left(h, 3), fifth, and(right(v[k], 4), low)));
                    high[4 * i + k] = right(h, 2);
                }
            }
        }
    }
}

// --- Q6_K, Q3_K, Q2_K: sixteen sub-blocks ---------------------------------------------------------------------------

static void unpack_q6_k(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f), top = all_int(0x30303030);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        vi v[4];
        columns_of(s, 192, v);
        for (int i = 0; i < 16; ++i) {
            store_int(&t->k.scale[i][half], signed_byte(v[i / 4], i % 4));
        }
        columns_of(s, 194, v);
        store_float(&t->k.d[half], half_to_float(right(v[3], 16)));
        for (int i = 0; i < 4; ++i) {
            vi a[4], b[4], high[4];
            columns_of(s, 64 * (i / 2) + 16 * (i % 2), a);
            columns_of(s, 64 * (i / 2) + 16 * (i % 2) + 32, b);
            columns_of(s, 128 + 16 * i, high);
            for (int k = 0; k < 4; ++k) {
                const int to = 32 * (i / 2) + 4 * (i % 2) + k;
                store_int(t->q[to][half], and_or(left(high[k], 4), top, and(a[k], low)));
                store_int(t->q[to + 8][half], and_or(left(high[k], 2), top, and(b[k], low)));
                store_int(t->q[to + 16][half], and_or(high[k], top, and(right(a[k], 4), low)));
                store_int(t->q[to + 24][half], and_or(right(high[k], 2), top, and(right(b[k], 4), low)));
            }
        }
    }
}

static void unpack_q3_k(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f), two = all_int(0x03030303);
    const vi third = all_int(0x04040404), top = all_int(0x30303030);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        vi v[4];
        columns_of(s, 94, v);
        store_float(&t->k.d[half], half_to_float(right(v[3], 16)));
        const vi a = or(right(v[0], 16), left(v[1], 16)), b = or(right(v[1], 16), left(v[2], 16));
        const vi c = or(right(v[2], 16), left(v[3], 16));
        const vi scales[4] = {
            and_or(left(c, 4), top, and(a, low)), and_or(left(c, 2), top, and(b, low)),
            and_or(c, top, and(right(a, 4), low)), and_or(right(c, 2), top, and(right(b, 4), low)),
        };
        for (int i = 0; i < 16; ++i) {
            store_int(&t->k.scale[i][half], sub(unsigned_byte(scales[i / 4], i % 4), all_int(32)));
        }
        vi high[8];
        columns_of(s, 0, high);
        columns_of(s, 16, high + 4);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            columns_of(s, 32 + 16 * i, v);
            UNROLL
            for (int k = 0; k < 4; ++k) {
                UNROLL
                for (int g = 0; g < 4; ++g) {
                    const vi h = shifted(high[4 * (i % 2) + k], 4 * (i / 2) + g - 2);
                    const int to = 32 * (i / 2) + 8 * g + 4 * (i % 2) + k;
                    store_int(t->q[to][half], and_or(h, third, and(right(v[k], 2 * g), two)));
                }
            }
        }
    }
}

static void unpack_q2_k(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f), two = all_int(0x03030303);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        vi v[4];
        columns_of(s, 68, v);
        store_float(&t->k.d[half], half_to_float(v[3]));
        store_float(&t->k.dmin[half], half_to_float(right(v[3], 16)));
        columns_of(s, 0, v);
        for (int i = 0; i < 4; ++i) {
            const vi scales = and(v[i], low);
            for (int k = 0; k < 4; ++k) {
                store_int(&t->k.scale[4 * i + k][half], unsigned_byte(scales, k));
            }
            store_pairs(&t->k.min[2 * i], half, and(right(v[i], 4), low));
        }
        for (int i = 0; i < 4; ++i) {
            columns_of(s, 16 + 16 * i, v);
            for (int k = 0; k < 4; ++k) {
                for (int g = 0; g < 4; ++g) {
                    store_int(t->q[32 * (i / 2) + 8 * g + 4 * (i % 2) + k][half], and(right(v[k], 2 * g), two));
                }
            }
        }
    }
}

// --- four bits that name a value of a table -------------------------------------------------------------------------

// The values plus 128; MXFP4's, which are doubled ones, plus 12.
static const uint8_t values_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t values_mxfp4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

static void unpack_iq4_xs(struct source from, int blocks, struct tile * t) {
    (void) blocks;
    const vi low = all_int(0x0f0f0f0f), table = all_sixteen(values_iq4);
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        vi v[4];
        columns_of(s, 0, v);
        store_float(&t->k.d[half], half_to_float(v[0]));
        for (int i = 0; i < 8; ++i) {
            const vi scale = and_or(shifted(v[0], 12 + 2 * i), all_int(0x30), and(right(v[1], 4 * i), all_int(0x0f)));
            store_int(&t->k.scale[i][half], sub(scale, all_int(32)));
        }
        for (int i = 0; i < 8; ++i) {
            columns_of(s, 8 + 16 * i, v);
            for (int k = 0; k < 4; ++k) {
                store_int(t->q[8 * i + k][half], bytes_of(table, and(v[k], low)));
                store_int(t->q[8 * i + k + 4][half], bytes_of(table, and(right(v[k], 4), low)));
            }
        }
    }
}

// --- blocks of 32 with floats of their own --------------------------------------------------------------------------

static void unpack_q8_0(struct source from, int blocks, struct tile * t) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 34 * b, v);
            store_float(&t->b.d[b][half], half_to_float(v[0]));
            for (int i = 0; i < 2; ++i) {
                columns_of(s, 34 * b + 2 + 16 * i, v);
                for (int k = 0; k < 4; ++k) {
                    store_int(t->q[8 * b + 4 * i + k][half], xor(v[k], all_int((int32_t) 0x80808080)));
                }
            }
        }
    }
}

// Sixteen bytes of two numbers each; `table` names values instead, if any.
INLINE void nibbles_of(struct some_rows s, size_t at, int half, uint8_t (*to)[TILE_ROWS][4],
                       const uint8_t * table) {
    const vi low = all_int(0x0f0f0f0f);
    vi v[4];
    columns_of(s, at, v);
    for (int k = 0; k < 4; ++k) {
        const vi a = and(v[k], low), b = and(right(v[k], 4), low);
        store_int(to[k][half], table ? bytes_of(all_sixteen(table), a) : a);
        store_int(to[k + 4][half], table ? bytes_of(all_sixteen(table), b) : b);
    }
}

INLINE void unpack_18(struct source from, int blocks, struct tile * t, const uint8_t * table) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 18 * b, v);
            store_float(&t->b.d[b][half], half_to_float(v[0]));
            nibbles_of(s, 18 * b + 2, half, &t->q[8 * b], table);
        }
    }
}

static void unpack_q4_0(struct source from, int blocks, struct tile * t) { unpack_18(from, blocks, t, NULL); }
static void unpack_iq4_nl(struct source from, int blocks, struct tile * t) { unpack_18(from, blocks, t, values_iq4); }

static void unpack_q4_1(struct source from, int blocks, struct tile * t) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 20 * b, v);
            store_float(&t->b.d[b][half], half_to_float(v[0]));
            store_float(&t->b.m[b][half], half_to_float(right(v[0], 16)));
            nibbles_of(s, 20 * b + 4, half, &t->q[8 * b], NULL);
        }
    }
}

// The fifth bits of 32 numbers, bit k of `high` the one of number k.
INLINE void fives_of(struct some_rows s, size_t at, int half, uint8_t (*to)[TILE_ROWS][4], vi high) {
    const vi low = all_int(0x0f0f0f0f);
    vi v[4];
    columns_of(s, at, v);
    UNROLL
    for (int k = 0; k < 4; ++k) {
        store_int(to[k][half], or(spread_bits(high, 4 * k), and(v[k], low)));
        store_int(to[k + 4][half], or(spread_bits(high, 16 + 4 * k), and(right(v[k], 4), low)));
    }
}

static void unpack_q5_0(struct source from, int blocks, struct tile * t) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 22 * b, v);
            store_float(&t->b.d[b][half], half_to_float(v[0]));
            fives_of(s, 22 * b + 6, half, &t->q[8 * b], or(right(v[0], 16), left(v[1], 16)));
        }
    }
}

static void unpack_q5_1(struct source from, int blocks, struct tile * t) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 24 * b, v);
            store_float(&t->b.d[b][half], half_to_float(v[0]));
            store_float(&t->b.m[b][half], half_to_float(right(v[0], 16)));
            fives_of(s, 24 * b + 8, half, &t->q[8 * b], v[1]);
        }
    }
}

static void unpack_mxfp4(struct source from, int blocks, struct tile * t) {
    for (int half = 0; half < TILE_ROWS; half += LANES) {
        const struct some_rows s = rows_of(from, half);
        for (int b = 0; b < blocks; ++b) {
            vi v[4];
            columns_of(s, 17 * b, v);
            store_float(&t->b.d[b][half], half_of_power(unsigned_byte(v[0], 0)));
            nibbles_of(s, 17 * b + 1, half, &t->q[8 * b], values_mxfp4);
        }
    }
}
