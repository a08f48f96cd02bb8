// Compiled for AVX2 with VNNI (AVX-VNNI).

#include "matmul.h"

#if defined(__AVXVNNI__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define VECTORS "avx2.h"
#include "variant.h"

const struct matmul * matmul_avxvnni(int type) { return find(type); }
const struct attention_kernels * const attention_avxvnni = &attention;
#else
const struct matmul * matmul_avxvnni(int type) {
    (void) type;
    return NULL;
}
const struct attention_kernels * const attention_avxvnni = NULL;
#endif
