// Activations in whole numbers: the very ones that ggml's quantize_row_q8_K, q8_0 and q8_1 make on x86.

#pragma once

// 32 numbers as bytes, in order; they must fit.
INLINE __m256i bytes_of_ints(const __m256i n[4]) {
    const __m256i low = _mm256_packs_epi32(n[0], n[1]), high = _mm256_packs_epi32(n[2], n[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// The sums of the first sixteen bytes and of the last ones.
INLINE void sums_of(__m256i bytes, int sum[2]) {
    const __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    const __m256i pairs = _mm256_hadd_epi32(fours, fours);
    sum[0] = _mm256_extract_epi32(pairs, 0) + _mm256_extract_epi32(pairs, 1);
    sum[1] = _mm256_extract_epi32(pairs, 4) + _mm256_extract_epi32(pairs, 5);
}

// The largest size of a lane, given the sizes' bits: those of what is not a number are above all others.
INLINE float largest_of(__m256i v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1))));
}

INLINE __m256i size_of(__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff)); }

// 32 numbers into a record of a K-quant.
INLINE void record_k(struct act * a, int at, __m256i bytes, const int sub, const int bias) {
    _mm256_store_si256((__m256i *) (a->q + at), bytes);
    int sum[2];
    sums_of(bytes, sum);
    if (sub == 16) {
        a->start[at / 16] = -bias * sum[0];
        a->start[at / 16 + 1] = -bias * sum[1];
        a->k.sum[at / 32][0] = (int16_t) sum[0];
        a->k.sum[at / 32][1] = (int16_t) sum[1];
    } else {
        a->start[at / 32] = -bias * (sum[0] + sum[1]);
        a->k.sum[at / 64][at / 32 % 2] = (int16_t) (sum[0] + sum[1]);
    }
}

// K-quants: 256 values have one scale. `sub` and `bias` are those of the weights.
INLINE void activate_k(const float * x, struct act * a, const int sub, const int bias) {
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < CHUNK; i += 8) {
        most = _mm256_max_epi32(size_of(_mm256_loadu_ps(x + i)), most);
    }
    float largest = largest_of(most);
    if (!(largest > 0)) {
        __builtin_memset(a, 0, sizeof *a);
        a->k.d = largest;
        return;
    }
    // the sign is that of the first value of this size
    const __m256i wanted = _mm256_castps_si256(_mm256_set1_ps(largest));
    for (int i = 0; i < CHUNK; i += 8) {
        const __m256i equal = _mm256_cmpeq_epi32(size_of(_mm256_loadu_ps(x + i)), wanted);
        const int found = _mm256_movemask_ps(_mm256_castsi256_ps(equal));
        if (found) {
            largest = x[i + __builtin_ctz(found)];
            break;
        }
    }
    const float inverse = -127.f / largest;
    const __m256 factor = _mm256_set1_ps(inverse), rounder = _mm256_set1_ps(12582912.f);
    for (int i = 0; i < CHUNK; i += 32) {
        __m256i n[4];
        for (int k = 0; k < 4; ++k) {
            const __m256 v = _mm256_add_ps(_mm256_mul_ps(factor, _mm256_loadu_ps(x + i + 8 * k)), rounder);
            n[k] = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x007fffff));
            n[k] = _mm256_min_epi32(_mm256_sub_epi32(n[k], _mm256_set1_epi32(0x00400000)), _mm256_set1_epi32(127));
            // ggml keeps the low byte of what fits into none; only infinities lead to such
            n[k] = _mm256_srai_epi32(_mm256_slli_epi32(n[k], 24), 24);
        }
        record_k(a, i, bytes_of_ints(n), sub, bias);
    }
    a->k.d = 1 / inverse;
}

// From a block of type Q8_K: a float, the numbers.
INLINE void adopt_k(const uint8_t * block, struct act * a, const int sub, const int bias) {
    __builtin_memcpy(&a->k.d, block, sizeof(float));
    for (int i = 0; i < CHUNK; i += 32) {
        record_k(a, i, _mm256_loadu_si256((const __m256i *) (block + sizeof(float) + i)), sub, bias);
    }
}

// 32 numbers into a record of a type with blocks of 32.
INLINE void record_b(struct act * a, int b, __m256i bytes, uint16_t d, const int bias) {
    _mm256_store_si256((__m256i *) (a->q + 32 * b), bytes);
    int sum[2];
    sums_of(bytes, sum);
    a->start[b] = -bias * (sum[0] + sum[1]);
    a->b.d[b] = _cvtsh_ss(d);
    a->b.s[b] = a->b.d[b] * (float) (sum[0] + sum[1]);
}

// From blocks of type Q8_0 or Q8_1: one or two floats of 16 bits, the numbers.
INLINE void adopt_b(const uint8_t * blocks, int count, struct act * a, const int bias, const int header) {
    for (int b = 0; b < count / 32; ++b) {
        const uint8_t * const block = blocks + b * (header + 32);
        uint16_t d;
        __builtin_memcpy(&d, block, sizeof d);
        record_b(a, b, _mm256_loadu_si256((const __m256i *) (block + header)), d, bias);
    }
}

// Blocks of 32, each with a scale that is rounded to 16 bits.
INLINE void activate_b(const float * x, int count, struct act * a, const int bias) {
    for (int b = 0; b < count / 32; ++b) {
        __m256 v[4];
        __m256i most = _mm256_setzero_si256();
        for (int k = 0; k < 4; ++k) {
            v[k] = _mm256_loadu_ps(x + 32 * b + 8 * k);
            most = _mm256_max_epi32(most, size_of(v[k]));
        }
        const float largest = largest_of(most);
        const __m256 factor = _mm256_set1_ps(largest > 0 ? 127.f / largest : 0);
        __m256i n[4];
        for (int k = 0; k < 4; ++k) {
            n[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], factor));
        }
        record_b(a, b, bytes_of_ints(n), _cvtss_sh(largest / 127.f, _MM_FROUND_TO_NEAREST_INT), bias);
    }
}
