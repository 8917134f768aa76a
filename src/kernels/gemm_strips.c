/* The general family. C is cut into strips of TILE_COLS columns. A block of rows of A is
 * packed once; then each strip packs its part of B, one block of k after another, and runs
 * the register kernel down the rows. B is read once, no thread waits for another's panel,
 * and strips are claimed as workers get free. */
#include "kernels/gemm_parts.h"

#define FEW_COLS (4 * TILE_COLS)  /* too few columns to pay for packing A */
#define FEW_TILES 5               /* too few tiles of rows to pay for packing B */
#define TASKS 8                   /* wanted for each thread */

typedef struct {
    const gemm_item *item;
    int64_t i0, rows, tiles; /* the block of A, and its tiles of rows */
    int64_t block, blocks;   /* length of the blocks of k and how many */
    int64_t strips, groups;  /* tasks: strips x groups of tiles */
    int64_t strips_ahead;    /* of a worker's next strip, most likely */
    int64_t panel_floats, worker_floats;
    float  *packed_a, *workers; /* packed_a NULL: A is read where it lies */
    bool    by_rows;
} job;

static int64_t tile_start(const job *w, int64_t tile) { return w->rows * tile / w->tiles; }

static float *packed_tile(const job *w, int64_t tile, int64_t block)
{
    return w->packed_a + (block * w->tiles + tile) * w->block * A_STEP;
}

static int64_t block_count(const job *w, int64_t block)
{
    return gemm_min(w->block, w->item->k - block * w->block);
}

static void pack_tiles(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *w = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = tile_start(w, t), rows = tile_start(w, t + 1) - row;
        for (int64_t b = 0; b < w->blocks; b++)
            QK(gemm_pack)(packed_tile(w, t, b), A_STEP, 1, &w->item->a, b * w->block, block_count(w, b),
                          w->i0 + row, (int)rows);
    }
}

/* Where a tile's A lies. */
static void set_a(const job *w, int64_t tile, int64_t block, gemm_tile *t)
{
    const gemm_source *a = &w->item->a;
    if (w->packed_a) {
        t->a = packed_tile(w, tile, block);
        t->a_step = A_STEP;
    } else {
        t->a = gemm_at(a, block * w->block, w->i0 + tile_start(w, tile));
        t->a_step = w->by_rows ? a->j_step : a->p_step;
    }
}

/* One tile in one block of k. t has A, B and the count; total belongs to the strip. */
static void run_tile(const job *w, gemm_tile *t, gemm_piece *piece, gemm_tile_fn *kernel)
{
    const qk_gemm_args *g = w->item->g;
    bool   bare = !w->item->ends || !(g->bias || g->act || w->item->residual || w->item->pre_act);
    float *c = w->item->c + piece->i * g->c_row + piece->j;
    if (piece->cols < TILE_COLS || (piece->last && !bare)) {
        float acc[TILE_ROWS * TILE_COLS];
        t->c = acc;
        t->c_row = TILE_COLS;
        t->prev = NULL;
        t->scale = 1.0f;
        kernel(t);
        piece->acc = acc;
        piece->acc_row = TILE_COLS;
        QK(gemm_add)(w->item, piece);
        return;
    }
    t->c = piece->last ? c : piece->total;
    t->c_row = piece->last ? g->c_row : piece->total_row;
    t->prev = !piece->first ? piece->total : w->item->from_c ? c : NULL;
    t->prev_row = !piece->first ? piece->total_row : g->c_row;
    t->scale = g->scale;
    kernel(t);
}

/* The part of B in one block of a strip, line by line. */
static gemm_ahead walk_of(const job *w, int64_t strip, int64_t block, int64_t tiles)
{
    const gemm_source *b = &w->item->b;
    int64_t     size = gemm_bytes(b->type), line = 64 / size;
    gemm_ahead  walk = {.next = gemm_at(b, block * w->block, strip * TILE_COLS), .step = 64};
    bool        by_cols = b->p_step == 1;
    walk.run = gemm_parts(by_cols ? w->block : TILE_COLS, line);
    walk.left = walk.run;
    walk.wrap = (by_cols ? b->j_step : b->p_step) * size - walk.run * walk.step;
    walk.rate = (int)gemm_parts(2 * size, tiles);
    return walk;
}

