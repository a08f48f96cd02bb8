// In the place of ggml's attention on the processor (GGML_OP_FLASH_ATTN_EXT). What is not computed here goes to ggml's
// own, which tools/matmul.cmake renames.
//
// ggml adds up in one of three orders, by the number of tokens and threads, one of them in floats of 16 bits. Here
// there is one: cells of the cache in order, 64 after 64, segment after segment.

#include "hooks.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

#include <math.h>
#include <string.h>

typedef const struct ggml_compute_params params_t;

void ggml_compute_forward_flash_attn_ext(params_t * params, struct ggml_tensor * dst);
void ggufrun_stock_flash_attn_ext(params_t * params, struct ggml_tensor * dst);

// Rows of a job. The memory that ggml reserves is for more.
#define MOST_ROWS 32

struct job_memory {
    float * q, * k, * v, * p, * mask, * segment, * all, * total;
};

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

static size_t job_floats(int64_t key_width, int64_t value_width) {
    return MOST_ROWS * (key_width + 2 * CELLS + 2 * (ROW_HEAD + value_width) + 16) + CELLS * (key_width + value_width);
}

static struct job_memory divide(float * f, int64_t key_width, int64_t value_width) {
    struct job_memory m;
    m.q = f;
    m.k = m.q + MOST_ROWS * key_width;
    m.v = m.k + CELLS * key_width;
    m.p = m.v + CELLS * value_width;
    m.mask = m.p + MOST_ROWS * CELLS;
    m.segment = m.mask + MOST_ROWS * CELLS;
    m.all = m.segment + MOST_ROWS * (ROW_HEAD + value_width);
    m.total = m.all + MOST_ROWS * (ROW_HEAD + value_width);
    return m;
}

// What an operation says.
struct call {
    const struct attention_kernels * kernels;
    const struct ggml_tensor *       q, * k, * v, * mask, * sinks;
    float                            scale, max_bias;
    int64_t                          tokens, group, cells, heads;  // group: heads that share keys
    int64_t                          job_tokens;                   // tokens of a job, with all heads of a group
};

// One job: which batch, which keys' head, tokens from where, how many.
struct job {
    int64_t batch, head, token, count;
};

static float slope_of(const struct call * c, int64_t head) {
    if (c->max_bias <= 0) {
        return 1;
    }
    const uint32_t power = 1u << (uint32_t) floor(log2((double) c->heads));
    const float m0 = powf(2.0f, -c->max_bias / power), m1 = powf(2.0f, -(c->max_bias / 2.0f) / power);
    return head < power ? powf(m0, (float) (head + 1)) : powf(m1, (float) (2 * (head - power) + 1));
}

// Rows lie token by token, the group's heads of each.
static void load_queries(const struct call * c, struct job job, float * to) {
    const int64_t width = c->q->ne[0];
    for (int64_t t = 0; t < job.count; ++t) {
        for (int64_t g = 0; g < c->group; ++g, to += width) {
            const int64_t head = job.head * c->group + g;
            const char * const batch = (const char *) c->q->data + job.batch * c->q->nb[3];
            const char * const from = batch + head * c->q->nb[2] + (job.token + t) * c->q->nb[1];
            memcpy(to, from, (size_t) width * sizeof(float));
        }
    }
}

static const uint16_t * mask_of(const struct call * c, struct job job, int64_t token, int64_t head) {
    const struct ggml_tensor * const m = c->mask;
    const char * const at = (const char *) m->data + (job.token + token) * m->nb[1];
    return (const uint16_t *) (at + head % m->ne[2] * m->nb[2] + job.batch % m->ne[3] * m->nb[3]);
}

#define HIDDEN 0xfc00

