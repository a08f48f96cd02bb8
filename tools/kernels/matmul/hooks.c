// In the place of ggml's tiled products (ggml-cpu/tiled), which every product of matrices asks first. What these
// kernels do not have goes to ggml's own, under the names that tools/matmul.cmake gives them.

#include "hooks.h"
#include "panel.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef const struct ggml_compute_params params_t;

size_t ggml_tiled_wdata_size(int n_tasks, struct ggml_tensor * dst);
bool   ggml_compute_forward_mul_mat_tiled(params_t * params, struct ggml_tensor * dst);
bool   ggml_compute_forward_mul_mat_id_tiled(params_t * params, struct ggml_tensor * dst, int64_t expert, int64_t n,
                                             const int32_t * ids, char * scratch);

size_t ggufrun_stock_tiled_wdata_size(int n_tasks, struct ggml_tensor * dst);
bool   ggufrun_stock_mul_mat_tiled(params_t * params, struct ggml_tensor * dst);
bool   ggufrun_stock_mul_mat_id_tiled(params_t * params, struct ggml_tensor * dst, int64_t expert, int64_t n,
                                      const int32_t * ids, char * scratch);

// --- which kernels --------------------------------------------------------------------------------------------------

struct variant {
    const char * name;
    matmul_fn *  find;
    bool (*runs)(void);
    const struct attention_kernels * const * attention;
};

