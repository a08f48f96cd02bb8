// TQ1_0 and TQ2_0: blocks of 256 values, each -1, 0 or 1 times the largest magnitude.

#include "lanes.h"

quantize_fn ggufrun_stock_quantize_tq1_0;
quantize_fn ggufrun_stock_quantize_tq2_0;

// The values as 0, 1 and 2, and the scale. False where ggml-quants.c must do it: for values that are not finite, or so
// small or large that the inverse of the largest is not a normal number.
INLINE bool round_to_three(const float * src, uint8_t * l, float * scale) {
    vf largest = all(0);
    vi fine = (vi) {0} - 1;
    for (int i = 0; i < QK_K; i += LANES) {
        vf x;
        memcpy(&x, src + i, sizeof x);
        fine &= absolute(x) < HUGE_VALUE;
        largest = pick(absolute(x) > largest, absolute(x), largest);
    }
    float max = 0;
    for (int k = 0; k < LANES; ++k) {
        max = largest[k] > max ? largest[k] : max;
    }
    if (any(~fine) || (max != 0 && max < TINY)) {
        return false;
    }
    *scale = max;
    const float inverse = max != 0 ? 1 / max : 0;
    for (int i = 0; i < QK_K; i += LANES) {
        vf x;
        memcpy(&x, src + i, sizeof x);
        x *= inverse;
        // Rounds halves away from zero, as lroundf does; a comparison is -1 where it holds.
        const vi rounded = (x <= -0.5f) - (x >= 0.5f) + 1;
        for (int k = 0; k < LANES; ++k) {
            l[i + k] = (uint8_t) rounded[k];
        }
    }
    return true;
}

// `n` bytes of 5 (or 4) digits of base 3, the first one highest: values `n` apart. A byte is the digits' number as a
// fraction of 256, rounded up.
INLINE void join_digits(int n, int digits, const uint8_t * l, uint8_t * bytes) {
    for (int i = 0; i < n; ++i) {
        int q = 0;
        for (int d = 0; d < 5; ++d) {
            q = 3 * q + (d < digits ? l[n * d + i] : 0);
        }
        bytes[i] = (uint8_t) ((q * 256 + 242) / 243);
    }
}

static bool quantize_block_tq1_0(const float * src, block_tq1_0 * y) {
    uint8_t l[QK_K];
    float scale;
    if (!round_to_three(src, l, &scale)) {
        return false;
    }
    join_digits(32, 5, l, y->qs);
    join_digits(16, 5, l + 160, y->qs + 32);
    join_digits(4, 4, l + 240, y->qh);
    y->d = ggml_fp32_to_fp16(scale);
    return true;
}

static bool quantize_block_tq2_0(const float * src, block_tq2_0 * y) {
    uint8_t l[QK_K];
    float scale;
    if (!round_to_three(src, l, &scale)) {
        return false;
    }
    for (int half = 0; half < 2; ++half) {
        const uint8_t * q = l + 128 * half;
        for (int i = 0; i < 32; ++i) {
            y->qs[32 * half + i] = (uint8_t) (q[i] | q[i + 32] << 2 | q[i + 64] << 4 | q[i + 96] << 6);
        }
    }
    y->d = ggml_fp32_to_fp16(scale);
    return true;
}

#define QUANTIZE(TYPE)                                                                                                 \
    size_t quantize_##TYPE(const float * src, void * dst, int64_t nrow, int64_t n_per_row, const float * imatrix) {    \
        const int64_t blocks = nrow * n_per_row / QK_K;                                                                \
        block_##TYPE * y = dst;                                                                                        \
        for (int64_t b = 0; b < blocks; ++b) {                                                                         \
            if (!quantize_block_##TYPE(src + QK_K * b, y + b)) {                                                       \
                ggufrun_stock_quantize_##TYPE(src + QK_K * b, y + b, 1, QK_K, imatrix);                                \
            }                                                                                                          \
        }                                                                                                              \
        return (size_t) blocks * sizeof(block_##TYPE);                                                                 \
    }

QUANTIZE(tq1_0)
QUANTIZE(tq2_0)
