/* The product with block types: rows of A become 8-bit numbers, weights pass in panels. */
#include "kernels/block_product.h"

#include "kernels/block_parts.h"
#include "kernels/int8.h"
#include "kernels/share.h"
#include "kernels/turn.h"

#define MOST_ROWS 512      /* of A that pass a panel */
#define ROUND_VALUES 16384 /* of A worth claiming */

/* As large as the widest instruction set's. */
#define MOST_COLS 32
#define ROW_BYTES 128 /* of a block_row, at most */
#define PANEL_BYTES (BLOCK_AT_ONCE * (BLOCK_WORDS + 4) * MOST_COLS * 4)

#if VF_LANES == 16
void block_product_avx2(const qp_exec *exec, const gemm_item *items, int count);
#endif

_Static_assert(sizeof(block_row) <= ROW_BYTES, "scratch of rows");

typedef struct {
    const gemm_item  *items; /* of one A: its rows and k are the same */
    const block_type *type;
    int64_t           blocks;      /* 32s of k */
    int64_t           first, rows; /* of A in hand */
    share_columns     columns;
    int               shares;
    share            *share;
    share_fetch       fetch;
    block_row *a;   /* [rows, blocks]; of few rows each worker has its own: what one writes others wait for */
    int64_t    own; /* from one worker's to the next one's, in block_row; 0: all have the same */
    char      *workers;
    size_t     worker_bytes;
} job;

static size_t worker_bytes(int64_t rows) { return PANEL_BYTES + (size_t)rows * MOST_COLS * sizeof(float); }
static int64_t owners(int64_t rows, int threads) { return rows <= FEW_BLOCK_ROWS ? threads : 1; }
static block_row *rows_of(const job *w, int worker) { return w->a + worker * w->own; }

#if QP_BODY
size_t block_product_scratch(int64_t m, int64_t k, int threads) {
    int64_t rows = gemm_min(m, MOST_ROWS);
    return (size_t)(owners(rows, threads) * rows * (k / BLOCK_VALUES)) * ROW_BYTES +
           (size_t)threads * (worker_bytes(rows) + sizeof(share));
}
#endif

/* ---- Rows of A as 8-bit numbers ------------------------------------------------------------------- */

#define HALF (BLOCK_VALUES / 2) /* values to a scale */
#define HALF_VECTORS (HALF / VF_LANES)
#define AT_ONCE (VF_LANES / 2) /* blocks: a lane for each half */

/* Values p .. of row i. */
INLINE void load_half(const gemm_source *a, int64_t p, int64_t i, vf x[HALF_VECTORS]) {
    float some[HALF];
    if (a->p_step == 1) {
        for (int v = 0; v < HALF_VECTORS; v++)
            x[v] = gemm_load(GEMM_TYPE(a->kind), gemm_at(a, p + v * VF_LANES, i), VF_LANES);
        return;
    }
    for (int u = 0; u < HALF; u++) some[u] = gemm_load(GEMM_TYPE(a->kind), gemm_at(a, p + u, i), 1)[0];
    for (int v = 0; v < HALF_VECTORS; v++) x[v] = vf_load(some + v * VF_LANES);
}

/* Whole numbers that are floats, in the order of a block_row. */
INLINE void store_half(const vf y[HALF_VECTORS], int half, block_row *out) {
#if BLOCK_BYTES
    typedef int8_t bytes __attribute__((vector_size(VF_LANES)));
    for (int v = 0; v < HALF_VECTORS; v++) {
        bytes b = __builtin_convertvector(vf_to_int(y[v]), bytes);
        memcpy(out->q + half * HALF + v * VF_LANES, &b, sizeof b);
    }
#else
    int32_t q[HALF];
    for (int v = 0; v < HALF_VECTORS; v++) vi_store(q + v * VF_LANES, vf_to_int(y[v]));
    for (int u = 0; u < HALF; u++) out->q[half * BLOCK_WORDS + u / 4 * 2 + u % 2][u % 4 / 2] = (int16_t)q[u];
#endif
}

/* Scales, as of qk_int8_scale and qk_int8_inverse. */
INLINE vf inverse_of(vf most) {
    vm fits = vf_gt(most, vf_set1(QK_INT8_LEAST)) & vf_lt(most, vf_set1(INFINITY));
    return vf_select(fits, vf_set1(127.0f) / most, (vf){0});
}

