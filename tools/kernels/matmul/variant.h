// All types for one instruction set; included by a source that is compiled for it.

#pragma once

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#include <math.h>
#include <string.h>

#include VECTORS
#include "unpack.h"
#include "activate.h"
#include "dots.h"
#include "attention.h"

#define ACTIVATE_K(suffix, sub, bias)                                                                             \
    static void activate_##suffix(const float * x, int count, struct act * a) {                                   \
        (void) count;                                                                                             \
        activate_k(x, a, sub, bias);                                                                              \
    }                                                                                                             \
    static void adopt_##suffix(const void * blocks, int count, struct act * a) {                                  \
        (void) count;                                                                                             \
        adopt_k(blocks, a, sub, bias);                                                                            \
    }

#define ACTIVATE_B(suffix, bias, header)                                                                          \
    static void activate_##suffix(const float * x, int count, struct act * a) { activate_b(x, count, a, bias); }  \
    static void adopt_##suffix(const void * blocks, int count, struct act * a) {                                  \
        adopt_b(blocks, count, a, bias, header);                                                                  \
    }

ACTIVATE_K(k32, 32, 0)
ACTIVATE_K(k32_128, 32, 128)
ACTIVATE_K(k16, 16, 0)
ACTIVATE_K(k16_4, 16, 4)
ACTIVATE_K(k16_32, 16, 32)
ACTIVATE_B(b0, 0, 4)
ACTIVATE_B(b8, 8, 2)
ACTIVATE_B(b12, 12, 2)
ACTIVATE_B(b16, 16, 2)
ACTIVATE_B(b128, 128, 2)

DOTS(dot_q4_k, dot_k, 32, 15, true, false)
DOTS(dot_q5_k, dot_k, 32, 31, true, false)
DOTS(dot_q6_k, dot_k, 16, 63, false, true)
DOTS(dot_q3_k, dot_k, 16, 7, false, true)
DOTS(dot_q2_k, dot_k, 16, 3, true, false)
DOTS(dot_iq4_xs, dot_k, 32, 255, false, true)
DOTS(dot_q4_0, dot_b, 32, 31, false, true)
DOTS(dot_q4_1, dot_b, 32, 31, true, false)
DOTS(dot_q8_0, dot_b, 32, 255, false, true)

#define TYPE(name, number, block, bytes, unpack, activations, dots) \
    {name, number, block, bytes, activate_##activations, adopt_##activations, unpack_##unpack, TABLE(dot_##dots)}

static const struct matmul types[] = {
    TYPE("Q4_0", 2, 32, 18, q4_0, b8, q4_0),
    TYPE("Q4_1", 3, 32, 20, q4_1, b0, q4_1),
    TYPE("Q5_0", 6, 32, 22, q5_0, b16, q4_0),
    TYPE("Q5_1", 7, 32, 24, q5_1, b0, q4_1),
    TYPE("Q8_0", 8, 32, 34, q8_0, b128, q8_0),
    TYPE("Q2_K", 10, 256, 84, q2_k, k16, q2_k),
    TYPE("Q3_K", 11, 256, 110, q3_k, k16_4, q3_k),
    TYPE("Q4_K", 12, 256, 144, q4_k, k32, q4_k),
    TYPE("Q5_K", 13, 256, 176, q5_k, k32, q5_k),
    TYPE("Q6_K", 14, 256, 210, q6_k, k16_32, q6_k),
    TYPE("IQ4_NL", 20, 32, 18, iq4_nl, b128, q8_0),
    TYPE("IQ4_XS", 23, 256, 136, iq4_xs, k32_128, iq4_xs),
    TYPE("MXFP4", 39, 32, 17, mxfp4, b12, q4_0),
};

static const struct matmul * find(int type) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; ++i) {
        if (types[i].type == type) {
            return &types[i];
        }
    }
    return NULL;
}
