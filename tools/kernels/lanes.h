// Vectors of sub-blocks: lane k of every vector belongs to sub-block k.
//
// llama.cpp's types search the best scale of every sub-block of 16 or 32 values: some twenty candidates, each with sums
// over the sub-block. A C compiler may not vectorize such a sum, for that would change the order of its additions. Across
// sub-blocks there is no such order: each lane does exactly the additions, products and divisions that ggml-quants.c does,
// in its order. So the result is the same, bit for bit, as long as the compiler contracts no product and sum into one
// rounding (-ffp-contract=off, as ggml-kernels.cmake says). Where lanes would need care, with infinities, or values so small
// or so large that a search's own arithmetic overflows, the function of ggml-quants.c does the block.
//
// The vectors are the extension of GCC and Clang: plain operators, and every target gets its own instructions.

#pragma once

#include "ggml-quants.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// What ggml_quantize_chunk calls for one type: `nrow` rows of `n_per_row` values, with one importance a column or NULL.
typedef size_t quantize_fn(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix);

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float   vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf all(float v) { return v - (vf) {0}; }

INLINE vf pick(vi mask, vf yes, vf no) { return (vf) (((vi) yes & mask) | ((vi) no & ~mask)); }

INLINE vi pick_int(vi mask, vi yes, vi no) { return (yes & mask) | (no & ~mask); }

INLINE vf absolute(vf v) { return (vf) ((vi) v & 0x7fffffff); }

INLINE vf root(vf v) {
    for (int k = 0; k < LANES; ++k) {
        v[k] = sqrtf(v[k]);
    }
    return v;
}

INLINE bool any(vi mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i) mask, (__m512i) mask) != 0;
#else
    int32_t found = 0;
    for (int k = 0; k < LANES; ++k) {
        found |= mask[k];
    }
    return found != 0;
#endif
}

// 1.5 * 2^23: a float of that size has no room for fractions, so adding it rounds, ties to even.
#define ROUNDER 12582912.f

// Rounded values of magnitude below 2^22, as floats.
INLINE vf nearest(vf v) { return (v + ROUNDER) - ROUNDER; }

// The same as integers. Wraps beyond 2^22, and turns a NaN into 0, as ggml-quants.c does.
INLINE vi nearest_int(vf v) { return ((vi) (v + ROUNDER) & 0x007fffff) - 0x00400000; }

INLINE int nearest_scalar(float v) {
    v += ROUNDER;
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

// Into [0, top]; a NaN becomes 0, which is what its integer form would be.
INLINE vf clamp(vf v, float top) {
    v = (vf) ((vi) v & (v > 0));
    return pick(v > top, all(top), v);
}

INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

INLINE vi clamp_int(vi v, int32_t low, int32_t high) {
    const vi lowest = low - (vi) {0}, highest = high - (vi) {0};
    v = pick_int(v < lowest, lowest, v);
    return pick_int(v > highest, highest, v);
}

// Where the search's intermediate results stay finite and normal.
#define TINY 1e-30f
#define HUGE_VALUE 1e30f

// --- a sub-block a lane ----------------------------------------------------------------------------------------------

// `n` values of each of LANES sub-blocks; `src` points to every sub-block.
INLINE void load_lanes(int n, const float * const * src, vf * x) {
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < LANES; ++k) {
            x[i][k] = src[k][i];
        }
    }
}

// `n` numbers of 0 to 255 of each sub-block, n a multiple of 4; `dst` points to the bytes of every sub-block.
INLINE void store_bytes(int n, const vi * l, uint8_t * const * dst) {
    for (int i = 0; i < n; i += 4) {
        // Four bytes at once, the lowest first in memory.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        const vi word = l[i + 3] | l[i + 2] << 8 | l[i + 1] << 16 | l[i] << 24;
#else
        const vi word = l[i] | l[i + 1] << 8 | l[i + 2] << 16 | l[i + 3] << 24;
#endif
        for (int k = 0; k < LANES; ++k) {
            const int32_t four = word[k];
            memcpy(dst[k] + i, &four, sizeof four);
        }
    }
}

// Sub-blocks that are worked on at once: a vector of them, or a whole block.
#define AT_ONCE 16

// Some blocks of `subs` sub-blocks: as many as fill a vector, or one.
struct group {
    int blocks, slices;                             // blocks, and the vectors that their sub-blocks fill
    const float * x[AT_ONCE], * importance[AT_ONCE]; // of every sub-block; no importances: NULL
    char * y[AT_ONCE];                              // every block's place
};

// What there is to do for `nrow` rows: blocks of `size` bytes, each `subs` sub-blocks of `n` values.
struct work {
    int n, subs;
    size_t size;
    const float * src, * imatrix;
    char * dst;
    int64_t blocks, in_row;
};

INLINE struct work work_of(int n, int subs, size_t size, const float * src, void * dst, int64_t nrow, int64_t n_per_row,
        const float * imatrix) {
    const int64_t width = n * subs;
    return (struct work) { n, subs, size, src, imatrix, dst, nrow * n_per_row / width, n_per_row / width };
}

