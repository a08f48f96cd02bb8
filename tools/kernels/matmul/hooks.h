// What the parts that replace functions of ggml share.

#pragma once

#include "matmul.h"

// The kernels in use; NULL for ggml's.
const struct attention_kernels * ggufrun_attention(void);