/* Some blocks of a row, a lane for each of their halves; halves that are not finite get NaN for a scale. */
INLINE void round_blocks(const block_type *type, const vf x[VF_LANES][HALF_VECTORS], int blocks,
                         block_row *out) {
    float inverse[VF_LANES], scale[VF_LANES], sum[VF_LANES];
    vf    most[VF_LANES], sums[VF_LANES];
    for (int h = 0; h < VF_LANES; h++) {
        most[h] = vf_abs(x[h][0]);
        for (int v = 1; v < HALF_VECTORS; v++) most[h] = vf_max(most[h], vf_abs(x[h][v]));
    }
    vf top = row_maxima(most);
    vf_store(inverse, inverse_of(top));
    for (int h = 0; h < VF_LANES; h++) {
        vf y[HALF_VECTORS], all = {0};
        for (int v = 0; v < HALF_VECTORS; v++) {
            y[v] = vf_round(x[h][v] * vf_set1(inverse[h])); /* NaN for what is not finite */
            all += y[v];
            y[v] = vf_select(vf_eq(y[v], y[v]), y[v], (vf){0});
        }
        sums[h] = all; /* exact */
        if (h < 2 * blocks) store_half(y, h % 2, &out[h / 2]);
    }
    vf whole = row_sums(sums), finite = vf_select(vf_eq(whole, whole), whole, (vf){0});
    vf s = top / vf_set1(127.0f) + (whole - whole);
    vf_store(scale, s);
    vf_store(sum, s * finite);
    vi start = vf_to_int(finite) * -type->zero;
    for (int h = 0; h < 2 * blocks; h++) {
        int times = h % 2 ? type->second : 1;
        out[h / 2].s[h % 2] = scale[h] / (float)times;
        out[h / 2].sum[h % 2] = sum[h];
        out[h / 2].start[h % 2] = start[h] * times;
    }
    for (int b = 0; b < blocks && type->parts == 1; b++) out[b].sum[0] += out[b].sum[1];
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const job *w = arg;
    for (int64_t i = begin; i < end; i++)
        for (int64_t b = 0; b < w->blocks; b += AT_ONCE) {
            int blocks = (int)gemm_min(AT_ONCE, w->blocks - b);
            vf  x[VF_LANES][HALF_VECTORS];
            for (int h = 0; h < VF_LANES; h++)
                if (h < 2 * blocks) load_half(&w->items->a, b * BLOCK_VALUES + h * HALF, w->first + i, x[h]);
                else memset(x[h], 0, sizeof x[h]);
            round_blocks(w->type, x, blocks, rows_of(w, worker) + i * w->blocks + b);
        }
}

/* ---- Columns ---------------------------------------------------------------------------------------- */

/* VF_LANES columns of W. The last ones end with the last column, so that some are multiplied once more; of
 * fewer than VF_LANES in all each fills all lanes. */
typedef struct {
    const char *data;
    int64_t     skip;  /* lanes done already */
    const char *ahead; /* what is fetched on the way, as many bytes */
} lanes;

typedef struct {
    lanes      panel[BLOCK_PANELS];
    line_steps steps;
    int        panels;
} columns;

static bool narrow(const job *w) { return w->items->g->n < VF_LANES; }

static int64_t line_bytes(const job *w) { return w->items->b.j_step / w->type->values * w->type->bytes; }

static void set_columns(columns *c, const job *w, const share_piece *p, int64_t cols) {
    int64_t     line = w->columns.line;
    const char *first = share_at(&w->columns, p->j);
    c->panels = (int)gemm_parts(cols, VF_LANES);
    c->steps = line_steps_of(narrow(w) ? 0 : line);
    for (int i = 0; i < c->panels; i++) {
        lanes  *l = &c->panel[i];
        int64_t some = gemm_min(VF_LANES, cols - i * VF_LANES);
        l->skip = narrow(w) ? 0 : VF_LANES - some;
        l->data = first + (i * VF_LANES - l->skip) * line;
        l->ahead = share_ahead(&w->fetch, &w->columns, p, p->j + i * VF_LANES);
    }
}

/* All rows by some columns and count 32s from first on. */
static void multiply_panels(const job *w, const columns *c, const block_row *a, int64_t first, int64_t count,
                            vf *panel, float *acc) {
    int64_t unit = w->type->values / BLOCK_VALUES, panel_step = BLOCK_AT_ONCE * block_step(w->type);
    int64_t at = first / unit * w->type->bytes;
    for (int i = 0; i < c->panels; i++) {
        const lanes *l = &c->panel[i];
        w->type->unpack(panel + i * panel_step, l->data + at, &c->steps, count / unit,
                        l->ahead + VF_LANES * at);
    }
    for (int64_t i = 0; i < w->rows; i += BLOCK_ROWS) {
        block_tile t = {.rows = a + i * w->blocks + first,
                        .row_step = w->blocks,
                        .panel = panel,
                        .panel_step = panel_step,
                        .count = count,
                        .acc = acc + i * BLOCK_PANELS * VF_LANES};
        QK(block_multiply)(w->type, (int)gemm_min(BLOCK_ROWS, w->rows - i), c->panels, &t);
    }
}