// The group that begins with block `first`. Where blocks are lacking it has the last one repeatedly.
INLINE struct group group_at(const struct work * work, int64_t first) {
    struct group group;
    group.blocks = LANES > work->subs ? LANES / work->subs : 1;
    group.slices = group.blocks * work->subs / LANES;
    for (int g = 0; g < group.blocks; ++g) {
        const int64_t block = first + g < work->blocks ? first + g : work->blocks - 1;
        group.y[g] = work->dst + work->size * block;
        for (int j = 0; j < work->subs; ++j) {
            group.x[work->subs * g + j] = work->src + work->n * (work->subs * block + j);
            group.importance[work->subs * g + j] =
                work->imatrix ? work->imatrix + work->n * (work->subs * (block % work->in_row) + j) : NULL;
        }
    }
    return group;
}

// The sum of the squares of `n` values, one after the other.
static float sum_of_squares(const float * x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        sum += x[i] * x[i];
    }
    return sum;
}

// Looking up in tables, where there is an instruction for it: in 16 floats in memory by the low four bits of the index
// (`lookup_low` and `lookup_high` where every index is known to be below 8, or from 8 to 15), and in `stride` floats, 4 or
// 8, that begin at entry c * stride of some vectors, by the low bits. For that the bits above, up to the fourth, must be
// those of c * stride + index.
#if defined(__AVX512F__)
#define HAVE_LOOKUP 1
INLINE vf permute(vf table, vi index) { return (vf) _mm512_permutexvar_ps((__m512i) index, (__m512) table); }
INLINE vf lookup16(const float * table, vi index) { return permute((vf) _mm512_loadu_ps(table), index); }
INLINE vf lookup_low(const float * table, vi index) { return lookup16(table, index); }
INLINE vf lookup_high(const float * table, vi index) { return lookup16(table, index); }
INLINE vf lookup_stride(int stride, const vf * tables, int c, vi index) {
    return permute(tables[c * stride / LANES], index);
}
#elif defined(__AVX2__)
#define HAVE_LOOKUP 1
INLINE vf permute(vf table, vi index) { return (vf) _mm256_permutevar8x32_ps((__m256) table, (__m256i) index); }
INLINE vf lookup_low(const float * table, vi index) { return permute((vf) _mm256_loadu_ps(table), index); }
INLINE vf lookup_high(const float * table, vi index) { return lookup_low(table + 8, index); }
INLINE vf lookup16(const float * table, vi index) {
    const vf low = lookup_low(table, index), high = lookup_high(table, index);
    return (vf) _mm256_blendv_ps((__m256) low, (__m256) high, (__m256) (index << 28));
}
INLINE vf lookup_stride(int stride, const vf * tables, int c, vi index) {
    return permute(tables[c * stride / LANES], index);
}
#elif defined(__aarch64__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
// These look up bytes: four for each float.
#define HAVE_LOOKUP 1
INLINE uint8x16_t bytes_of(vi index) { return (uint8x16_t) (index * 0x04040404 + 0x03020100); }
INLINE vf lookup16(const float * table, vi index) {
    return (vf) vqtbl4q_u8(vld1q_u8_x4((const uint8_t *) table), bytes_of(index & 15));
}
INLINE vf lookup_low(const float * table, vi index) {
    return (vf) vqtbl2q_u8(vld1q_u8_x2((const uint8_t *) table), bytes_of(index));
}
INLINE vf lookup_high(const float * table, vi index) { return lookup_low(table + 8, index - 8); }
INLINE vf lookup_stride(int stride, const vf * tables, int c, vi index) {
    const vf * own = tables + c * stride / LANES;
    const uint8x16_t bytes = bytes_of(index & (stride - 1));
    if (stride == LANES) {
        return (vf) vqtbl1q_u8((uint8x16_t) own[0], bytes);
    }
    return (vf) vqtbl2q_u8((uint8x16x2_t) { { (uint8x16_t) own[0], (uint8x16_t) own[1] } }, bytes);
}
#else
#define HAVE_LOOKUP 0
#endif

#if HAVE_LOOKUP
// The first lane that has the smallest value; there is no NaN.
INLINE int first_smallest(vf v) {
#if defined(__AVX512F__)
    const __m512 least = _mm512_set1_ps(_mm512_reduce_min_ps((__m512) v));
    return __builtin_ctz(_mm512_cmp_ps_mask((__m512) v, least, _CMP_EQ_OQ));
#elif defined(__AVX2__)
    __m128 least = _mm_min_ps(_mm256_castps256_ps128((__m256) v), _mm256_extractf128_ps((__m256) v, 1));
    least = _mm_min_ps(least, _mm_movehl_ps(least, least));
    least = _mm_min_ss(least, _mm_shuffle_ps(least, least, 1));
    const __m256 everywhere = _mm256_broadcastss_ps(least);
    return __builtin_ctz((unsigned) _mm256_movemask_ps(_mm256_cmp_ps((__m256) v, everywhere, _CMP_EQ_OQ)));
#else
    const vi lanes = { 0, 1, 2, 3 };
    const vi smallest = v == all(vminvq_f32((float32x4_t) v));
    return vminvq_s32((int32x4_t) pick_int(smallest, lanes, (vi) {0} + LANES));
#endif
}
#endif
