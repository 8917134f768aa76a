/* The general family. C is cut into strips of a few panels of TILE_COLS columns. A block of
 * rows of A is packed once; then each strip packs its part of B, one block of k after
 * another, and runs the register kernel down the rows. B is read once, no thread waits for
 * another's panel, and strips are claimed as workers get free. */
#include "kernels/gemm_parts.h"

#define FEW_COLS (4 * TILE_COLS) /* too few columns to pay for packing A */
#define FEW_TILES 5              /* too few tiles of rows to pay for packing B */
#define TASKS (4 * GEMM_PAIR)    /* wanted for each thread; those of pairs are done in half the time */

typedef struct {
    const gemm_item *item;
    int64_t          i0, rows, tiles;        /* the block of A, and its tiles of rows */
    gemm_panels      cut;                    /* them */
    int64_t          block, blocks;          /* length of the blocks of k and how many */
    int64_t          panels, strips, groups; /* panels of a strip; tasks: strips x groups of tiles */
    int64_t          strips_ahead;           /* of a worker's next strip, most likely */
    int64_t          worker_floats;
    float           *packed_a, *workers; /* packed_a NULL: A is read where it lies */
    bool             by_rows, far;       /* far: C is written past the caches */
} job;

static int64_t tile_start(const job *w, int64_t tile) { return gemm_panel_start(&w->cut, tile); }

static float *packed_tile(const job *w, int64_t tile, int64_t block) {
    return w->packed_a + (block * w->tiles + tile) * (w->block + PACK_GAP) * A_STEP;
}

static int64_t block_count(const job *w, int64_t block) {
    return gemm_min(w->block, w->item->k - block * w->block);
}

static void pack_tiles(void *arg, int64_t begin, int64_t end, int worker) {
    const job *w = arg;
    (void)worker;
    for (int64_t b = 0; b < w->blocks; b++)
        QK(gemm_pack)(packed_tile(w, begin, b), A_STEP, &w->cut, begin, end, &w->item->a, b * w->block,
                      block_count(w, b), w->i0);
}

/* Is B read where it lies? Not in a panel with part of a vector. */
static bool b_in_place(const job *w, int64_t tiles, int64_t cols) {
    const gemm_source *b = &w->item->b;
    return GEMM_PAIR == 1 && tiles <= FEW_TILES && b->kind == GEMM_WORDS && b->j_step == 1 &&
           cols % VF_LANES == 0;
}

/* The panels of a strip, from column j to `end`, but for those read in place. */
static void pack_strip(const job *w, int64_t block, int64_t tiles, int64_t j, int64_t end, float *panels) {
    gemm_panels cut = {gemm_parts(end - j, TILE_COLS), TILE_COLS, 0, end - j, w->block * TILE_COLS};
    int64_t     first = 0;
    while (first < cut.count && b_in_place(w, tiles, gemm_panel_cols(&cut, first))) first++;
    QK(gemm_pack)(panels + first * cut.step, TILE_COLS, &cut, first, cut.count, &w->item->b, block * w->block,
                  block_count(w, block), j);
}

/* Where a tile's A lies, and the walk over the next one's while this one meets the panels;
 * packed tiles follow each other and need none. */
static void set_a(const job *w, int64_t tile, int64_t block, gemm_tile *t, gemm_ahead *ahead) {
    const gemm_source *a = &w->item->a;
    *ahead = (gemm_ahead){.rate = 0};
    t->ahead_a = ahead;
    if (w->packed_a) {
        t->a = packed_tile(w, tile, block);
        t->a_step = A_STEP;
        return;
    }
    t->a = gemm_at(a, block * w->block, w->i0 + tile_start(w, tile));
    t->a_step = w->by_rows ? a->j_step / GEMM_PAIR : a->p_step;
    ahead->next = gemm_at(a, block * w->block, w->i0 + tile_start(w, tile + 1));
    ahead->step = 64;
    ahead->run = ahead->left = w->by_rows ? gemm_parts(t->count, 16) : 2;
    ahead->wrap = t->a_step * 4 - ahead->run * ahead->step;
    ahead->rate = (int)gemm_parts(w->by_rows ? 4 : 8, w->panels);
}

static gemm_soon soon_in_c(const qk_gemm_args *g, const void *data, int64_t row, const gemm_piece *piece) {
    int64_t   size = g->c_type == QP_F32 ? 4 : 2;
    gemm_soon s = {.row = row * size, .bytes = piece->cols * size};
    if (data) s.at = gemm_of_c(g, data, piece->i * row + piece->j);
    return s;
}

