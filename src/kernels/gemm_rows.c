/* A few rows of A (matrix-vector products): B is read once, in the order of memory, and is
 * not packed. */
#include "kernels/gemm_parts.h"
#include "kernels/lines.h"
#include "kernels/share.h"
#include "kernels/turn.h"

#define TASKS 8       /* wanted for each thread where columns are contiguous */
#define AGAIN 4       /* cache lines asked for a second time: of many requests some are dropped */
#define STEP VF_LANES /* words of a line of B turned at once */
#if VF_LANES == 16
#define FEW_ROWS 16    /* rows that B is not packed for where it is turned */
#define WIDE_STEP 8    /* lines of B that go into the sums at a time, */
#define VECS 3         /* so much of them */
#define SIDE_BY_SIDE 4 /* rows */
#else
#define FEW_ROWS 8
#define SIDE_BY_SIDE 2
#define WIDE_STEP 4
#define VECS 2
#endif
/* How B may have to be read: what is rounded to be a float is left to the strips. */
#if QP_PAIRS
#define KIND_1 GEMM_BF16
#define KIND_2 GEMM_F32_TO_BF16
#define KIND_3 GEMM_F16_TO_BF16
#else
#define KIND_1 GEMM_F32
#define KIND_2 GEMM_BF16
#define KIND_3 GEMM_F16
#endif

typedef struct {
    const gemm_item *items; /* of one A: its rows, m, and k are the same */
    int64_t          m, k;
    float           *a; /* STEP words of p of each row, then the next words of each */
    int64_t          block, blocks, sums_row;
    share_columns    columns;
    share           *share;
    share_fetch      fetch;
    int              shares;
    float           *workers; /* sums, then totals: m x sums_row each */
    int64_t          worker_floats;
} job;

static int64_t block_count(const job *w, int64_t block) { return gemm_min(w->block, w->k - block * w->block); }

/* Word p of a block, of row 0; the next row's is STEP behind it. */
static const float *a_at(const job *w, int64_t block, int64_t p) {
    return w->a + (block * w->block + p / STEP * STEP) * w->m + p % STEP;
}

static void add_block(const job *w, const gemm_item *item, int64_t block, int64_t j, int64_t cols,
                      const float *acc, int64_t acc_row, float *total) {
    gemm_piece piece = {.j = j,
                        .rows = w->m,
                        .cols = cols,
                        .first = block == 0,
                        .last = block == w->blocks - 1,
                        .acc = acc,
                        .acc_row = acc_row,
                        .total = total,
                        .total_row = acc_row};
    QK(gemm_add)(item, &piece);
}

/* ---- p contiguous in B: B is turned in registers ------------------------------------- */

/* STEP words of one line. */
INLINE vf line_words(gemm_kind kind, const char *in) {
#if QP_PAIRS
    const qp_dtype type = GEMM_TYPE(kind);
    if (type == QP_BF16) return vf_load((const float *)in);
    vf low = gemm_load(type, in, VF_LANES), high = gemm_load(type, in + VF_LANES * gemm_bytes(kind), VF_LANES);
    return (vf)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    return word_round(kind, gemm_load(GEMM_TYPE(kind), in, VF_LANES));
#endif
}

/* s[i] += row i of A times a square of B. A sum waits for the one before, so rows go side by side. */
INLINE void add_rows(const int rows, vf *s, const float *a, const vf x[STEP]) {
    for (int u = 0; u < STEP; u++)
        for (int i = 0; i < rows; i++) s[i] = word_fma(word_at(&a[i * STEP + u]), x[u], s[i]);
}

INLINE void add_rows_to(const int rows, float *acc, const float *a, const vf x[STEP]) {
    vf s[SIDE_BY_SIDE];
    for (int i = 0; i < rows; i++) s[i] = vf_load(acc + i * VF_LANES);
    add_rows(rows, s, a, x);
    for (int i = 0; i < rows; i++) vf_store(acc + i * VF_LANES, s[i]);
}

/* acc [m, VF_LANES] = so many columns by one block of k; returns how far in p it came. A line of the caches
 * is read at once, because lines that lie powers of two apart compete for the same places; what is fetched
 * is what will be read later, in the order of memory, which is when memory is fastest, into the second cache,
 * as few requests of the first can be on their way. */
