// A panel: up to 64 rows of a matrix with any number of columns.

#pragma once

#include "matmul.h"

// Columns that are gone through for one unpacking; their sums fit into the second cache.
#define SPAN 512

// What a thread works with. There must be room for the sums of as many columns as are computed, at most SPAN.
struct panel {
    struct tile tile[PANEL_TILES];
    uint8_t     rows[TILE_ROWS * 8 * 34];  // the last rows of a matrix, fewer than a tile has
    float       sum[][PANEL_ROWS];
} __attribute__((aligned(64)));

static inline size_t panel_size(int64_t columns) {
    return sizeof(struct panel) + (size_t) (columns < SPAN ? columns : SPAN) * sizeof(float[PANEL_ROWS]);
}

// Records that a column has.
static inline int64_t chunks_of(int64_t values) { return (values + CHUNK - 1) / CHUNK; }

// Rows of a matrix: where they begin, the bytes from one to the next, how many, and the values of each.
struct rows {
    const uint8_t * data;
    size_t          stride;
    int             count;
    int64_t         values;
};

// The activations: a record a chunk and column, `stride` columns of a chunk before the next chunk's.
struct columns {
    const struct act * acts;
    int64_t            stride, count;
};

// Where column j goes: `data` plus j times `stride`, or, with `ids`, where the pair of j says.
struct result {
    char *          data;
    size_t          stride;
    const int32_t * ids;
    size_t          id_stride[2];
};

// At most PANEL_ROWS rows times all columns.
void matmul_panel(const struct matmul * m, struct panel * p, struct rows rows, struct columns columns,
                  struct result to);
