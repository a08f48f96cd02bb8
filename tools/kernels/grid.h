// The grids of the IQ types: a few hundred points of 4 or 8 small numbers, and for every other point the nearby ones.
//
// The numbers of a point are levels 0, 1, 2...; level l stands for the value 2 l + 1. `number` counts a point: its levels
// are its digits, the first one highest. `code` spells it, for one look-up in a table of 32 floats: the entries of value
// c begin at c * stride, and of that index code has the low four bits, at bit 4 c.

#pragma once

#include "lanes.h"

enum grid_name { GRID_IQ3_XXS, GRID_IQ3_S, GRID_IQ2_XXS, GRID_IQ2_XS, GRID_IQ2_S, GRID_IQ1, GRIDS };

struct near {
    uint32_t first;        // in `codes`
    uint32_t vectors;      // how many vectors of candidates there are; 0: the point is on the grid
};

// Candidates are ordered by distance, then by index, down each lane and from lane to lane; the first one fills up.
struct grid {
    struct near * near;    // by number
    uint32_t * codes;
    uint16_t * index;      // by number: where in ggml-common.h's table the point is; for points on the grid
    void * memory;
};

extern struct grid ggufrun_grids[GRIDS];

struct shape {
    int width;             // values of a point
    int levels;
    int stride;            // table entries a value
};

#define SHAPE_3BIT ((struct shape) { 4, 8, 8 })
#define SHAPE_2BIT ((struct shape) { 8, 3, 4 })

INLINE uint32_t code_digit(struct shape shape, int c, uint32_t level) {
    return (uint32_t) ((c * shape.stride & 15) + level) << 4 * c;
}
