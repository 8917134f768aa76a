/* A few rows of A (matrix-vector products): B is read once, in the order of memory, and is
 * not packed. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

#define TASKS 8    /* wanted for each thread */
#define AHEAD 256 /* bytes of a line of B fetched before they are needed */
#if VF_LANES == 16
#define FEW_ROWS 16 /* rows that keep their sums in registers where B is turned */
#define VECS 3      /* of a line of B that go into the sums at a time */
#else
#define FEW_ROWS 8
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
#define PAIR_ROWS 4 /* rows so few that two groups of columns go together */

typedef struct {
    const gemm_item *item;
    float           *a; /* TURN_STEP values of p of each row, then the next values of each */
    int64_t          block, blocks, task_cols, sums_row;
    float           *workers; /* sums, then totals: m x sums_row each */
    int64_t          worker_floats;
} job;

static int64_t block_count(const job *w, int64_t block)
{
    return gemm_min(w->block, w->item->k - block * w->block);
}

static const float *a_at(const job *w, int64_t block) { return w->a + block * w->block * w->item->g->m; }

static void add_block(const job *w, int64_t block, int64_t j, int64_t cols, const float *acc, int64_t acc_row,
                      float *total)
{
    gemm_piece piece = {.j = j, .rows = w->item->g->m, .cols = cols, .first = block == 0,
                        .last = block == w->blocks - 1, .acc = acc, .acc_row = acc_row,
                        .total = total, .total_row = acc_row};
    QK(gemm_add)(w->item, &piece);
}

/* ---- p contiguous in B: B is turned in registers ------------------------------------- */

#if TURN_STEP == 8
#define EACH_VALUE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#else
#define EACH_VALUE(X) X(0) X(1) X(2) X(3)
#endif
#if FEW_ROWS == 16
#define EACH_FEW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#else
#define EACH_FEW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#endif

/* Half of the lines of a square; a line holds two steps or more. */
INLINE void fetch_lines(const char *at, int64_t j_bytes)
{
    for (int i = 0; i < VF_LANES / 2; i++) __builtin_prefetch(at + i * j_bytes);
}

#define ZERO(i) vf s##i = {0}, t##i = {0};
#define ADD(i) \
    if (i < rows) { \
        vf z = word_at(&a[i * TURN_STEP + value]); \
        s##i = word_fma(z, x[value], s##i); \
        if (groups == 2) t##i = word_fma(z, y[value], t##i); \
    }
#define ADD_VALUE(u) \
    { \
        const int value = u; \
        EACH_FEW(ADD) \
    }