// The mask of CELLS cells, a row each; false if all of them are hidden.
static bool load_mask(const struct call * c, struct job job, int64_t cell, float * to) {
    const int64_t here = min(c->cells - cell, CELLS);
    bool seen = false;
    for (int64_t t = 0; t < job.count; ++t) {
        for (int64_t g = 0; g < c->group; ++g, to += CELLS) {
            if (c->mask == NULL) {
                memset(to, 0, CELLS * sizeof(float));
                seen = true;
            } else if (g > 0 && c->max_bias <= 0 && c->mask->ne[2] == 1) {
                memcpy(to, to - CELLS, CELLS * sizeof(float));
            } else {
                const int64_t head = job.head * c->group + g;
                const uint16_t * const from = mask_of(c, job, t, head) + cell;
                uint16_t halves[CELLS];
                uint32_t open = 0;
                for (int64_t k = 0; k < CELLS; ++k) {
                    halves[k] = k < here ? from[k] : HIDDEN;
                    open |= halves[k] ^ HIDDEN;
                }
                seen |= open != 0;
                c->kernels->halves_to_floats(halves, to, CELLS);
                const float slope = slope_of(c, head);
                for (int64_t k = 0; slope != 1 && k < CELLS; ++k) {
                    to[k] *= slope;
                }
            }
            for (int64_t k = here; k < CELLS; ++k) {
                to[k] = -INFINITY;
            }
        }
    }
    return seen;
}

// CELLS rows of keys or values as floats.
static void load_cells(const struct call * c, const struct ggml_tensor * from, struct job job, int64_t cell,
                       float * to) {
    const int64_t width = from->ne[0], here = min(c->cells - cell, CELLS);
    const int64_t batch = job.batch / (c->q->ne[3] / from->ne[3]);
    const char * row = (const char *) from->data + cell * from->nb[1] + job.head * from->nb[2] + batch * from->nb[3];
    for (int64_t k = 0; k < here; ++k, row += from->nb[1], to += width) {
        if (from->type == GGML_TYPE_F16) {
            c->kernels->halves_to_floats((const uint16_t *) row, to, (int) width);
        } else if (from->type == GGML_TYPE_F32) {
            memcpy(to, row, (size_t) width * sizeof(float));
        } else {
            ggml_get_type_traits(from->type)->to_float(row, to, width);
        }
    }
    memset(to, 0, (size_t) ((CELLS - here) * width) * sizeof(float));
}

// One segment of one job into m.segment.
static void attend_to_segment(const struct call * c, const struct attention * a, struct job_memory m, struct job job,
                              int64_t segment) {
    const int64_t end = min((segment + 1) * SEGMENT, c->cells);
    c->kernels->begin(a);
    for (int64_t cell = segment * SEGMENT; cell < end; cell += CELLS) {
        if (load_mask(c, job, cell, m.mask)) {
            load_cells(c, c->k, job, cell, m.k);
            load_cells(c, c->v, job, cell, m.v);
            c->kernels->attend(a, m.k, m.v, m.mask);
        }
    }
    c->kernels->finish(a);
}

static void clear_rows(float * rows, int64_t count, int64_t stride) {
    memset(rows, 0, (size_t) (count * stride) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
        rows[i * stride] = -INFINITY;
    }
}

// A row of sums becomes a head's result.
static void write_row(const struct call * c, struct ggml_tensor * dst, const float * row, int64_t token, int64_t head,
                      int64_t batch) {
    float total = row[1], factor = 1;
    if (c->sinks != NULL) {
        const float sink = ((const float *) c->sinks->data)[head];
        factor = sink > row[0] ? expf(row[0] - sink) : 1;
        total = total * factor + (sink > row[0] ? 1 : expf(sink - row[0]));
    }
    const float share = total == 0 ? 0 : factor / total;
    const int64_t place = (batch * dst->ne[2] + token) * dst->ne[1] + head;
    float * const to = (float *) ((char *) dst->data + place * dst->nb[1]);
    for (int64_t d = 0; d < dst->ne[0]; ++d) {
        to[d] = row[ROW_HEAD + d] * share;
    }
}

static bool readable(const struct ggml_tensor * t) {
    const bool known = t->type == GGML_TYPE_F32 || ggml_get_type_traits(t->type)->to_float != NULL;
    return known && t->ne[0] % 16 == 0 && t->nb[0] == ggml_type_size(t->type);
}

static bool covered(const struct ggml_tensor * dst) {
    const struct ggml_tensor * const q = dst->src[0], * const k = dst->src[1], * const v = dst->src[2];
    const struct ggml_tensor * const mask = dst->src[3];
    float softcap;
    memcpy(&softcap, (const float *) dst->op_params + 2, sizeof softcap);
    return softcap == 0 && q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && dst->type == GGML_TYPE_F32 &&
           readable(k) && readable(v) && k->ne[2] == v->ne[2] && q->ne[2] / k->ne[2] <= MOST_ROWS &&
           (mask == NULL || mask->type == GGML_TYPE_F16);
}

