#include "panel.h"

#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

static void unpack_panel(const struct matmul * m, struct panel * p, struct rows rows, int blocks,
                         const uint8_t * next) {
    const size_t bytes = (size_t) m->bytes * (m->block == CHUNK ? 1 : blocks);
    for (int i = 0; i * TILE_ROWS < rows.count; ++i) {
        const int here = MIN(rows.count - i * TILE_ROWS, TILE_ROWS);
        const uint8_t * from = rows.data + (size_t) i * TILE_ROWS * rows.stride;
        if (here == TILE_ROWS) {
            m->unpack((struct source) {from, rows.stride, next + i * TILE_ROWS * bytes}, blocks, &p->tile[i]);
            continue;
        }
        for (int r = 0; r < TILE_ROWS; ++r) {
            memcpy(p->rows + r * bytes, from + (size_t) MIN(r, here - 1) * rows.stride, bytes);
        }
        m->unpack((struct source) {p->rows, bytes, p->rows}, blocks, &p->tile[i]);
    }
}

static void multiply(const struct matmul * m, struct panel * p, int tiles, const struct act * acts, int n, int blocks) {
    // as even as can be: four and four rather than six and two
    const int groups = (n + MOST_COLUMNS - 1) / MOST_COLUMNS;
    for (int g = 0; g < groups; ++g) {
        const int j = n * g / groups, columns = n * (g + 1) / groups - j;
        for (int i = 0; i < tiles; i += 2) {
            const int pair = MIN(tiles - i, 2);
            m->dot[pair - 1][columns - 1](&p->tile[i], acts + j, p->sum[j] + i * TILE_ROWS, blocks);
        }
    }
}

void matmul_panel(const struct matmul * m, struct panel * p, struct rows rows, struct columns columns,
                  struct result to) {
    const int tiles = (rows.count + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t j = 0; j < columns.count; j += SPAN) {
        const int n = (int) MIN(columns.count - j, SPAN);
        memset(p->sum, 0, (size_t) n * sizeof p->sum[0]);
        const uint8_t * next = rows.data + (size_t) rows.count * rows.stride;
        for (int64_t k = 0; k < rows.values; k += CHUNK) {
            const int blocks = (int) MIN(rows.values - k, CHUNK) / 32;
            struct rows here = rows;
            here.data += (size_t) (k / m->block) * m->bytes;
            unpack_panel(m, p, here, blocks, next);
            next += (size_t) rows.count * m->bytes * (m->block == CHUNK ? 1 : blocks);
            multiply(m, p, tiles, columns.acts + k / CHUNK * columns.stride + j, n, blocks);
        }
        for (int c = 0; c < n; ++c) {
            const int32_t * const id = to.ids + 2 * (j + c);
            const size_t at = to.ids ? id[0] * to.id_stride[0] + id[1] * to.id_stride[1] : (size_t) (j + c) * to.stride;
            memcpy(to.data + at, p->sum[c], (size_t) rows.count * sizeof(float));
        }
    }
}
