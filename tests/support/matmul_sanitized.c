// Runs every kernel of tools/kernels/matmul on memory of exactly the size it may touch: built with sanitizers, which
// end the process where one reads or writes beyond. Results of a column must not depend on the kernels, nor on other
// columns.

#include "panel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 1;

static uint32_t draw(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static void * room(size_t size) {
    // not rounded up: a guard begins right behind
    void * p = malloc(size);
    return p ? p : (exit(2), p);
}

static void * aligned_room(size_t size) {
    void * p = NULL;
    return posix_memalign(&p, 64, size) ? (exit(2), p) : p;
}

static void multiply(const struct matmul * m, const uint8_t * w, size_t stride, int rows, int64_t values,
                     const float * x, int64_t n, float * to) {
    const int64_t chunks = chunks_of(values);
    struct act * const acts = aligned_room((size_t) (chunks * n) * sizeof(struct act));
    for (int64_t j = 0; j < n; ++j) {
        float * const column = room((size_t) values * sizeof(float));
        memcpy(column, x + j * values, (size_t) values * sizeof(float));
        for (int64_t k = 0; k < chunks; ++k) {
            const int64_t left = values - k * CHUNK;
            m->activate(column + k * CHUNK, (int) (left < CHUNK ? left : CHUNK), acts + k * n + j);
        }
        free(column);
    }
    struct panel * const panel = aligned_room(panel_size(n));
    for (int r = 0; r < rows; r += PANEL_ROWS) {
        const int left = rows - r;
        const struct rows here = {w + (size_t) r * stride, stride, left < PANEL_ROWS ? left : PANEL_ROWS, values};
        const struct result result = {(char *) (to + r), (size_t) rows * sizeof(float), NULL, {0, 0}};
        matmul_panel(m, panel, here, (struct columns) {acts, n, n}, result);
    }
    free(panel);
    free(acts);
}

static int check(int type, matmul_fn * const * find, int variants, int rows, int blocks, int64_t n) {
    float * results[3] = {NULL, NULL, NULL};
    const uint32_t seed = state;
    int bad = 0;
    for (int v = 0; v < variants; ++v) {
        const struct matmul * const m = find[v](type);
        state = seed;
        const size_t stride = (size_t) blocks * m->bytes;
        const int64_t values = (int64_t) blocks * m->block;
        uint8_t * const w = room(stride * rows);
        for (size_t i = 0; i < stride * rows; ++i) {
            // no scale of any type becomes large, or no number
            w[i] = draw() & 0x3b;
        }
        float * const x = room((size_t) (values * n) * sizeof(float));
        for (int64_t i = 0; i < values * n; ++i) {
            x[i] = (float) ((int) (draw() % 2001) - 1000) / 37;
        }
        results[v] = room((size_t) (rows * n) * sizeof(float));
        multiply(m, w, stride, rows, values, x, n, results[v]);
        float * const alone = room((size_t) rows * sizeof(float));
        multiply(m, w, stride, rows, values, x + (n - 1) * values, 1, alone);
        bad |= memcmp(alone, results[v] + (n - 1) * rows, (size_t) rows * sizeof(float)) != 0;
        bad |= memcmp(results[v], results[0], (size_t) (rows * n) * sizeof(float)) != 0;
        free(alone);
        free(x);
        free(w);
    }
    for (int v = 0; v < variants; ++v) {
        free(results[v]);
    }
    if (bad) {
        printf("type %d, %d rows, %d blocks, %d columns differ\n", type, rows, blocks, (int) n);
    }
    return bad;
}

int main(int count, char ** names) {
    matmul_fn * find[3];
    int variants = 0, bad = 0, checked = 0;
    for (int i = 1; i < count; ++i) {
        matmul_fn * const found = strcmp(names[i], "avx512") == 0    ? matmul_avx512
                                  : strcmp(names[i], "avxvnni") == 0 ? matmul_avxvnni
                                                                     : matmul_avx2;
        if (found(12) != NULL) {
            find[variants++] = found;
        }
    }
    for (int type = 0; variants && type < 64; ++type) {
        if (find[0](type) == NULL) {
            continue;
        }
        for (int rows = 1; rows <= 97; rows += rows % 2 ? 15 : 17) {
            for (int blocks = 1; blocks <= 10; blocks += 3) {
                for (int64_t n = 1; n <= 9; n += 2) {
                    bad |= check(type, find, variants, rows, blocks, n);
                    ++checked;
                }
            }
        }
    }
    printf("%d products by %d kernels: %s\n", checked, variants, bad ? "WRONG" : "right");
    return bad;
}