#define STORE(i) \
    if (i < rows) { \
        vf_store(acc + i * groups * VF_LANES, s##i); \
        if (groups == 2) vf_store(acc + (i * groups + 1) * VF_LANES, t##i); \
    }

/* One or two groups of VF_LANES columns; returns how far in p it came. Few rows need two
 * groups, because a sum waits for the one before. acc: rows x groups vectors. */
INLINE int64_t turned_steps(const int rows, const int groups, gemm_kind kind, const job *w, int64_t block,
                            int64_t j, float *acc)
{
    const int64_t bytes = GEMM_PAIR * gemm_bytes(kind), count = gemm_whole(&w->item->b, block * w->block, block_count(w, block));
    const int64_t j_bytes = w->item->b.j_step * gemm_bytes(kind), line_bytes = w->item->k * bytes;
    const float  *a = a_at(w, block);
    const char   *in = gemm_at(&w->item->b, block * w->block, j), *in2 = in + VF_LANES * j_bytes;
    int64_t       p = 0, done = block * w->block * bytes, offset[VF_LANES];
    turn_offsets(offset, j_bytes, VF_LANES);
    EACH_FEW(ZERO)
    for (; p + TURN_STEP <= count; p += TURN_STEP) {
        vf x[TURN_STEP], y[TURN_STEP];
        /* past the end of these lines come the next columns */
        const char *ahead = in + AHEAD + (p & TURN_STEP ? VF_LANES / 2 : 0) * j_bytes;
        if (done + AHEAD >= line_bytes) ahead += groups * VF_LANES * j_bytes - line_bytes;
        fetch_lines(ahead, j_bytes);
        turn(kind, x, in, offset);
        if (groups == 2) {
            fetch_lines(ahead + VF_LANES * j_bytes, j_bytes);
            turn(kind, y, in2, offset);
        }
        EACH_VALUE(ADD_VALUE)
        a += rows * TURN_STEP;
        in += TURN_STEP * bytes, in2 += TURN_STEP * bytes, done += TURN_STEP * bytes;
    }
    EACH_FEW(STORE)
    return p;
}

typedef int64_t turned_fn(const job *w, int64_t block, int64_t j, float *acc);

#define PAIRED(n) TURNED(n, 1) TURNED(n, 2)
#define TURNED(n, groups) \
    static int64_t turned_##n##_##groups(const job *w, int64_t block, int64_t j, float *acc) \
    { \
        switch (w->item->b.kind) { \
        case KIND_1: return turned_steps(n, groups, KIND_1, w, block, j, acc); \
        case KIND_2: return turned_steps(n, groups, KIND_2, w, block, j, acc); \
        default: return turned_steps(n, groups, KIND_3, w, block, j, acc); \
        } \
    }
#define ENTRY(n) turned_##n##_1,
#define PAIR_ENTRY(n) turned_##n##_2,

#define EACH_PAIRED(X) X(1) X(2) X(3) X(4)
#if FEW_ROWS == 16
#define EACH_SINGLE(X) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16)
#else
#define EACH_SINGLE(X) X(5) X(6) X(7) X(8)
#endif
#define SINGLE(n) TURNED(n, 1)
EACH_PAIRED(PAIRED)
EACH_SINGLE(SINGLE)
static turned_fn *const turned_one[] = {NULL, EACH_PAIRED(ENTRY) EACH_SINGLE(ENTRY)};
static turned_fn *const turned_two[] = {NULL, EACH_PAIRED(PAIR_ENTRY)};

/* What is left of k, or all of it where there are too few columns. */
static void turned_rest(const job *w, int64_t block, int64_t p, int64_t j, int64_t cols, float *acc)
{
    const gemm_source *b = &w->item->b;
    int64_t            m = w->item->g->m, count = block_count(w, block);
    for (; p < count; p++)
        for (int64_t c = 0; c < cols; c++) {
            const float *a = a_at(w, block) + p / TURN_STEP * TURN_STEP * m + p % TURN_STEP;
            float        y = turn_word(b->kind, b, block * w->block + p, j + c);
            for (int64_t i = 0; i < m; i++)
                acc[i * cols + c] = word_fma(word_at(&a[i * TURN_STEP]), word_at(&y), vf_set1(acc[i * cols + c]))[0];
        }
}

/* `cols` columns, of which the first `skip` are done already. */
static void turned_group(const job *w, int64_t j, int64_t cols, int64_t skip)
{
    float   acc[FEW_ROWS * 2 * VF_LANES], total[FEW_ROWS * 2 * VF_LANES];
    int64_t m = w->item->g->m;
    for (int64_t block = 0; block < w->blocks; block++) {
        int64_t p = 0;
        if (cols == VF_LANES)
            p = turned_one[m](w, block, j, acc);
        else if (cols == 2 * VF_LANES)
            p = turned_two[m](w, block, j, acc);
        else
            memset(acc, 0, sizeof acc);
        turned_rest(w, block, p, j, cols, acc);
        add_block(w, block, j + skip, cols - skip, acc + skip, cols, total + skip);
    }
}

static void turned(const job *w, int64_t j, int64_t end)
{
    if (w->item->g->m <= PAIR_ROWS)
        for (; j + 2 * VF_LANES <= end; j += 2 * VF_LANES) turned_group(w, j, 2 * VF_LANES, 0);
    for (; j + VF_LANES <= end; j += VF_LANES) turned_group(w, j, VF_LANES, 0);
    if (j == end) return;
    if (end >= VF_LANES) /* a whole group that ends with the last column */
        turned_group(w, end - VF_LANES, VF_LANES, VF_LANES - (end - j));
    else
        turned_group(w, j, end - j, 0);
}

/* ---- columns contiguous in B: whole lines of B are added to rows of sums ------------------ */

/* So many p, and vectors of columns; the last vector has n of them. `whole`: words have all their
 * values. */
INLINE void wide_column(const int count, const int vecs, const bool whole, const gemm_source *b, const job *w,
                        float *sums, const float *a, const char *in, int n)
{
    const gemm_kind kind = b->kind;
    int64_t         line = b->p_step * gemm_bytes(kind);
    vf              y[TURN_STEP][VECS];
    for (int u = 0; u < count; u++)
        for (int v = 0; v < vecs; v++) {
            const char *first = in + u * GEMM_PAIR * line + v * VF_LANES * gemm_bytes(kind);
            y[u][v] = gemm_words(kind, first, whole ? first + line : NULL, vecs > 1 ? VF_LANES : n);
        }
    for (int64_t i = 0; i < w->item->g->m; i++, a += TURN_STEP, sums += w->sums_row) {
        vf s[VECS];
        for (int v = 0; v < vecs; v++) s[v] = vf_load(sums + v * VF_LANES);
        for (int u = 0; u < count; u++)
            for (int v = 0; v < vecs; v++) s[v] = word_fma(word_at(&a[u]), y[u][v], s[v]);
        for (int v = 0; v < vecs; v++) vf_store(sums + v * VF_LANES, s[v]);
    }
}

INLINE void wide_lines(const int count, const bool whole, const gemm_source *b, const job *w, float *sums,
                       const float *a, const char *in, int64_t cols)
{
    int64_t j = 0, bytes = gemm_bytes(b->kind);
    for (; j + VECS * VF_LANES <= cols; j += VECS * VF_LANES)
        wide_column(count, VECS, whole, b, w, sums + j, a, in + j * bytes, VF_LANES);
    for (; j < cols; j += VF_LANES)
        wide_column(count, 1, whole, b, w, sums + j, a, in + j * bytes, (int)gemm_min(cols - j, VF_LANES));
}

INLINE void wide(gemm_kind kind, const job *w, int64_t j, int64_t cols, float *sums)
{
    gemm_source b = w->item->b;
    b.kind = kind;
    int64_t line = GEMM_PAIR * b.p_step * gemm_bytes(kind), m = w->item->g->m, floats = m * w->sums_row;
    for (int64_t block = 0; block < w->blocks; block++) {
        int64_t      count = block_count(w, block), whole = gemm_whole(&b, block * w->block, count), p = 0;
        const float *a = a_at(w, block);
        const char  *in = gemm_at(&b, block * w->block, j);
        memset(sums, 0, (size_t)floats * sizeof *sums);
        for (; p + TURN_STEP <= whole; p += TURN_STEP, in += TURN_STEP * line, a += TURN_STEP * m)
            wide_lines(TURN_STEP, true, &b, w, sums, a, in, cols);
        for (; p < whole; p++, in += line) wide_lines(1, true, &b, w, sums, a++, in, cols);
        if (p < count) wide_lines(1, false, &b, w, sums, a, in, cols);
        add_block(w, block, j, cols, sums, w->sums_row, sums + floats);
    }
}

static void wide_any(const job *w, int64_t j, int64_t cols, float *sums)
{
    switch (w->item->b.kind) {
    case KIND_1: wide(KIND_1, w, j, cols, sums); break;
    case KIND_2: wide(KIND_2, w, j, cols, sums); break;
    default: wide(KIND_3, w, j, cols, sums);
    }
}

/* ---- Both ----------------------------------------------------------------------------------- */

static void run_tasks(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *w = arg;
    for (int64_t task = begin; task < end; task++) {
        int64_t j = task * w->task_cols, j1 = gemm_min(j + w->task_cols, w->item->g->n);
        if (w->item->b.p_step == 1)
            turned(w, j, j1);
        else
            wide_any(w, j, j1 - j, w->workers + worker * w->worker_floats);
    }
}

static void pack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const job         *w = arg;
    const gemm_source *a = &w->item->a;
    int64_t            m = w->item->g->m, whole = gemm_whole(a, 0, w->item->k);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *out = w->a + i * TURN_STEP;
        for (int64_t p = 0; p < w->item->k; p += TURN_STEP, out += m * TURN_STEP) {
            int64_t n = gemm_min(TURN_STEP, w->item->k - p);
            if (a->p_step == 1 && p + TURN_STEP <= whole)
                turn_line(a->kind, out, gemm_at(a, p, i));
            else
                for (int64_t u = 0; u < n; u++) out[u] = turn_word(a->kind, a, p + u, i);
        }
    }
}

