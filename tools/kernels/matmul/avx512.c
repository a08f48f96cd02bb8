// Compiled for AVX-512 with VNNI.

#include "matmul.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define VECTORS "avx512.h"
#include "variant.h"

const struct matmul * matmul_avx512(int type) { return find(type); }
const struct attention_kernels * const attention_avx512 = &attention;
#else
const struct matmul * matmul_avx512(int type) {
    (void) type;
    return NULL;
}
const struct attention_kernels * const attention_avx512 = NULL;
#endif
