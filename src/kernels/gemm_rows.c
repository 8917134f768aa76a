/* A few rows of A (matrix-vector products): B is read once, in the order of memory, and is
 * not packed. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

#define TASKS 8   /* wanted for each thread */
#define LINES 8   /* rows of B that go into the sums at a time */
#define AHEAD 256 /* bytes */

typedef struct {
    const gemm_item *item;
    const float     *a; /* rows of floats */
    int64_t          a_row, block, blocks, task_cols;
    float           *workers; /* sums, then totals: m x WIDE_COLS each */
    int64_t          worker_floats;
} job;

static int64_t block_count(const job *w, int64_t block)
{
    return gemm_min(w->block, w->item->k - block * w->block);
}

static void add_block(const job *w, int64_t block, int64_t j, int64_t cols, const float *acc, int64_t acc_row,
                      float *total)
{
    gemm_piece piece = {.j = j, .rows = w->item->g->m, .cols = cols, .first = block == 0,
                        .last = block == w->blocks - 1, .acc = acc, .acc_row = acc_row,
                        .total = total, .total_row = acc_row};
    QK(gemm_add)(w->item, &piece);
}

/* ---- p contiguous in B: squares of B are turned in registers ------------------------- */

/* n of the next VF_LANES p, for `lines` columns; `in` is B at the first. */
INLINE void turned_square(const int rows, qp_dtype type, vf *sums, const float *a, int64_t a_row,
                          const char *in, int64_t j_bytes, int n, int lines)
{
    vf r[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) r[i] = i < lines ? gemm_load(type, in + i * j_bytes, n) : (vf){0};
    turn(r);
    for (int u = 0; u < VF_LANES; u++)
        if (u < n)
            for (int i = 0; i < rows; i++) sums[i] = vf_fma(vf_set1(a[i * a_row + u]), r[u], sums[i]);
}

/* VF_LANES columns from j in one block of k. */
INLINE void turned_block(const int rows, qp_dtype type, const job *w, int64_t block, int64_t j, int lines,
                         float *acc)
{
    const gemm_source *b = &w->item->b;
    int64_t      bytes = gemm_bytes(type), j_bytes = b->j_step * bytes, count = block_count(w, block), p = 0;
    const float *a = w->a + block * w->block;
    const char  *in = gemm_at(b, block * w->block, j);
    vf           sums[FEW_ROWS];
    for (int i = 0; i < rows; i++) sums[i] = (vf){0};
    if (lines == VF_LANES)
        for (; p + VF_LANES <= count; p += VF_LANES, in += VF_LANES * bytes) {
            for (int i = 0; i < VF_LANES; i++) __builtin_prefetch(in + i * j_bytes + AHEAD);
            turned_square(rows, type, sums, a + p, w->a_row, in, j_bytes, VF_LANES, VF_LANES);
        }
    for (; p < count; p += VF_LANES, in += VF_LANES * bytes)
        turned_square(rows, type, sums, a + p, w->a_row, in, j_bytes, (int)gemm_min(count - p, VF_LANES), lines);
    for (int i = 0; i < rows; i++) vf_store(acc + i * VF_LANES, sums[i]);
}

INLINE void turned(const int rows, qp_dtype type, const job *w, int64_t j0, int64_t j1)
{
    float acc[FEW_ROWS * VF_LANES], total[FEW_ROWS * VF_LANES];
    for (int64_t j = j0; j < j1; j += VF_LANES) {
        int lines = (int)gemm_min(j1 - j, VF_LANES);
        for (int64_t block = 0; block < w->blocks; block++) {
            turned_block(rows, type, w, block, j, lines, acc);
            add_block(w, block, j, lines, acc, VF_LANES, total);
        }
    }
}

/* ---- columns contiguous in B: whole lines of B are added to a row of sums --------------- */

/* `lines` rows of B, `cols` columns: sums += a b. */
INLINE void wide_lines(const int rows, qp_dtype type, float *sums, const float *a, int64_t a_row,
                       const char *in, int64_t p_bytes, const int lines, int64_t cols)
{
    int64_t bytes = gemm_bytes(type);
    for (int64_t j = 0; j < cols; j += VF_LANES, in += VF_LANES * bytes) {
        vf  y[LINES];
        int n = cols - j < VF_LANES ? (int)(cols - j) : VF_LANES;
        for (int u = 0; u < lines; u++)
            y[u] = n == VF_LANES ? gemm_load(type, in + u * p_bytes, VF_LANES) : gemm_load(type, in + u * p_bytes, n);
        for (int i = 0; i < rows; i++) {
            vf s = vf_load(sums + i * WIDE_COLS + j);
            for (int u = 0; u < lines; u++) s = vf_fma(vf_set1(a[i * a_row + u]), y[u], s);
            vf_store(sums + i * WIDE_COLS + j, s);
        }
    }
}