void ggml_compute_forward_flash_attn_ext(params_t * params, struct ggml_tensor * dst) {
    struct call c = {
        .kernels = params->use_ref ? NULL : ggufrun_attention(),
        .q = dst->src[0], .k = dst->src[1], .v = dst->src[2], .mask = dst->src[3], .sinks = dst->src[4],
    };
    const int64_t key_width = c.k->ne[0], value_width = c.v->ne[0], stride = ROW_HEAD + value_width;
    const size_t floats = job_floats(key_width, value_width), room = params->wsize / sizeof(float);
    if (c.kernels == NULL || !covered(dst) || params->nth * floats > room) {
        ggufrun_stock_flash_attn_ext(params, dst);
        return;
    }
    memcpy(&c.scale, (const float *) dst->op_params, sizeof c.scale);
    memcpy(&c.max_bias, (const float *) dst->op_params + 1, sizeof c.max_bias);
    c.tokens = c.q->ne[1], c.heads = c.q->ne[2], c.group = c.heads / c.k->ne[2], c.cells = c.k->ne[1];
    c.job_tokens = min(MOST_ROWS / c.group, c.tokens);

    const int64_t pieces = (c.tokens + c.job_tokens - 1) / c.job_tokens, segments = (c.cells + SEGMENT - 1) / SEGMENT;
    const int64_t jobs = c.q->ne[3] * c.k->ne[2] * pieces, rows = c.q->ne[3] * c.heads * c.tokens;
    // Segments are jobs of their own where there are few others, and room for what they give.
    const size_t all = params->nth * floats + rows * segments * stride;
    const bool apart = segments > 1 && jobs < 2 * params->nth && all <= room;
    const int64_t parts = apart ? segments : 1;
    struct job_memory m = divide((float *) params->wdata + params->ith * floats, key_width, value_width);
    float * const given = (float *) params->wdata + params->nth * floats;

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t i = params->ith; i < jobs * parts; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t part = i % parts, piece = i / parts % pieces, head = i / parts / pieces % c.k->ne[2];
        struct job job = {i / parts / pieces / c.k->ne[2], head, piece * c.job_tokens, 0};
        job.count = min(c.tokens - job.token, c.job_tokens);
        const int64_t count = job.count * c.group;
        const int64_t first = ((job.batch * c.k->ne[2] + head) * c.tokens + job.token) * c.group;
        float * const to = apart ? given + (part * rows + first) * stride : m.segment;
        const struct attention a = {
            (int) count, (int) key_width, (int) value_width, (int) stride, c.scale, m.q, m.p, to, m.total,
        };
        load_queries(&c, job, m.q);
        if (apart) {
            attend_to_segment(&c, &a, m, job, part);
            continue;
        }
        clear_rows(m.all, count, stride);
        for (int64_t s = 0; s < segments; ++s) {
            attend_to_segment(&c, &a, m, job, s);
            for (int64_t r = 0; r < count; ++r) {
                c.kernels->combine(m.all + r * stride, m.segment + r * stride, (int) value_width);
            }
        }
        for (int64_t r = 0; r < count; ++r) {
            write_row(&c, dst, m.all + r * stride, job.token + r / c.group, head * c.group + r % c.group, job.batch);
        }
    }
    if (!apart) {
        return;
    }
    ggml_barrier(params->threadpool);
    // rows as the jobs laid them: batch, keys' head, token, head of the group
    for (int64_t r = params->ith; r < rows; r += params->nth) {
        clear_rows(m.all, 1, stride);
        for (int64_t s = 0; s < segments; ++s) {
            c.kernels->combine(m.all, given + (s * rows + r) * stride, (int) value_width);
        }
        const int64_t g = r % c.group, token = r / c.group % c.tokens, head = r / c.group / c.tokens % c.k->ne[2];
        write_row(&c, dst, m.all, token, head * c.group + g, r / c.group / c.tokens / c.k->ne[2]);
    }
}
