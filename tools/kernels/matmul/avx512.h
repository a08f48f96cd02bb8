// Vectors of 512 bits with VNNI: a tile's sixteen rows in one.

#pragma once

#include <immintrin.h>

#define LANES 16

// Vectors and columns whose sums stay in registers, of which there are thirty-two.
#define VECTORS_AT_ONCE 2
#define COLUMNS_AT_ONCE 6
#define SHORT_SUMS 0

typedef __m512i vi;
typedef __m512  vf;

INLINE vi load_int(const void * p) { return _mm512_load_si512(p); }
INLINE vf load_float(const float * p) { return _mm512_load_ps(p); }
INLINE void store_int(void * p, vi v) { _mm512_store_si512(p, v); }
INLINE void store_float(float * p, vf v) { _mm512_store_ps(p, v); }
INLINE vi all_int(int32_t v) { return _mm512_set1_epi32(v); }
INLINE vf all_float(float v) { return _mm512_set1_ps(v); }
INLINE vi int_at(const void * p) {
    int32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}
INLINE vf float_at(const float * p) { return _mm512_set1_ps(*p); }
INLINE vi bytes_dot(vi sum, vi u, vi s) { return _mm512_dpbusd_epi32(sum, u, s); }
INLINE vi pairs_dot(vi sum, vi a, vi b) { return _mm512_dpwssd_epi32(sum, a, b); }
INLINE vi add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE vi mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
INLINE vi and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
INLINE vi right(vi a, int n) { return _mm512_srli_epi32(a, n); }
INLINE vi left(vi a, int n) { return _mm512_slli_epi32(a, n); }
INLINE vi right_signed(vi a, int n) { return _mm512_srai_epi32(a, n); }
// (a & b) | c
INLINE vi and_or(vi a, vi b, vi c) { return _mm512_ternarylogic_epi32(a, b, c, 0xea); }
// The bytes of each 16 of v that `where` names; zeros where that is negative.
INLINE vi bytes_of(vi v, vi where) { return _mm512_shuffle_epi8(v, where); }
INLINE vi all_sixteen(const void * p) { return _mm512_broadcast_i32x4(_mm_loadu_si128(p)); }
INLINE vf to_float(vi v) { return _mm512_cvtepi32_ps(v); }
INLINE vf mul_float(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf add_float(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf fused(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf fused_minus(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
// The lower 16 bits of each lane, as a float of 16 bits.
INLINE vf half_to_float(vi v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

INLINE vi interleave_low(vi a, vi b) { return _mm512_unpacklo_epi32(a, b); }
INLINE vi interleave_high(vi a, vi b) { return _mm512_unpackhi_epi32(a, b); }
INLINE vi interleave_low_pairs(vi a, vi b) { return _mm512_unpacklo_epi64(a, b); }
INLINE vi interleave_high_pairs(vi a, vi b) { return _mm512_unpackhi_epi64(a, b); }

// 16 bytes each of four rows.
INLINE vi four_rows(const uint8_t * a, const uint8_t * b, const uint8_t * c, const uint8_t * d) {
    const vi v = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *) a));
    const vi w = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128((const void *) b));
    const vi x = _mm512_mask_broadcast_i32x4(w, 0x0f00, _mm_loadu_si128((const void *) c));
    return _mm512_mask_broadcast_i32x4(x, 0xf000, _mm_loadu_si128((const void *) d));
}
#define ROWS_AT(offset) \
    four_rows(s.fourth[0] + (offset), s.fourth[1] + (offset), s.fourth[2] + (offset), s.fourth[3] + (offset))

// Bits n to n + 3 of a lane, as bit 4 of its bytes 0 to 3.
INLINE vi spread_bits(vi v, int n) {
    return and(mul(and(right(v, n), all_int(15)), all_int(0x02040810)), all_int(0x10101010));
}

// Half of two to the power of a lane minus 127.
INLINE vf half_of_power(vi v) {
    const vi small = _mm512_sllv_epi32(all_int(0x00200000), v), bits = left(sub(v, all_int(1)), 23);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, _mm512_cmplt_epi32_mask(v, all_int(2)), small));
}

// --- sixteen floats --------------------------------------------------------------------------------------------------

#define ROWS_AT_ONCE 3
#define VALUES_AT_ONCE 8

typedef __m512 wide;

INLINE wide wide_load(const float * p) { return _mm512_loadu_ps(p); }
INLINE void wide_store(float * p, wide v) { _mm512_storeu_ps(p, v); }
INLINE wide wide_all(float v) { return _mm512_set1_ps(v); }
INLINE wide wide_add(wide a, wide b) { return _mm512_add_ps(a, b); }
INLINE wide wide_sub(wide a, wide b) { return _mm512_sub_ps(a, b); }
INLINE wide wide_mul(wide a, wide b) { return _mm512_mul_ps(a, b); }
INLINE wide wide_max(wide a, wide b) { return _mm512_max_ps(a, b); }
INLINE wide wide_fused(wide a, wide b, wide c) { return _mm512_fmadd_ps(a, b, c); }
INLINE float wide_first(wide v) { return _mm512_cvtss_f32(v); }
INLINE wide wide_halves(const uint16_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *) p)); }
// v times two to the power of the whole number in the lower bits of n.
INLINE wide wide_add_exponent(wide v, wide n) {
    return _mm512_castsi512_ps(add(_mm512_castps_si512(v), left(_mm512_castps_si512(n), 23)));
}
// v, and zero where x is less than low.
INLINE wide wide_unless_below(wide v, wide x, wide low) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), v);
}
// Sums of the lanes of four: of the first in lanes 0 to 3, and so on, four parts of each.
INLINE wide wide_merge_four(const wide v[4]) {
    const wide a = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xee));
    const wide b = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
// The four parts of each become two, of a and of b; then one.
INLINE wide wide_merge_halves(wide a, wide b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
INLINE wide wide_merge_pairs(wide a, wide b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
INLINE float wide_largest(wide v) { return _mm512_reduce_max_ps(v); }
