// Vectors of 256 bits, with VNNI (AVX-VNNI) or without: a tile's sixteen rows in two.

#pragma once

#include <immintrin.h>

#define LANES 8

// Vectors and columns whose sums stay in registers, of which there are sixteen.
#define VECTORS_AT_ONCE 2
#if defined(__AVXVNNI__)
#define COLUMNS_AT_ONCE 3
#define SHORT_SUMS 0
#else
#define COLUMNS_AT_ONCE 2
#define SHORT_SUMS 1
#endif

typedef __m256i vi;
typedef __m256  vf;

INLINE vi load_int(const void * p) { return _mm256_load_si256(p); }
INLINE vf load_float(const float * p) { return _mm256_load_ps(p); }
INLINE void store_int(void * p, vi v) { _mm256_store_si256(p, v); }
INLINE void store_float(float * p, vf v) { _mm256_store_ps(p, v); }
INLINE vi all_int(int32_t v) { return _mm256_set1_epi32(v); }
INLINE vf all_float(float v) { return _mm256_set1_ps(v); }
INLINE vi int_at(const void * p) {
    int32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}
INLINE vf float_at(const float * p) { return _mm256_broadcast_ss(p); }
#if defined(__AVXVNNI__)
INLINE vi bytes_dot(vi sum, vi u, vi s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
INLINE vi pairs_dot(vi sum, vi a, vi b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
#else
INLINE vi pairs_dot(vi sum, vi a, vi b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
#endif
INLINE vi bytes_to_shorts(vi u, vi s) { return _mm256_maddubs_epi16(u, s); }
INLINE vi add_shorts(vi a, vi b) { return _mm256_add_epi16(a, b); }
INLINE vi short_to_int(vi sum, vi shorts) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(shorts, _mm256_set1_epi16(1)));
}
INLINE vi with_sign_of(vi a, vi b) { return _mm256_sign_epi8(a, b); }
INLINE vi add(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
INLINE vi mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
INLINE vi and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
INLINE vi right(vi a, int n) { return _mm256_srli_epi32(a, n); }
INLINE vi left(vi a, int n) { return _mm256_slli_epi32(a, n); }
INLINE vi right_signed(vi a, int n) { return _mm256_srai_epi32(a, n); }
// (a & b) | c
INLINE vi and_or(vi a, vi b, vi c) { return or(and(a, b), c); }
// The bytes of each 16 of v that `where` names; zeros where that is negative.
INLINE vi bytes_of(vi v, vi where) { return _mm256_shuffle_epi8(v, where); }
INLINE vi all_sixteen(const void * p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(p)); }
INLINE vf to_float(vi v) { return _mm256_cvtepi32_ps(v); }
INLINE vf mul_float(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf add_float(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf fused(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf fused_minus(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
// The lower 16 bits of each lane, as a float of 16 bits.
INLINE vf half_to_float(vi v) {
    const __m256i shorts = _mm256_packus_epi32(and(v, all_int(0xffff)), _mm256_setzero_si256());
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(shorts, 0x08)));
}

INLINE vi interleave_low(vi a, vi b) { return _mm256_unpacklo_epi32(a, b); }
INLINE vi interleave_high(vi a, vi b) { return _mm256_unpackhi_epi32(a, b); }
INLINE vi interleave_low_pairs(vi a, vi b) { return _mm256_unpacklo_epi64(a, b); }
INLINE vi interleave_high_pairs(vi a, vi b) { return _mm256_unpackhi_epi64(a, b); }

// 16 bytes each of two rows.
INLINE vi two_rows(const uint8_t * a, const uint8_t * b) {
    const __m128i v = _mm_loadu_si128((const void *) a), w = _mm_loadu_si128((const void *) b);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(v), w, 1);
}
#define ROWS_AT(offset) two_rows(s.fourth[0] + (offset), s.fourth[1] + (offset))

// Bits n to n + 3 of a lane, as bit 4 of its bytes 0 to 3.
INLINE vi spread_bits(vi v, int n) {
    return and(mul(and(right(v, n), all_int(15)), all_int(0x02040810)), all_int(0x10101010));
}

// Half of two to the power of a lane minus 127.
INLINE vf half_of_power(vi v) {
    const vi small = _mm256_sllv_epi32(all_int(0x00200000), v), bits = left(sub(v, all_int(1)), 23);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, small, _mm256_cmpgt_epi32(all_int(2), v)));
}

