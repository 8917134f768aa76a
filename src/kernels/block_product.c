/* The product with block types: rows of A become 8-bit numbers, weights pass in panels. */
#include "kernels/block_product.h"

#include "kernels/block_parts.h"
#include "kernels/int8.h"
#include "kernels/share.h"

#define MOST_ROWS 512      /* of A that pass a panel */
#define FEW 8              /* rows for which memory takes longer than the product: one panel at a time */
#define ROUND_VALUES 16384 /* of A worth claiming */

/* As large as the widest instruction set's. */
#define MOST_COLS 32
#define ROW_BYTES 128 /* of a block_row, at most */
#define PANEL_BYTES (BLOCK_AT_ONCE * (BLOCK_WORDS + 4) * MOST_COLS * 4)

#if VF_LANES == 16
void block_product_avx2(const qp_exec *exec, const gemm_item *item);
#endif

_Static_assert(sizeof(block_row) <= ROW_BYTES, "scratch of rows");

typedef struct {
    const gemm_item  *item;
    const block_type *type;
    int64_t           blocks;      /* 32s of k */
    int64_t           first, rows; /* of A in hand */
    int64_t           cols;        /* at once */
    int               shares;
    share            *share;
    block_row        *a; /* [rows, blocks] */
    char             *workers;
    size_t            worker_bytes;
} job;

static size_t worker_bytes(int64_t rows) { return PANEL_BYTES + (size_t)rows * MOST_COLS * sizeof(float); }

#if QP_BODY
size_t block_product_scratch(int64_t m, int64_t k, int threads) {
    int64_t rows = gemm_min(m, MOST_ROWS);
    return (size_t)(rows * (k / BLOCK_VALUES)) * ROW_BYTES +
           (size_t)threads * (worker_bytes(rows) + sizeof(share));
}
#endif

/* ---- Rows of A as 8-bit numbers ------------------------------------------------------------------- */

#define VECTORS (BLOCK_VALUES / VF_LANES)

INLINE void load_values(const gemm_source *a, int64_t p, int64_t i, vf x[VECTORS]) {
    float some[BLOCK_VALUES];
    if (a->p_step == 1) {
        for (int v = 0; v < VECTORS; v++)
            x[v] = gemm_load(GEMM_TYPE(a->kind), gemm_at(a, p + v * VF_LANES, i), VF_LANES);
        return;
    }
    for (int u = 0; u < BLOCK_VALUES; u++) some[u] = gemm_load(GEMM_TYPE(a->kind), gemm_at(a, p + u, i), 1)[0];
    for (int v = 0; v < VECTORS; v++) x[v] = vf_load(some + v * VF_LANES);
}

/* Whole numbers that are floats, in the order of a block_row. */
INLINE void store_values(const vf y[VECTORS], block_row *out) {
#if BLOCK_BYTES
    typedef int8_t bytes __attribute__((vector_size(VF_LANES)));
    for (int v = 0; v < VECTORS; v++) {
        bytes b = __builtin_convertvector(vf_to_int(y[v]), bytes);
        memcpy(out->q + v * VF_LANES, &b, sizeof b);
    }
#else
    int32_t q[BLOCK_VALUES];
    for (int v = 0; v < VECTORS; v++) vi_store(q + v * VF_LANES, vf_to_int(y[v]));
    for (int u = 0; u < BLOCK_VALUES; u++) out->q[u / 4 * 2 + u % 2][u % 4 / 2] = (int16_t)q[u];
#endif
}

INLINE void round_half(const block_type *type, const vf *x, vf *y, int half, block_row *out) {
    vf most = vf_abs(x[0]), bad = {0}, sum = {0};
    for (int v = 1; v < VECTORS / 2; v++) most = vf_max(most, vf_abs(x[v]));
    float top = vf_hmax(most);
    vf    inverse = vf_set1(qk_int8_inverse(top));
    for (int v = 0; v < VECTORS / 2; v++) {
        y[v] = x[v] * inverse; /* NaN for what is not finite */
        bad += y[v] - y[v];
        y[v] = vf_round(vf_select(vf_eq(y[v], y[v]), y[v], (vf){0}));
        sum += y[v];
    }
    float whole = vf_sum(sum); /* exact */
    out->s[half] = qk_int8_scale(top) + vf_sum(bad);
    out->sum[half] = out->s[half] * whole;
    out->start[half] = -type->zero * (int32_t)whole;
}