static bool kind_taken(gemm_kind kind) { return kind == KIND_1 || kind == KIND_2 || kind == KIND_3; }

bool QK(gemm_rows_takes)(const gemm_item *item)
{
    const qk_gemm_args *g = item->g;
    if (!kind_taken(item->b.kind)) return false;
    if (item->b.p_step == 1 && g->m <= FEW_ROWS) return true;
    return item->b.j_step == 1 && g->m <= (g->n >= MANY_COLS ? FEW_WIDE_ROWS : 8);
}

void QK(gemm_rows)(const qp_exec *exec, const gemm_item *item)
{
    const qk_gemm_args *g = item->g;
    job w = {.item = item, .block = gemm_block_of(item->k), .sums_row = gemm_wide_cols(g->m),
             .workers = exec->scratch};
    w.worker_floats = 2 * g->m * w.sums_row;
    w.blocks = gemm_max(1, gemm_parts(item->k, w.block));
    w.a = w.workers + exec->threads * w.worker_floats;
    qp_parallel(exec, g->m, gemm_parts(PACK_PIECE, gemm_max(1, item->k)), pack_rows, &w);
    int64_t cols = gemm_parts(g->n, TASKS * exec->threads);
    w.task_cols = gemm_min(gemm_parts(cols, WIDE_UNIT) * WIDE_UNIT, w.sums_row);
    qp_parallel(exec, gemm_parts(g->n, w.task_cols), 1, run_tasks, &w);
}