INLINE int64_t turned_steps(gemm_kind kind, const bool single, const job *w, const gemm_source *b,
                            int64_t block, int64_t j, const char *ahead, float *acc) {
    const int64_t bytes = GEMM_PAIR * gemm_bytes(kind), m = single ? 1 : w->m, p0 = block * w->block;
    const int64_t count = gemm_whole(b, p0, block_count(w, block));
    line_steps    step = line_steps_of(b->j_step * gemm_bytes(kind));
    const char   *in = gemm_at(b, p0, j);
    const float  *a = a_at(w, block, 0);
    int64_t       p = 0;
    vf            sum = {0};
    ahead += p0 * bytes * VF_LANES;
    for (; p + STEP <= count; p += STEP, in += STEP * bytes, ahead += STEP * VF_LANES * bytes, a += STEP * m) {
        vf      x[STEP];
        int64_t i = 0;
        for (int u = 0; u < VF_LANES * STEP * (int)bytes / 64 + AGAIN; u++)
            __builtin_prefetch(ahead + 64 * u, 0, 2);
        for (int u = 0; u < VF_LANES; u++) x[u] = line_words(kind, line_at(in, &step, u));
        turn(x);
        if (single) add_rows(1, &sum, a, x);
        for (; !single && i + SIDE_BY_SIDE <= m; i += SIDE_BY_SIDE)
            add_rows_to(SIDE_BY_SIDE, acc + i * VF_LANES, a + i * STEP, x);
        for (; !single && i < m; i++) add_rows_to(1, acc + i * VF_LANES, a + i * STEP, x);
    }
    if (single) vf_store(acc, sum);
    return p;
}

static int64_t turned_block(const job *w, const gemm_source *b, int64_t block, int64_t j, const char *ahead,
                            float *acc) {
#define TURNED(kind) \
    return w->m == 1 ? turned_steps(kind, true, w, b, block, j, ahead, acc) \
                     : turned_steps(kind, false, w, b, block, j, ahead, acc)
    switch (b->kind) {
    case KIND_1: TURNED(KIND_1);
    case KIND_2: TURNED(KIND_2);
    default: TURNED(KIND_3);
    }
}

/* What is left of k, or all of it where there are too few columns. */
static void turned_rest(const job *w, const gemm_source *b, int64_t block, int64_t p, int64_t j, int64_t cols,
                        float *acc) {
    int64_t m = w->m, count = block_count(w, block);
    for (; p < count; p++)
        for (int64_t c = 0; c < cols; c++) {
            const float *a = a_at(w, block, p);
            float        y = gemm_word(b, block * w->block + p, j + c);
            for (int64_t i = 0; i < m; i++)
                acc[i * VF_LANES + c] =
                    word_fma(word_at(&a[i * STEP]), word_at(&y), vf_set1(acc[i * VF_LANES + c]))[0];
        }
}

/* Columns from j on, up to VF_LANES. Fewer are the end of a whole group that ends with the last column, if there is
 * one. */
static void turned(const job *w, const gemm_item *item, int64_t j, int64_t cols, const char *ahead) {
    float   acc[FEW_ROWS * VF_LANES], total[FEW_ROWS * VF_LANES];
    int64_t skip = j + cols >= VF_LANES ? VF_LANES - cols : 0;
    for (int64_t block = 0; block < w->blocks; block++) {
        memset(acc, 0, (size_t)w->m * VF_LANES * sizeof *acc);
        int64_t p = cols + skip == VF_LANES ? turned_block(w, &item->b, block, j - skip, ahead, acc) : 0;
        turned_rest(w, &item->b, block, p, j - skip, cols + skip, acc);
        add_block(w, item, block, j, cols, acc + skip, VF_LANES, total + skip);
    }
}

/* ---- columns contiguous in B: whole lines of B are added to rows of sums ------------------ */

/* So many p, and vectors of columns; the last vector has n of them. `whole`: words have all their
 * values. */
INLINE void wide_column(const int count, const int vecs, const bool whole, const gemm_source *b, const job *w,
                        float *sums, const float *a, const char *in, int n) {
    const gemm_kind kind = b->kind;
    int64_t         line = b->p_step * gemm_bytes(kind);
    vf              y[WIDE_STEP][VECS];
    for (int u = 0; u < count; u++)
        for (int v = 0; v < vecs; v++) {
            const char *first = in + u * GEMM_PAIR * line + v * VF_LANES * gemm_bytes(kind);
            y[u][v] = gemm_words(kind, first, whole ? first + line : NULL, vecs > 1 ? VF_LANES : n);
        }
    for (int64_t i = 0; i < w->m; i++, a += STEP, sums += w->sums_row) {
        vf s[VECS];
        for (int v = 0; v < vecs; v++) s[v] = vf_load(sums + v * VF_LANES);
        for (int u = 0; u < count; u++)
            for (int v = 0; v < vecs; v++) s[v] = word_fma(word_at(&a[u]), y[u][v], s[v]);
        for (int v = 0; v < vecs; v++) vf_store(sums + v * VF_LANES, s[v]);
    }
}

INLINE void wide_lines(const int count, const bool whole, const gemm_source *b, const job *w, float *sums,
                       const float *a, const char *in, int64_t cols) {
    int64_t j = 0, bytes = gemm_bytes(b->kind);
    for (; j + VECS * VF_LANES <= cols; j += VECS * VF_LANES)
        wide_column(count, VECS, whole, b, w, sums + j, a, in + j * bytes, VF_LANES);
    for (; j < cols; j += VF_LANES)
        wide_column(count, 1, whole, b, w, sums + j, a, in + j * bytes, (int)gemm_min(cols - j, VF_LANES));
}

