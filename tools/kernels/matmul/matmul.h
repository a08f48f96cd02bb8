// Products of quantized weights with activations: what the parts of this folder share.
//
// A matrix's rows are read where they are, in the file's layout. Sixteen rows at a time, 256 values of each, are
// unpacked into a tile whose vectors have a row a lane (four neighbouring weights of it in 32 bits), which stays in the
// first cache while all columns of activations are multiplied with it. Whole numbers are multiplied and added exactly;
// floats are added in one order, 256 values (or a block of 32) after another, that depends neither on the number of
// columns nor on how rows are shared out among threads.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK 256        // values of a row that a tile has, and an activation record
#define TILE_ROWS 16     // rows of a tile
#define PANEL_TILES 4    // tiles that are unpacked before columns are gone through
#define PANEL_ROWS (TILE_ROWS * PANEL_TILES)
#define MOST_COLUMNS 6   // that one call of a kernel computes

// Sixteen rows of 256 weights. `q` has whole numbers of 0 to 255: the weights' own, or those plus the type's `bias`.
struct tile {
    uint8_t q[CHUNK / 4][TILE_ROWS][4];
    union {
        // K-quants: whole scales a sub-block, one float a row.
        struct {
            int32_t scale[CHUNK / 16][TILE_ROWS];
            int16_t min[CHUNK / 32][TILE_ROWS][2];  // of two neighbouring sub-blocks
            float   d[TILE_ROWS], dmin[TILE_ROWS];
        } k;
        // Blocks of 32 with floats of their own.
        struct {
            float d[CHUNK / 32][TILE_ROWS], m[CHUNK / 32][TILE_ROWS];
        } b;
    };
} __attribute__((aligned(64)));

// 256 activations of a column, in whole numbers. `start` is what sums begin with: minus bias times the sub-block's sum.
struct act {
    int8_t  q[CHUNK];
    int32_t start[CHUNK / 16];
    union {
        struct {
            int16_t sum[CHUNK / 32][2];  // of two neighbouring sub-blocks
            float   d;
        } k;
        struct {
            float d[CHUNK / 32], s[CHUNK / 32];  // s: d times the sum
        } b;
    };
} __attribute__((aligned(64)));

// Adds the products of one tile or two with one to six columns to c, whose columns are PANEL_ROWS apart; `blocks` of 32
// values.
typedef void dot_fn(const struct tile * w, const struct act * a, float * c, int blocks);

// Sixteen rows at a distance of `stride` bytes, and where what comes after their panel begins.
struct source {
    const uint8_t * rows;
    size_t          stride;
    const uint8_t * next;
};

// `blocks` times 32 values of each row.
typedef void unpack_fn(struct source s, int blocks, struct tile * t);

// Up to 256 floats into a record; the rest of it becomes zeros.
typedef void activate_fn(const float * x, int count, struct act * a);

// The same from ggml's own blocks: of type Q8_K for K-quants, else of Q8_0 or Q8_1.
typedef void adopt_fn(const void * blocks, int count, struct act * a);

struct matmul {
    const char *  name;
    int           type;          // ggml's number
    int           block, bytes;  // values and bytes of a block
    activate_fn * activate;
    adopt_fn *    adopt;
    unpack_fn *   unpack;
    dot_fn *      dot[2][MOST_COLUMNS];
};

// What an instruction set has for a type of ggml; NULL if nothing.
typedef const struct matmul * matmul_fn(int type);
matmul_fn matmul_avx512, matmul_avxvnni, matmul_avx2;

// --- attention -------------------------------------------------------------------------------------------------------

#define CELLS 64        // of the cache, that are gone through at once
#define SEGMENT 512     // cells whose sums begin at zero; what all segments give is combined in order
#define ROW_HEAD 16     // floats before a row's sums: its largest score, the sum of its weights

// Rows of queries that see the same keys: their queries, key_width each, scaled by nothing; room for their scores, of
// CELLS cells; rows of sums, `stride` apart; totals, sixteen parts of each.
struct attention {
    int           rows, key_width, value_width, stride;
    float         scale;
    const float * q;
    float *       p;
    float *       rows_of_sums;
    float *       total;
};

// Widths are multiples of sixteen. A segment begins, attends to CELLS cells after others, finishes. `mask` has a number
// to add to each score, CELLS a row: minus infinity hides a cell. `combine` adds a segment's row to those before it.
struct attention_kernels {
    void (*begin)(const struct attention * a);
    void (*attend)(const struct attention * a, const float * k, const float * v, const float * mask);
    void (*finish)(const struct attention * a);
    void (*combine)(float * to, const float * from, int width);
    void (*halves_to_floats)(const uint16_t * from, float * to, int count);
};

extern const struct attention_kernels * const attention_avx512, * const attention_avxvnni, * const attention_avx2;