// --- sixteen floats --------------------------------------------------------------------------------------------------

#define ROWS_AT_ONCE 1
#define VALUES_AT_ONCE 4

typedef struct {
    __m256 low, high;
} wide;

INLINE wide wide_load(const float * p) { return (wide) {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void wide_store(float * p, wide v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}
INLINE wide wide_all(float v) { return (wide) {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
INLINE wide wide_add(wide a, wide b) { return (wide) {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
INLINE wide wide_sub(wide a, wide b) { return (wide) {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
INLINE wide wide_mul(wide a, wide b) { return (wide) {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
INLINE wide wide_max(wide a, wide b) { return (wide) {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
INLINE wide wide_fused(wide a, wide b, wide c) {
    return (wide) {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE float wide_first(wide v) { return _mm256_cvtss_f32(v.low); }
INLINE wide wide_halves(const uint16_t * p) {
    const __m128i low = _mm_loadu_si128((const void *) p), high = _mm_loadu_si128((const void *) (p + 8));
    return (wide) {_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)};
}
INLINE __m256 add_exponent(__m256 v, __m256 n) {
    return _mm256_castsi256_ps(add(_mm256_castps_si256(v), left(_mm256_castps_si256(n), 23)));
}
// v times two to the power of the whole number in the lower bits of n.
INLINE wide wide_add_exponent(wide v, wide n) {
    return (wide) {add_exponent(v.low, n.low), add_exponent(v.high, n.high)};
}
// v, and zero where x is less than low.
INLINE wide wide_unless_below(wide v, wide x, wide low) {
    const __m256 a = _mm256_cmp_ps(x.low, low.low, _CMP_NLT_UQ), b = _mm256_cmp_ps(x.high, low.high, _CMP_NLT_UQ);
    return (wide) {_mm256_and_ps(a, v.low), _mm256_and_ps(b, v.high)};
}
// Sums of the lanes of four: of the first in lanes 0 to 3, and so on, four parts of each.
INLINE wide wide_merge_four(const wide v[4]) {
    __m256 sum[4];
    for (int i = 0; i < 4; ++i) {
        sum[i] = _mm256_add_ps(v[i].low, v[i].high);
    }
    const __m256 a = _mm256_permute2f128_ps(sum[0], sum[1], 0x20), b = _mm256_permute2f128_ps(sum[0], sum[1], 0x31);
    const __m256 c = _mm256_permute2f128_ps(sum[2], sum[3], 0x20), d = _mm256_permute2f128_ps(sum[2], sum[3], 0x31);
    return (wide) {_mm256_add_ps(a, b), _mm256_add_ps(c, d)};
}
// The four parts of each become two, of a and of b; then one.
INLINE wide wide_merge_halves(wide a, wide b) {
    const __m256 low = _mm256_add_ps(_mm256_shuffle_ps(a.low, b.low, 0x44), _mm256_shuffle_ps(a.low, b.low, 0xee));
    const __m256 high = _mm256_add_ps(_mm256_shuffle_ps(a.high, b.high, 0x44), _mm256_shuffle_ps(a.high, b.high, 0xee));
    return (wide) {low, high};
}
INLINE wide wide_merge_pairs(wide a, wide b) {
    const __m256 low = _mm256_add_ps(_mm256_shuffle_ps(a.low, b.low, 0x88), _mm256_shuffle_ps(a.low, b.low, 0xdd));
    const __m256 high = _mm256_add_ps(_mm256_shuffle_ps(a.high, b.high, 0x88), _mm256_shuffle_ps(a.high, b.high, 0xdd));
    return (wide) {low, high};
}
INLINE float wide_largest(wide v) {
    const __m256 m = _mm256_max_ps(v.low, v.high);
    __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    n = _mm_max_ps(n, _mm_movehl_ps(n, n));
    return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
}