INLINE void round_block(const block_type *type, const vf x[VECTORS], block_row *out) {
    vf y[VECTORS];
    for (int half = 0; half < 2; half++)
        round_half(type, x + half * (VECTORS / 2), y + half * (VECTORS / 2), half, out);
    store_values(y, out);
    if (type->parts == 1) out->sum[0] += out->sum[1];
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const job *w = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        for (int64_t b = 0; b < w->blocks; b++) {
            vf x[VECTORS];
            load_values(&w->item->a, b * BLOCK_VALUES, w->first + i, x);
            round_block(w->type, x, w->a + i * w->blocks + b);
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

static bool narrow(const job *w) { return w->item->g->n < VF_LANES; }

static void set_columns(columns *c, const job *w, int64_t j, int64_t cols) {
    const gemm_source *b = &w->item->b;
    int64_t            line = b->j_step / w->type->values * w->type->bytes;
    c->panels = (int)gemm_parts(cols, VF_LANES);
    c->steps = line_steps_of(narrow(w) ? 0 : line);
    for (int i = 0; i < c->panels; i++) {
        lanes  *l = &c->panel[i];
        int64_t some = gemm_min(VF_LANES, cols - i * VF_LANES);
        l->skip = narrow(w) ? 0 : VF_LANES - some;
        l->data = (const char *)b->data + (j + i * VF_LANES - l->skip) * line;
        l->ahead =
            share_ahead(w->shares, w->item->g->n, j + i * VF_LANES, w->cols, b->data, line, w->item->g->next);
    }
}

/* All rows by some columns and count 32s from first on. */
static void multiply_panels(const job *w, const columns *c, int64_t first, int64_t count, vf *panel,
                            float *acc) {
    int64_t unit = w->type->values / BLOCK_VALUES, panel_step = BLOCK_AT_ONCE * block_step(w->type);
    int64_t at = first / unit * w->type->bytes;
    for (int i = 0; i < c->panels; i++) {
        const lanes *l = &c->panel[i];
        w->type->unpack(panel + i * panel_step, l->data + at, &c->steps, count / unit,
                        l->ahead + VF_LANES * at);
    }
    for (int64_t i = 0; i < w->rows; i += BLOCK_ROWS) {
        block_tile t = {.rows = w->a + i * w->blocks + first,
                        .row_step = w->blocks,
                        .panel = panel,
                        .panel_step = panel_step,
                        .count = count,
                        .acc = acc + i * BLOCK_PANELS * VF_LANES};
        QK(block_multiply)(w->type, (int)gemm_min(BLOCK_ROWS, w->rows - i), c->panels, &t);
    }
}

static void multiply_columns(const job *w, int64_t j, int worker) {
    vf     *panel = (vf *)(w->workers + (size_t)worker * w->worker_bytes);
    float  *acc = (float *)((char *)panel + PANEL_BYTES);
    int64_t cols = gemm_min(w->cols, w->item->g->n - j);
    columns c;
    set_columns(&c, w, j, cols);
    if (w->rows == 1) {
        for (int i = 0; i < c.panels; i++)
            w->type->one(acc + i * VF_LANES, w->a, c.panel[i].data, &c.steps, w->item->k / w->type->values,
                         c.panel[i].ahead);
    } else {
        memset(acc, 0, (size_t)(w->rows * BLOCK_PANELS * VF_LANES) * sizeof *acc);
        for (int64_t b = 0; b < w->blocks; b += BLOCK_AT_ONCE)
            multiply_panels(w, &c, b, gemm_min(BLOCK_AT_ONCE, w->blocks - b), panel, acc);
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
        QK(gemm_add)(w->item, &piece);
    }
}

static void multiply(void *arg, int64_t begin, int64_t end, int worker) {
    const job *w = arg;
    (void)end;
    for (int64_t j; (j = share_take(w->share, w->shares, begin, w->cols)) >= 0;) multiply_columns(w, j, worker);
}

void QK(block_product)(const qp_exec *exec, const gemm_item *item) {
#if VF_LANES == 16
    if (!qpi_cpu_vnni()) {
        block_product_avx2(exec, item);
        return;
    }
#endif
    const qk_gemm_args *g = item->g;
    job                 w = {.item = item, .type = QK(block_type_of)(g->b_type), .blocks = g->k / BLOCK_VALUES};
    int64_t             most = gemm_min(g->m, MOST_ROWS);
    w.worker_bytes = worker_bytes(most);
    w.a = exec->scratch;
    w.workers = (char *)exec->scratch + (size_t)(most * w.blocks) * ROW_BYTES;
    w.share = (share *)(w.workers + (size_t)exec->threads * w.worker_bytes);
    w.cols = narrow(&w) ? 1 : g->m <= FEW ? VF_LANES : BLOCK_PANELS * VF_LANES;
    for (; w.first < g->m; w.first += w.rows) {
        w.rows = gemm_min(most, g->m - w.first);
        qp_parallel(exec, w.rows, gemm_parts(ROUND_VALUES, gemm_max(1, g->k)), round_rows, &w);
        int64_t bytes = g->n * (g->k / w.type->values * w.type->bytes) * gemm_parts(w.rows, BLOCK_ROWS);
        w.shares = share_out(w.share, exec->threads, g->n, w.cols, bytes);
        qp_parallel(exec, w.shares, 1, multiply, &w);
    }
}
