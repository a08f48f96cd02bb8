// Makes the grids' tables, as iq2xs_init_impl and iq3xs_init_impl of ggml-quants.c do it: the same candidates in the same
// order. Theirs sort all points for every point, some seconds; here a count of the distances is enough.

#define GGML_COMMON_IMPL_C
#include "ggml-common.h"

#include "grid.h"

#include <stdlib.h>

void ggufrun_stock_iq2xs_free_impl(enum ggml_type type);
void ggufrun_stock_iq3xs_free_impl(int grid_size);

struct grid ggufrun_grids[GRIDS];

// Where the points stand: as the bytes that a decoder multiplies. Those of level l are (byte + offset) / divisor.
struct source {
    struct shape shape;
    int points, offset, divisor;
    int nearest;                   // so many different distances count
    const uint64_t * wide;         // either
    const uint32_t * narrow;
};

static const struct source sources[GRIDS] = {
    [GRID_IQ3_XXS] = { { 4, 8, 8 },  256, 0,  8, 2, NULL, iq3xxs_grid },
    [GRID_IQ3_S]   = { { 4, 8, 8 },  512, 0,  2, 3, NULL, iq3s_grid },
    [GRID_IQ2_XXS] = { { 8, 3, 4 },  256, 0, 16, 2, iq2xxs_grid, NULL },
    [GRID_IQ2_XS]  = { { 8, 3, 4 },  512, 0, 16, 2, iq2xs_grid, NULL },
    [GRID_IQ2_S]   = { { 8, 3, 4 }, 1024, 0, 16, 1, iq2s_grid, NULL },
    [GRID_IQ1]     = { { 8, 3, 4 }, 2048, 1,  1, 3, iq1s_grid, NULL },
};

#define MOST_POINTS 2048
#define MOST_WIDTH 8
#define MOST_DISTANCE (4 * 7 * 7 + 1)

static uint32_t code_of(struct shape shape, const uint8_t * level) {
    uint32_t code = 0;
    for (int c = 0; c < shape.width; ++c) {
        code |= code_digit(shape, c, level[c]);
    }
    return code;
}

// How many of the points are within the `nearest` smallest distances, and what the largest of these is.
static int count_near(const struct source * source, const uint16_t * distance, int * last) {
    int count[MOST_DISTANCE] = {0}, found = 0, total = 0;
    for (int p = 0; p < source->points; ++p) {
        ++count[distance[p]];
    }
    for (int d = 0; d < MOST_DISTANCE && found < source->nearest; ++d) {
        if (count[d]) {
            ++found;
            total += count[d];
            *last = d;
        }
    }
    return total;
}

static void make_grid(const struct source * source, struct grid * grid) {
    const struct shape shape = source->shape;
    int numbers = 1;
    for (int c = 0; c < shape.width; ++c) {
        numbers *= shape.levels;
    }
    uint8_t level[MOST_WIDTH][MOST_POINTS];
    uint32_t code[MOST_POINTS];
    struct near * near = calloc((size_t) numbers, sizeof *near);
    uint16_t * index = calloc((size_t) numbers, sizeof *index);
    uint8_t * on = calloc((size_t) numbers, 1);
    GGML_ASSERT(near && index && on);
    for (int p = 0; p < source->points; ++p) {
        const uint64_t values = source->wide ? source->wide[p] : source->narrow[p];
        uint8_t one[MOST_WIDTH];
        int number = 0;
        for (int c = 0; c < shape.width; ++c) {
            const int byte = (int) (values >> 8 * c & 0xFF);
            one[c] = level[c][p] = (uint8_t) (((byte + source->offset) & 0xFF) / source->divisor);
            number = number * shape.levels + one[c];
        }
        code[p] = code_of(shape, one);
        index[number] = (uint16_t) p;
        on[number] = 1;
    }
    // Once to count, once to write.
    uint32_t * codes = NULL, used = 0;
    for (int writing = 0; writing < 2; ++writing) {
        if (writing) {
            // Whole cache lines.
            grid->memory = malloc(used * sizeof *codes + 64);
            GGML_ASSERT(grid->memory);
            codes = (uint32_t *) (((uintptr_t) grid->memory + 63) & ~(uintptr_t) 63);
        }
        used = 0;
        for (int number = 0; number < numbers; ++number) {
            uint8_t own[MOST_WIDTH];
            for (int c = shape.width - 1, rest = number; c >= 0; --c, rest /= shape.levels) {
                own[c] = (uint8_t) (rest % shape.levels);
            }
            if (on[number]) {
                near[number] = (struct near) { used, 0 };
                if (writing) {
                    codes[used] = code_of(shape, own);
                }
                used += LANES;
                continue;
            }
            uint16_t distance[MOST_POINTS] = {0};
            for (int c = 0; c < shape.width; ++c) {
                for (int p = 0; p < source->points; ++p) {
                    const int diff = level[c][p] - own[c];
                    distance[p] = (uint16_t) (distance[p] + diff * diff);
                }
            }
            int last = 0;
            const int count = count_near(source, distance, &last), vectors = (count + LANES - 1) / LANES;
            near[number] = (struct near) { used, (uint32_t) vectors };
            if (writing) {
                int k = 0;
                for (int d = 0; d <= last; ++d) {
                    for (int p = 0; p < source->points; ++p) {
                        if (distance[p] == d) {
                            codes[used + (uint32_t) (k % vectors * LANES + k / vectors)] = code[p];
                            ++k;
                        }
                    }
                }
                for (; k < vectors * LANES; ++k) {
                    codes[used + (uint32_t) (k % vectors * LANES + k / vectors)] = codes[used];
                }
            }
            used += (uint32_t) (vectors * LANES);
        }
    }
    free(on);
    grid->codes = codes;
    grid->index = index;
    grid->near = near;
}

static void need(enum grid_name name) {
    if (!ggufrun_grids[name].near) {
        make_grid(&sources[name], &ggufrun_grids[name]);
    }
}

static void drop(enum grid_name name) {
    struct grid * grid = &ggufrun_grids[name];
    free(grid->near);
    free(grid->index);
    free(grid->memory);
    *grid = (struct grid) {0};
}

// What ggml_quantize_init and ggml_quantize_free call, one thread at a time.

void iq2xs_init_impl(enum ggml_type type) {
    switch (type) {
        case GGML_TYPE_IQ2_XXS: need(GRID_IQ2_XXS); break;
        case GGML_TYPE_IQ2_XS:  need(GRID_IQ2_XS); break;
        case GGML_TYPE_IQ2_S:   need(GRID_IQ2_S); break;
        default:                need(GRID_IQ1); break;
    }
}

void iq3xs_init_impl(int grid_size) { need(grid_size == 256 ? GRID_IQ3_XXS : GRID_IQ3_S); }

void iq2xs_free_impl(enum ggml_type type) {
    switch (type) {
        case GGML_TYPE_IQ2_XXS: drop(GRID_IQ2_XXS); break;
        case GGML_TYPE_IQ2_XS:  drop(GRID_IQ2_XS); break;
        case GGML_TYPE_IQ2_S:   drop(GRID_IQ2_S); break;
        default:                drop(GRID_IQ1); break;
    }
    ggufrun_stock_iq2xs_free_impl(type);
}

void iq3xs_free_impl(int grid_size) {
    drop(grid_size == 256 ? GRID_IQ3_XXS : GRID_IQ3_S);
    ggufrun_stock_iq3xs_free_impl(grid_size);
}