/* What a tile meets at its end. */
static void set_soon(const job *w, gemm_tile *t, const gemm_piece *piece) {
    const gemm_item    *item = w->item;
    const qk_gemm_args *g = item->g;
    int                 n = 0;
    memset(t->soon, 0, sizeof t->soon);
    if (!piece->first || !piece->last)
        t->soon[n++] = (gemm_soon){(const char *)piece->total, piece->total_row * 4, piece->cols * 4};
    if (!piece->last && !(piece->first && item->from_c)) return;
    t->soon[n++] = soon_in_c(g, item->c, g->c_row, piece);
    if (!piece->last || !item->ends) return;
    const void *other = item->pre_act ? item->pre_act : item->residual;
    if (other && other != item->c && n < GEMM_SOON)
        t->soon[n] = soon_in_c(g, other, item->pre_act ? g->c_row : g->residual_row, piece);
}

/* One tile in one block of k. t has A, B and the count. */
static void run_tile(const job *w, gemm_tile *t, gemm_piece *piece, gemm_tile_fn *kernel) {
    const qk_gemm_args *g = w->item->g;
    bool                bare = !w->item->ends || !(g->bias || g->act || w->item->residual || w->item->pre_act);
    bool                meets_c = piece->last || (piece->first && w->item->from_c);
    float              *c = gemm_of_c(g, w->item->c, piece->i * g->c_row + piece->j);
    set_soon(w, t, piece);
    if (piece->cols < TILE_COLS || (piece->last && !bare) || (meets_c && g->c_type != QP_F32)) {
        float acc[TILE_ROWS * TILE_COLS];
        t->c = acc;
        t->c_row = TILE_COLS;
        t->prev = NULL;
        t->scale = 1.0f;
        t->far = false; /* as the piece before may have been */
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
    t->far = w->far && piece->last && !t->prev;
    if (t->far) t->soon[0].at = NULL;
    kernel(t);
}

/* The part of B in one block of a strip, line by line. */
static gemm_ahead walk_of(const job *w, int64_t strip, int64_t block, int64_t tiles) {
    const gemm_source *b = &w->item->b;
    int64_t            size = gemm_bytes(b->kind), cols = w->panels * TILE_COLS;
    gemm_ahead         walk = {.next = gemm_at(b, block * w->block, strip * cols), .step = 64};
    bool               by_cols = b->p_step == 1;
    walk.run = gemm_parts((by_cols ? w->block * GEMM_PAIR : cols) * size, 64);
    walk.left = walk.run;
    walk.wrap = (by_cols ? b->j_step : b->p_step) * size - walk.run * walk.step;
    walk.rate = (int)gemm_parts(2 * GEMM_PAIR * size, tiles);
    return walk;
}

typedef struct {
    int64_t strip, tile_begin, tile_end, j, end; /* columns j..end */
    float  *panels, *totals;
} task;

/* A tile of A stays in the first cache while it meets the panels. */
static void run_tiles(const job *w, const task *s, int64_t block, gemm_ahead *ahead) {
    gemm_tile_fn *const(*kernels)[TILE_ROWS + 1] =
        w->by_rows && !w->packed_a ? QK(gemm_tile_by_rows) : QK(gemm_tile_by_cols);
    int64_t    total_row = w->panels * TILE_COLS, first_row = tile_start(w, s->tile_begin);
    gemm_ahead ahead_a;
    for (int64_t tile = s->tile_begin; tile < s->tile_end; tile++) {
        int64_t   row = tile_start(w, tile), rows = tile_start(w, tile + 1) - row;
        gemm_tile t = {.count = block_count(w, block), .ahead_b = ahead};
        float    *panel = s->panels;
        set_a(w, tile, block, &t, &ahead_a);
        for (int64_t j = s->j; j < s->end; j += TILE_COLS, panel += w->block * TILE_COLS) {
            int64_t    cols = gemm_min(TILE_COLS, s->end - j);
            bool       in_place = b_in_place(w, s->tile_end - s->tile_begin, cols);
            gemm_piece piece = {.i = w->i0 + row,
                                .j = j,
                                .rows = rows,
                                .cols = cols,
                                .first = block == 0,
                                .last = block == w->blocks - 1,
                                .total = s->totals + (row - first_row) * total_row + (j - s->j),
                                .total_row = total_row};
            t.b = in_place ? gemm_at(&w->item->b, block * w->block, j) : panel;
            t.b_step = in_place ? w->item->b.p_step : TILE_COLS;
            run_tile(w, &t, &piece, kernels[cols > VF_LANES][rows]);
        }
    }
}

static void run_tasks(void *arg, int64_t begin, int64_t end, int worker) {
    const job *w = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i % w->groups, cols = w->panels * TILE_COLS;
        task    s = {.strip = i / w->groups,
                     .tile_begin = w->tiles * group / w->groups,
                     .tile_end = w->tiles * (group + 1) / w->groups,
                     .panels = w->workers + worker * w->worker_floats};
        s.j = s.strip * cols;
        s.end = gemm_min(s.j + cols, w->item->g->n);
        s.totals = s.panels + w->block * cols;
        for (int64_t block = 0; block < w->blocks; block++) {
            int64_t    next = block + 1 < w->blocks ? s.strip : s.strip + w->strips_ahead;
            gemm_ahead ahead = walk_of(w, next, (block + 1) % w->blocks, s.tile_end - s.tile_begin);
            pack_strip(w, block, s.tile_end - s.tile_begin, s.j, s.end, s.panels);
            run_tiles(w, &s, block, &ahead);
        }
    }
    if (w->far) gemm_far_done();
}