INLINE void wide(gemm_kind kind, const job *w, int64_t j, int64_t cols, float *sums) {
    gemm_source b = w->items->b;
    b.kind = kind;
    int64_t line = GEMM_PAIR * b.p_step * gemm_bytes(kind), floats = w->m * w->sums_row;
    for (int64_t block = 0; block < w->blocks; block++) {
        int64_t     count = block_count(w, block), whole = gemm_whole(&b, block * w->block, count), p = 0;
        const char *in = gemm_at(&b, block * w->block, j);
        memset(sums, 0, (size_t)floats * sizeof *sums);
        for (; p + WIDE_STEP <= whole; p += WIDE_STEP, in += WIDE_STEP * line)
            wide_lines(WIDE_STEP, true, &b, w, sums, a_at(w, block, p), in, cols);
        for (; p < whole; p++, in += line) wide_lines(1, true, &b, w, sums, a_at(w, block, p), in, cols);
        if (p < count) wide_lines(1, false, &b, w, sums, a_at(w, block, p), in, cols);
        add_block(w, w->items, block, j, cols, sums, w->sums_row, sums + floats);
    }
}

static void wide_any(const job *w, int64_t j, int64_t cols, float *sums) {
    switch (w->items->b.kind) {
    case KIND_1: wide(KIND_1, w, j, cols, sums); break;
    case KIND_2: wide(KIND_2, w, j, cols, sums); break;
    default: wide(KIND_3, w, j, cols, sums);
    }
}

/* ---- Both ----------------------------------------------------------------------------------- */

/* Where k is 1, p may be contiguous and columns too. */
static bool is_turned(const gemm_item *item) { return item->b.p_step == 1 && item->g->m <= FEW_ROWS; }

static void run_tasks(void *arg, int64_t begin, int64_t end, int worker) {
    const job  *w = arg;
    share_piece p;
    (void)end;
    while (share_take(w->share, w->shares, (int)begin, w->columns.unit, &p)) {
        int              matrix = share_matrix(&w->columns, p.j);
        const gemm_item *item = &w->items[matrix];
        int64_t          j = p.j - w->columns.start[matrix], cols = gemm_min(w->columns.unit, item->g->n - j);
        if (is_turned(item)) turned(w, item, j, cols, share_ahead(&w->fetch, &w->columns, &p, p.j));
        else wide_any(w, j, cols, w->workers + worker * w->worker_floats);
    }
}

static void pack_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const job         *w = arg;
    const gemm_source *a = &w->items->a;
    int64_t            m = w->m, whole = gemm_whole(a, 0, w->k);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *out = w->a + i * STEP;
        for (int64_t p = 0; p < w->k; p += STEP, out += m * STEP) {
            int64_t n = gemm_min(STEP, w->k - p);
            if (a->p_step == 1 && p + STEP <= whole) vf_store(out, line_words(a->kind, gemm_at(a, p, i)));
            else
                for (int64_t u = 0; u < n; u++) out[u] = gemm_word(a, p + u, i);
        }
    }
}

static bool kind_taken(gemm_kind kind) { return kind == KIND_1 || kind == KIND_2 || kind == KIND_3; }

bool QK(gemm_rows_takes)(const gemm_item *item) {
    const qk_gemm_args *g = item->g;
    if (!kind_taken(item->b.kind)) return false;
    if (is_turned(item)) return true;
    return item->b.j_step == 1 && g->m <= (g->n >= MANY_COLS ? FEW_WIDE_ROWS : 8);
}

void QK(gemm_rows)(const qp_exec *exec, const gemm_item *items, int count) {
    const qk_gemm_args *g = items->g;
    const gemm_source  *b = &items->b;
    job                 w = {.items = items, .m = g->m, .k = items->k, .block = gemm_block_of(items->k)};
    w.sums_row = gemm_wide_cols(w.m);
    w.worker_floats = 2 * w.m * w.sums_row;
    w.blocks = gemm_max(1, gemm_parts(w.k, w.block));
    w.share = exec->scratch;
    w.workers = (float *)exec->scratch + exec->threads * SHARE_FLOATS;
    w.a = w.workers + exec->threads * w.worker_floats;
    qp_parallel(exec, w.m, gemm_parts(PACK_PIECE, gemm_max(1, w.k)), pack_rows, &w);
    w.columns = (share_columns){.line = b->j_step * gemm_bytes(b->kind), .unit = VF_LANES};
    if (!is_turned(items)) {
        int64_t cols = gemm_parts(g->n, TASKS * exec->threads);
        w.columns.unit = gemm_min(gemm_parts(cols, WIDE_UNIT) * WIDE_UNIT, w.sums_row);
    }
    for (int i = 0; i < count; i++) share_add(&w.columns, items[i].b.data, items[i].g->n);
    w.shares = share_out(w.share, exec->threads, w.columns.end, w.columns.unit,
                         w.columns.end * g->k * gemm_bytes(b->kind) * gemm_parts(w.m, 4));
    w.fetch = share_fetch_of(&w.columns, g->next, w.shares);
    qp_parallel(exec, w.shares, 1, run_tasks, &w);
}