#if defined(__x86_64__)
static bool runs_avx2(void) {
    unsigned a, b, c, d;
    const bool half = __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
    return half && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool runs_avxvnni(void) {
    unsigned a, b, c, d;
    return runs_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

static bool runs_avx512(void) {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

// The best first.
static const struct variant variants[] = {
#if defined(__x86_64__)
    {"avx512", matmul_avx512, runs_avx512, &attention_avx512},
    {"avxvnni", matmul_avxvnni, runs_avxvnni, &attention_avxvnni},
    {"avx2", matmul_avx2, runs_avx2, &attention_avx2},
#endif
    {"stock", NULL, NULL, NULL},
};

// "ours": the best that runs here; a name: that one. Everything else, NULL too, is stock, and so is a name that does not
// run here or was not compiled. Stock is the default, whichever library or program loads ggml first.
static const struct variant * choose(const char * wanted) {
    const struct variant * v = variants;
    const int best = wanted != NULL && strcmp(wanted, "ours") == 0;
    for (; v->find != NULL; ++v) {
        if (wanted != NULL && (best || strcmp(wanted, v->name) == 0) && v->find(GGML_TYPE_Q4_K) && v->runs()) {
            break;
        }
    }
    return v;
}

static const struct variant * _Atomic chosen;

static const struct variant * variant(void) {
    const struct variant * v = atomic_load_explicit(&chosen, memory_order_acquire);
    if (v == NULL) {
        v = choose(getenv("GGUFRUN_KERNELS"));
        atomic_store_explicit(&chosen, v, memory_order_release);
    }
    return v;
}

// The name of the kernels in use: "stock" if they are ggml's. Given a name, those are used from now on, if they run
// here; no product may be computed meanwhile.
GGML_BACKEND_API const char * ggufrun_kernels(const char * wanted);

const char * ggufrun_kernels(const char * wanted) {
    if (wanted != NULL) {
        atomic_store_explicit(&chosen, choose(wanted), memory_order_release);
    }
    return variant()->name;
}

const struct attention_kernels * ggufrun_attention(void) {
    const struct variant * const v = variant();
    return v->attention == NULL ? NULL : *v->attention;
}

// NULL for what ggml computes itself.
static const struct matmul * kernel_for(const struct ggml_tensor * dst) {
    const struct ggml_tensor * const w = dst->src[0], * const x = dst->src[1];
    const struct variant * const v = variant();
    // `extra`: the weights are in a layout of another kind of buffer
    if (v->find == NULL || w->extra != NULL || x->type != GGML_TYPE_F32 || dst->type != GGML_TYPE_F32) {
        return NULL;
    }
    if (x->nb[0] != sizeof(float) || dst->nb[0] != sizeof(float) || w->nb[0] != ggml_type_size(w->type)) {
        return NULL;
    }
    return v->find(w->type);
}

// --- memory ---------------------------------------------------------------------------------------------------------

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline size_t align(size_t size) { return (size + 63) & ~(size_t) 63; }

static inline void * aligned(void * p) { return (void *) align((uintptr_t) p); }

static size_t acts_size(int64_t values, int64_t columns) {
    return align((size_t) (chunks_of(values) * columns) * sizeof(struct act));
}

// The bytes that ggml reserves for quantized activations anyway.
static size_t reserved(const struct ggml_tensor * dst) {
    const enum ggml_type type = ggml_get_type_traits_cpu(dst->src[0]->type)->vec_dot_type;
    return dst->src[1]->type == type ? 0 : align(ggml_row_size(type, ggml_nelements(dst->src[1])));
}

// Columns of an expert that a thread has records of at once.
static int64_t expert_columns(const struct ggml_tensor * dst) { return min(ggml_nelements(dst->src[2]), 96); }

static size_t expert_size(const struct ggml_tensor * dst) {
    return align(panel_size(expert_columns(dst))) + acts_size(dst->src[0]->ne[0], expert_columns(dst));
}

// What the products below need besides what ggml reserves.
size_t ggml_tiled_wdata_size(int n_tasks, struct ggml_tensor * dst) {
    const size_t stock = ggufrun_stock_tiled_wdata_size(n_tasks, dst);
    if (kernel_for(dst) == NULL) {
        return stock;
    }
    size_t size = 64;
    if (dst->op == GGML_OP_MUL_MAT_ID) {
        size += n_tasks * expert_size(dst);
    } else {
        const struct ggml_tensor * const x = dst->src[1];
        const size_t all = acts_size(x->ne[0], ggml_nrows(x)) + n_tasks * align(panel_size(x->ne[1]));
        size += all > reserved(dst) ? all - reserved(dst) : 0;
    }
    return size > stock ? size : stock;
}

// --- products -------------------------------------------------------------------------------------------------------

// This thread's share of the records; records lie matrix by matrix, chunk by chunk, column by column.
static void activate_all(const struct matmul * m, params_t * params, const struct ggml_tensor * x, struct act * acts) {
    const int64_t chunks = chunks_of(x->ne[0]), n = x->ne[1], all = ggml_nrows(x) * chunks;
    for (int64_t i = all * params->ith / params->nth; i < all * (params->ith + 1) / params->nth; ++i) {
        const int64_t k = i % chunks, j = i / chunks % n, batch = i / chunks / n;
        const char * const matrix = (const char *) x->data + batch % x->ne[2] * x->nb[2] + batch / x->ne[2] * x->nb[3];
        const float * const from = (const float *) (matrix + j * x->nb[1]) + k * CHUNK;
        m->activate(from, (int) min(x->ne[0] - k * CHUNK, CHUNK), acts + (batch * chunks + k) * n + j);
    }
}

bool ggml_compute_forward_mul_mat_tiled(params_t * params, struct ggml_tensor * dst) {
    const struct matmul * const m = params->use_ref ? NULL : kernel_for(dst);
    if (m == NULL) {
        return ggufrun_stock_mul_mat_tiled(params, dst);
    }
    const struct ggml_tensor * const w = dst->src[0], * const x = dst->src[1];
    const int64_t n = x->ne[1], rows = w->ne[1], batches = x->ne[2] * x->ne[3];
    struct act * const acts = aligned(params->wdata);
    const size_t size = align(panel_size(n)), before = acts_size(x->ne[0], ggml_nrows(x)) + params->ith * size;
    struct panel * const panel = (struct panel *) ((char *) acts + before);
    GGML_ASSERT((char *) panel + size <= (char *) params->wdata + params->wsize);

    activate_all(m, params, x, acts);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    // Few columns wait for memory. Half a panel's rows that were asked for stay near until they are unpacked, and a job
    // of several panels asks for its own.
    const bool    few  = n <= 16;
    const int64_t tall = !few && rows * batches >= 4 * PANEL_ROWS * params->nth ? PANEL_ROWS : PANEL_ROWS / 2;
    const int64_t most = few ? min(rows / (8 * params->nth) / tall, 16) * tall : tall;
    const int64_t job_rows = most < tall ? tall : most;
    const int64_t jobs = (rows + job_rows - 1) / job_rows;
    int64_t job = params->ith;
    for (; job < jobs * batches; job = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        // llama.cpp spreads the weights' matrices over the activations'
        const int64_t batch = job / jobs, i2 = batch % x->ne[2], i3 = batch / x->ne[2];
        const int64_t w2 = i2 / (x->ne[2] / w->ne[2]), w3 = i3 / (x->ne[3] / w->ne[3]);
        const uint8_t * const matrix = (const uint8_t *) w->data + w2 * w->nb[2] + w3 * w->nb[3];
        char * const to = (char *) dst->data + i2 * dst->nb[2] + i3 * dst->nb[3];
        const struct columns columns = {acts + batch * chunks_of(x->ne[0]) * n, n, n};
        const int64_t end = min((job % jobs + 1) * job_rows, rows);
        for (int64_t r = job % jobs * job_rows; r < end; r += tall) {
            const struct rows here = {matrix + r * w->nb[1], w->nb[1], (int) min(end - r, tall), x->ne[0]};
            matmul_panel(m, panel, here, columns, (struct result) {to + r * sizeof(float), dst->nb[1], NULL, {0, 0}});
        }
    }
    return true;
}

// The records of `n` columns, made from ggml's quantized ones.
static void adopt_all(const struct matmul * m, params_t * params, const struct ggml_tensor * dst, int64_t n,
                      const int32_t * ids, struct act * acts, int64_t stride) {
    const struct ggml_tensor * const x = dst->src[1];
    const enum ggml_type type = ggml_get_type_traits_cpu(dst->src[0]->type)->vec_dot_type;
    const size_t row = ggml_row_size(type, x->ne[0]), chunk = ggml_row_size(type, CHUNK);
    for (int64_t j = 0; j < n; ++j, ids += 2) {
        const char * const from = (const char *) params->wdata + (ids[0] % x->ne[1] + ids[1] * x->ne[1]) * row;
        for (int64_t k = 0; k < chunks_of(x->ne[0]); ++k) {
            m->adopt(from + k * chunk, (int) min(x->ne[0] - k * CHUNK, CHUNK), acts + k * stride + j);
        }
    }
}

// One expert's columns, of which `ids` has pairs: which of the token's experts, which token.
bool ggml_compute_forward_mul_mat_id_tiled(params_t * params, struct ggml_tensor * dst, int64_t expert, int64_t n,
                                           const int32_t * ids, char * scratch) {
    const struct matmul * const m = params->use_ref ? NULL : kernel_for(dst);
    if (m == NULL) {
        return ggufrun_stock_mul_mat_id_tiled(params, dst, expert, n, ids, scratch);
    }
    const struct ggml_tensor * const w = dst->src[0];
    const int64_t rows = w->ne[1], tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, most = expert_columns(dst);
    const int64_t first = tiles * params->ith / params->nth * TILE_ROWS;
    const int64_t end = min(tiles * (params->ith + 1) / params->nth * TILE_ROWS, rows);
    if (first >= end) {
        return true;
    }
    struct panel * const panel = (struct panel *) ((char *) aligned(scratch) + params->ith * expert_size(dst));
    struct act * const acts = (struct act *) ((char *) panel + align(panel_size(most)));
    GGML_ASSERT((char *) panel + expert_size(dst) <= (char *) params->wdata + params->wsize);

    const uint8_t * const matrix = (const uint8_t *) w->data + expert * w->nb[2];
    const int64_t tall = n > 16 ? PANEL_ROWS : PANEL_ROWS / 2;
    for (int64_t j = 0; j < n; j += most, ids += 2 * most) {
        const struct columns columns = {acts, most, min(n - j, most)};
        adopt_all(m, params, dst, columns.count, ids, acts, most);
        for (int64_t r = first; r < end; r += tall) {
            const struct rows here = {matrix + r * w->nb[1], w->nb[1], (int) min(end - r, tall), w->ne[0]};
            const struct result to = {(char *) dst->data + r * sizeof(float), 0, ids, {dst->nb[1], dst->nb[2]}};
            matmul_panel(m, panel, here, columns, to);
        }
    }
    return true;
}