static void run_strip(const job *w, int64_t strip, int64_t tile_begin, int64_t tile_end, float *panel)
{
    const gemm_source   *b = &w->item->b;
    int64_t j = strip * TILE_COLS, cols = gemm_min(TILE_COLS, w->item->g->n - j);
    int     vecs = cols > VF_LANES ? 2 : 1;
    gemm_tile_fn *const *kernels = w->by_rows && !w->packed_a ? QK(gemm_tile_by_rows)[vecs - 1]
                                                              : QK(gemm_tile_by_cols)[vecs - 1];
    int64_t first_row = tile_start(w, tile_begin);
    bool    in_place = b->type == QP_F32 && b->j_step == 1 && cols == TILE_COLS &&
                    tile_end - tile_begin <= FEW_TILES;
    float *totals = panel + w->panel_floats;
    for (int64_t block = 0; block < w->blocks; block++) {
        gemm_tile t = {.count = block_count(w, block), .b = panel, .b_step = TILE_COLS};
        gemm_ahead ahead = walk_of(w, block + 1 < w->blocks ? strip : strip + w->strips_ahead, (block + 1) % w->blocks, tile_end - tile_begin);
        t.ahead = &ahead;
        if (in_place) {
            t.b = gemm_at(b, block * w->block, j);
            t.b_step = b->p_step;
        } else {
            QK(gemm_pack)(panel, TILE_COLS, vecs, b, block * w->block, t.count, j, (int)cols);
        }
        for (int64_t tile = tile_begin; tile < tile_end; tile++) {
            int64_t row = tile_start(w, tile), rows = tile_start(w, tile + 1) - row;
            gemm_piece piece = {.i = w->i0 + row, .j = j, .rows = rows, .cols = cols,
                                .first = block == 0, .last = block == w->blocks - 1,
                                .total = totals + (row - first_row) * TILE_COLS, .total_row = TILE_COLS};
            set_a(w, tile, block, &t);
            run_tile(w, &t, &piece, kernels[rows]);
        }
    }
}

static void run_tasks(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *w = arg;
    for (int64_t task = begin; task < end; task++) {
        int64_t strip = task / w->groups, group = task % w->groups;
        run_strip(w, strip, w->tiles * group / w->groups, w->tiles * (group + 1) / w->groups,
                  w->workers + worker * w->worker_floats);
    }
}

static void run_block(const qp_exec *exec, job *w)
{
    if (w->packed_a) {
        int64_t grain = gemm_max(1, PACK_PIECE / (TILE_ROWS * gemm_max(w->item->k, 1)));
        qp_parallel(exec, w->tiles, grain, pack_tiles, w);
    }
    qp_parallel(exec, w->strips * w->groups, 1, run_tasks, w);
}

void QK(gemm_strips)(const qp_exec *exec, const gemm_item *whole)
{
    const qk_gemm_args *g = whole->g;
    /* Between two stretches of k the total lies in C, where it would overwrite the residual. */
    gemm_cut  c = gemm_cut_of(g->m, g->k, whole->residual == whole->c);
    gemm_item item = *whole;
    const gemm_source *a = &item.a;
    bool in_place = a->type == QP_F32 && (a->p_step == 1 || a->j_step == 1) && g->n <= FEW_COLS;
    job  w = {.item = &item, .block = gemm_block_of(g->k), .strips = gemm_parts(g->n, TILE_COLS),
              .by_rows = a->p_step == 1};
    w.panel_floats = w.block * TILE_COLS;
    w.worker_floats = gemm_worker_floats(&c, g->k, TILE_COLS);
    w.workers = exec->scratch;
    w.strips_ahead = exec->threads;
    w.packed_a = in_place ? NULL : w.workers + exec->threads * w.worker_floats;
    for (w.i0 = 0; w.i0 < g->m; w.i0 += c.rows) {
        w.rows = gemm_min(c.rows, g->m - w.i0);
        w.tiles = gemm_parts(w.rows, TILE_ROWS);
        w.groups = exec->threads == 1 ? 1 : gemm_parts((int64_t)TASKS * exec->threads, w.strips);
        w.groups = gemm_max(1, gemm_min(w.groups, w.tiles / 2));
        for (int64_t p = 0; p < gemm_max(g->k, 1); p += c.depth) {
            item.k = gemm_min(c.depth, g->k - p);
            item.a.data = gemm_at(&whole->a, p, 0);
            item.b.data = gemm_at(&whole->b, p, 0);
            item.from_c = whole->from_c || p > 0;
            item.ends = whole->ends && p + c.depth >= g->k;
            w.blocks = gemm_max(1, gemm_parts(item.k, w.block));
            run_block(exec, &w);
        }
    }
}
