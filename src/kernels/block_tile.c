/* The tile of the product with block types: a few rows of A by one or two panels, sums in
 * registers. */
#include "kernels/block_dot.h"

TILED void tile(const int rows, const int panels, const int parts, const bool zero, const bool low,
                const block_tile *t) {
    const int        step = BLOCK_WORDS + parts * (low ? 2 : 1);
    const block_row *x = t->rows;
    const vf        *w = t->panel;
    vf               acc[BLOCK_ROWS][BLOCK_PANELS];
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < panels; j++) acc[i][j] =
        vf_load(t->acc + (i * BLOCK_PANELS + j) * VF_LANES);
    for (int64_t b = 0; b < t->count; b++, x++, w += step)
        add_32(rows, panels, parts, zero, low, x, t->row_step, w, t->panel_step, acc);
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < panels; j++)
        vf_store(t->acc + (i * BLOCK_PANELS + j) * VF_LANES, acc[i][j]);
}

/* Kinds: parts, zero, low. */
#define EACH_SORT(X, rows, panels) \
    X(1, true, false, zero1, rows, panels) \
    X(2, true, false, zero2, rows, panels) X(1, false, true, low1, rows, panels) \
        X(2, false, true, low2, rows, panels)
#if BLOCK_ROWS == 6
#define EACH_COUNT(X, panels) X(1, panels) X(2, panels) X(3, panels) X(4, panels) X(5, panels) X(6, panels)
#else
#define EACH_COUNT(X, panels) X(1, panels) X(2, panels) X(3, panels) X(4, panels)
#endif
#define DEFINE_KIND(parts, zero, low, name, rows, panels) \
    TARGET static void tile_##name##_##rows##_##panels(const block_tile *t) { \
        tile(rows, panels, parts, zero, low, t); \
    }
#define DEFINE(rows, panels) EACH_SORT(DEFINE_KIND, rows, panels)
EACH_COUNT(DEFINE, 1)
#if BLOCK_PANELS == 2
EACH_COUNT(DEFINE, 2)
#endif

typedef void tile_fn(const block_tile *t);
#define ENTRY_KIND(parts, zero, low, name, rows, panels) tile_##name##_##rows##_##panels,
#define ENTRY(rows, panels) {EACH_SORT(ENTRY_KIND, rows, panels)},

void QK(block_multiply)(const block_type *type, int rows, int panels, const block_tile *t) {
    static tile_fn *const all[BLOCK_PANELS][BLOCK_ROWS][4] = {
        {EACH_COUNT(ENTRY, 1)},
#if BLOCK_PANELS == 2
        {EACH_COUNT(ENTRY, 2)},
#endif
    };
    all[panels - 1][rows - 1][(type->low ? 2 : 0) + type->parts - 1](t);
}