static void run_block(const qp_exec *exec, job *w) {
    if (w->packed_a) {
        int64_t grain = gemm_max(1, PACK_PIECE / (TILE_ROWS * gemm_max(w->item->k, 1)));
        qp_parallel(exec, w->tiles, grain, pack_tiles, w);
    }
    qp_parallel(exec, w->strips * w->groups, 1, run_tasks, w);
}

/* Is A best read where it lies? Not if its lines compete for the same places of a cache. */
static bool a_in_place(const gemm_source *a, int64_t n) {
    bool lines = gemm_lines_in_place(a), columns = GEMM_PAIR == 1 && a->kind == GEMM_WORDS && a->j_step == 1;
    if (!lines && !columns) return false;
    return n <= FEW_COLS || (lines ? a->j_step / GEMM_PAIR : a->p_step) % 1024 != 0;
}

/* Does each row of C begin with a line of the caches? */
static bool lines_whole(const gemm_item *item) {
    return ((uintptr_t)item->c | (uintptr_t)(item->g->c_row * 4)) % 64 == 0;
}

void QK(gemm_strips)(const qp_exec *exec, const gemm_item *whole) {
    const qk_gemm_args *g = whole->g;
    /* Between two stretches of k the total lies in C, where it would overwrite the residual. */
    bool               uncut = whole->residual == whole->c || g->c_type != QP_F32;
    gemm_cut           c = gemm_cut_of(g->m, whole->k, uncut);
    gemm_item          item = *whole;
    const gemm_source *a = &item.a;
    bool               in_place = a_in_place(a, g->n);
    job                w = {.item = &item,
                            .block = gemm_block_of(whole->k),
                            .by_rows = a->p_step == 1,
                            .strips_ahead = exec->threads,
                            .workers = exec->scratch};
    int64_t panels = gemm_parts(g->n, TILE_COLS), tasks = exec->threads > 1 ? TASKS * exec->threads : 1;
    w.panels = gemm_max(1, gemm_min(panels / tasks, MAX_PANELS));
    w.strips = gemm_parts(panels, w.panels);
    w.worker_floats = gemm_worker_floats(&c, whole->k, w.panels * TILE_COLS);
    w.packed_a = in_place ? NULL : w.workers + exec->threads * w.worker_floats;
    for (w.i0 = 0; w.i0 < g->m; w.i0 += c.rows) {
        w.rows = gemm_min(c.rows, g->m - w.i0);
        w.tiles = gemm_parts(w.rows, TILE_ROWS);
        w.cut =
            (gemm_panels){w.tiles, w.rows / w.tiles, w.rows % w.tiles, w.rows, (w.block + PACK_GAP) * A_STEP};
        w.groups = gemm_max(1, gemm_min(gemm_parts(tasks, w.strips), w.tiles / 2));
        for (int64_t p = 0; p < gemm_max(whole->k, 1); p += c.depth) {
            item.k = gemm_min(c.depth, whole->k - p);
            item.a.data = gemm_at(&whole->a, p, 0);
            item.b.data = gemm_at(&whole->b, p, 0);
            item.a.values = item.b.values = g->k - p * GEMM_PAIR;
            item.from_c = whole->from_c || p > 0;
            item.ends = whole->ends && p + c.depth >= whole->k;
            w.blocks = gemm_max(1, gemm_parts(item.k, w.block));
            w.far = GEMM_FAR && g->far && item.ends && g->c_type == QP_F32 && lines_whole(&item);
            run_block(exec, &w);
        }
    }
}