INLINE void wide(const int rows, qp_dtype type, const job *w, int64_t j, int64_t cols, float *sums)
{
    const gemm_source *b = &w->item->b;
    int64_t p_bytes = b->p_step * gemm_bytes(type);
    float  *total = sums + rows * WIDE_COLS;
    for (int64_t block = 0; block < w->blocks; block++) {
        int64_t      count = block_count(w, block), p = 0;
        const float *a = w->a + block * w->block;
        const char  *in = gemm_at(b, block * w->block, j);
        memset(sums, 0, (size_t)(rows * WIDE_COLS) * sizeof *sums);
        for (; p + LINES <= count; p += LINES)
            wide_lines(rows, type, sums, a + p, w->a_row, in + p * p_bytes, p_bytes, LINES, cols);
        for (; p < count; p++)
            wide_lines(rows, type, sums, a + p, w->a_row, in + p * p_bytes, p_bytes, 1, cols);
        add_block(w, block, j, cols, sums, WIDE_COLS, total);
    }
}

/* ---- one function for each number of rows ----------------------------------------------- */

INLINE void run(const int rows, qp_dtype type, const job *w, int64_t j, int64_t j1, float *worker)
{
    if (w->item->b.p_step == 1)
        turned(rows, type, w, j, j1);
    else
        wide(rows, type, w, j, j1 - j, worker);
}

#define DEFINE(n) \
    static void rows_##n(const job *w, int64_t j, int64_t j1, float *worker) \
    { \
        switch (w->item->b.type) { \
        case QP_F32: run(n, QP_F32, w, j, j1, worker); break; \
        case QP_BF16: run(n, QP_BF16, w, j, j1, worker); break; \
        default: run(n, QP_F16, w, j, j1, worker); \
        } \
    }
DEFINE(1) DEFINE(2) DEFINE(3) DEFINE(4) DEFINE(5) DEFINE(6) DEFINE(7) DEFINE(8)

static void run_tasks(void *arg, int64_t begin, int64_t end, int worker)
{
    static void (*const kernels[])(const job *, int64_t, int64_t, float *) = {
        NULL, rows_1, rows_2, rows_3, rows_4, rows_5, rows_6, rows_7, rows_8};
    const job *w = arg;
    for (int64_t task = begin; task < end; task++) {
        int64_t j = task * w->task_cols, j1 = gemm_min(j + w->task_cols, w->item->g->n);
        kernels[w->item->g->m](w, j, j1, w->workers + worker * w->worker_floats);
    }
}

/* A as rows of floats. */
static void convert_rows(const gemm_source *a, int64_t m, int64_t k, float *out)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t p = 0; p < k; p++, out++) {
            const void *x = gemm_at(a, p, i);
            *out = a->type == QP_F32 ? *(const float *)x : gemm_load(a->type, x, 1)[0];
        }
}

bool QK(gemm_rows_takes)(const gemm_item *item)
{
    return item->g->m <= FEW_ROWS && (item->b.p_step == 1 || item->b.j_step == 1);
}

void QK(gemm_rows)(const qp_exec *exec, const gemm_item *item)
{
    const qk_gemm_args *g = item->g;
    job w = {.item = item, .a = item->a.data, .a_row = item->a.j_step, .block = gemm_block_of(g->k),
             .worker_floats = 2 * g->m * WIDE_COLS, .workers = exec->scratch};
    w.blocks = gemm_max(1, gemm_parts(g->k, w.block));
    if (item->a.type != QP_F32 || item->a.p_step != 1) {
        float *rows = w.workers + exec->threads * w.worker_floats;
        convert_rows(&item->a, g->m, g->k, rows);
        w.a = rows;
        w.a_row = g->k;
    }
    int64_t cols = exec->threads == 1 ? g->n : g->n / (TASKS * exec->threads);
    w.task_cols = gemm_min(gemm_max(gemm_parts(cols, 64) * 64, 64), WIDE_COLS);
    qp_parallel(exec, gemm_parts(g->n, w.task_cols), 1, run_tasks, &w);
}