static void multiply_columns(const job *w, const share_piece *p, int worker) {
    const block_row *a = rows_of(w, worker);
    vf              *panel = (vf *)(w->workers + (size_t)worker * w->worker_bytes);
    float           *acc = (float *)((char *)panel + PANEL_BYTES);
    int              matrix = share_matrix(&w->columns, p->j);
    const gemm_item *item = &w->items[matrix];
    int64_t          j = p->j - w->columns.start[matrix], cols = gemm_min(w->columns.unit, item->g->n - j);
    columns          c;
    set_columns(&c, w, p, cols);
    if (w->rows == 1) {
        for (int i = 0; i < c.panels; i++)
            w->type->one(acc + i * VF_LANES, a, c.panel[i].data, &c.steps, item->k / w->type->values,
                         c.panel[i].ahead);
    } else {
        memset(acc, 0, (size_t)(w->rows * BLOCK_PANELS * VF_LANES) * sizeof *acc);
        for (int64_t b = 0; b < w->blocks; b += BLOCK_AT_ONCE)
            multiply_panels(w, &c, a, b, gemm_min(BLOCK_AT_ONCE, w->blocks - b), panel, acc);
    }
    for (int i = 0; i < c.panels; i++) {
        int64_t    from = i * VF_LANES;
        gemm_piece piece = {.i = w->first,
                            .j = j + from,
                            .rows = w->rows,
                            .cols = gemm_min(VF_LANES, cols - from),
                            .first = true,
                            .last = true,
                            .acc = acc + from + c.panel[i].skip,
                            .acc_row = BLOCK_PANELS * VF_LANES};
        QK(gemm_add)(item, &piece);
    }
}

static void multiply(void *arg, int64_t begin, int64_t end, int worker) {
    const job  *w = arg;
    share_piece p;
    (void)end;
    if (w->own) round_rows(arg, 0, w->rows, worker);
    while (share_take(w->share, w->shares, (int)begin, w->columns.unit, &p)) multiply_columns(w, &p, worker);
}

void QK(block_product)(const qp_exec *exec, const gemm_item *items, int count) {
#if VF_LANES == 16
    if (!qpi_cpu_vnni()) {
        block_product_avx2(exec, items, count);
        return;
    }
#endif
    const qk_gemm_args *g = items->g;
    job     w = {.items = items, .type = QK(block_type_of)(g->b_type), .blocks = g->k / BLOCK_VALUES};
    int64_t most = gemm_min(g->m, MOST_ROWS);
    int64_t each = owners(most, exec->threads);
    w.own = each > 1 ? most * w.blocks : 0;
    w.worker_bytes = worker_bytes(most);
    w.a = exec->scratch;
    w.workers = (char *)exec->scratch + (size_t)(each * most * w.blocks) * ROW_BYTES;
    w.share = (share *)(w.workers + (size_t)exec->threads * w.worker_bytes);
    w.columns = (share_columns){.line = line_bytes(&w), .unit = BLOCK_PANELS * VF_LANES};
    if (g->m <= FEW_BLOCK_ROWS) w.columns.unit = VF_LANES;
    if (narrow(&w)) w.columns.unit = 1;
    for (int i = 0; i < count; i++) share_add(&w.columns, items[i].b.data, items[i].g->n);
    for (; w.first < g->m; w.first += w.rows) {
        w.rows = gemm_min(most, g->m - w.first);
        if (!w.own) qp_parallel(exec, w.rows, gemm_parts(ROUND_VALUES, gemm_max(1, g->k)), round_rows, &w);
        int64_t bytes =
            w.columns.end * (g->k / w.type->values * w.type->bytes) * gemm_parts(w.rows, BLOCK_ROWS);
        w.shares = share_out(w.share, exec->threads, w.columns.end, w.columns.unit, bytes);
        w.fetch = share_fetch_of(&w.columns, g->next, w.shares);
        qp_parallel(exec, w.shares, 1, multiply, &w);
    }
}
