/* Up to 64 rows of A where p is contiguous in B (x w^T with w as it is stored): the roles are
 * exchanged, C^T = B^T A^T, so that B is read where it lies and the small A is packed. */
#include "kernels/gemm_parts.h"

#define TASKS 8 /* wanted for each thread */

typedef struct {
    const gemm_item *item;
    int64_t          block, blocks, panels;
    float           *packed; /* A: blocks of k, in each one the panels of TILE_COLS rows */
} job;

static int64_t block_count(const job *w, int64_t block) {
    return gemm_min(w->block, w->item->k - block * w->block);
}

static float *packed_panel(const job *w, int64_t panel, int64_t block) {
    return w->packed + (block * w->panels + panel) * w->block * TILE_COLS;
}

static int panel_vecs(const job *w, int64_t panel) {
    return w->item->g->m - panel * TILE_COLS > VF_LANES ? 2 : 1;
}

static void pack_panels(const job *w) {
    gemm_panels rows = {w->panels, TILE_COLS, 0, w->item->g->m, w->block * TILE_COLS};
    for (int64_t block = 0; block < w->blocks; block++)
        QK(gemm_pack)(packed_panel(w, 0, block), TILE_COLS, &rows, 0, w->panels, &w->item->a, block * w->block,
                      block_count(w, block), 0);
}

/* The lines of B for TILE_ROWS columns in one block of k. */
static gemm_ahead walk_of(const job *w, int64_t j, int64_t block) {
    const gemm_source *b = &w->item->b;
    gemm_ahead         walk = {.next = gemm_at(b, block * w->block, j), .step = 64};
    walk.run = walk.left = gemm_parts(w->block, 16);
    walk.wrap = b->j_step * gemm_bytes(b->kind) - walk.run * walk.step;
    walk.rate = w->panels == 1 ? 4 : 2;
    return walk;
}

/* Columns j..j+cols of C, in `total` as rows. */
static void run_tile(const job *w, int64_t j, int64_t cols, float *total) {
    const gemm_source *b = &w->item->b;
    int64_t            total_row = w->panels * TILE_COLS;
    gemm_tile          t = {.a_step = b->j_step / GEMM_PAIR,
                            .b_step = TILE_COLS,
                            .c_row = total_row,
                            .prev_row = total_row,
                            .scale = w->item->g->scale};
    gemm_ahead         none = {.rate = 0};
    for (int64_t block = 0; block < w->blocks; block++) {
        gemm_ahead ahead = block + 1 < w->blocks ? walk_of(w, j, block + 1) : walk_of(w, j + TILE_ROWS, 0);
        t.ahead_a = &ahead;
        t.ahead_b = &none;
        t.count = block_count(w, block);
        t.a = gemm_at(b, block * w->block, j);
        for (int64_t panel = 0; panel < w->panels; panel++) {
            t.b = packed_panel(w, panel, block);
            t.c = total + panel * TILE_COLS;
            t.prev = block > 0 || w->item->from_c ? t.c : NULL;
            QK(gemm_tile_by_rows)[panel_vecs(w, panel) - 1][cols](&t);
        }
    }
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int worker) {
    const job   *w = arg;
    qk_gemm_args g = *w->item->g;
    gemm_item    done = *w->item; /* of which only the end is left to do */
    float        total[TILE_ROWS * FLIP_ROWS], rows[FLIP_ROWS * VF_LANES];
    int64_t      total_row = w->panels * TILE_COLS;
    (void)worker;
    g.scale = 1.0f;
    done.g = &g;
    done.from_c = false;
    for (int64_t j = begin * TILE_ROWS; j < gemm_min(end * TILE_ROWS, g.n); j += TILE_ROWS) {
        int64_t     cols = gemm_min(TILE_ROWS, g.n - j);
        gemm_source flipped = {total, GEMM_WORDS, 1, total_row * GEMM_PAIR, g.m * GEMM_PAIR};
        gemm_piece  piece = {
            .j = j, .rows = g.m, .cols = cols, .first = true, .last = true, .acc = rows, .acc_row = VF_LANES};
        if (w->item->from_c)
            for (int64_t i = 0; i < g.m; i++)
                for (int64_t c = 0; c < cols; c++)
                    total[c * total_row + i] =
                        gemm_load(g.c_type, gemm_of_c(&g, done.c, i * g.c_row + j + c), 1)[0];
        run_tile(w, j, cols, total);
        QK(gemm_pack)(rows, VF_LANES, &(gemm_panels){1, cols, 0, cols, 0}, 0, 1, &flipped, 0, g.m, 0);
        QK(gemm_add)(&done, &piece);
    }
}

bool QK(gemm_flip_takes)(const gemm_item *item) {
    return item->g->m <= FLIP_ROWS && item->g->n >= MANY_COLS && gemm_lines_in_place(&item->b);
}

void QK(gemm_flip)(const qp_exec *exec, const gemm_item *item) {
    const qk_gemm_args *g = item->g;
    job                 w = {.item = item,
                             .block = gemm_block_of(item->k),
                             .panels = gemm_parts(g->m, TILE_COLS),
                             .packed = exec->scratch};
    w.blocks = gemm_max(1, gemm_parts(item->k, w.block));
    pack_panels(&w);
    int64_t tiles = gemm_parts(g->n, TILE_ROWS);
    qp_parallel(exec, tiles, gemm_max(1, tiles / (TASKS * exec->threads)), run_tiles, &w);
}
