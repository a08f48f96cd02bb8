// Compiled for AVX2.

#include "matmul.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define VECTORS "avx2.h"
#include "variant.h"

const struct matmul * matmul_avx2(int type) { return find(type); }
const struct attention_kernels * const attention_avx2 = &attention;
#else
const struct matmul * matmul_avx2(int type) {
    (void) type;
    return NULL;
}
const struct attention_kernels * const attention_avx2 = NULL;
#endif
