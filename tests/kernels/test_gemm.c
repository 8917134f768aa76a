/* The matrix product against a double loop, and its promises: row results that depend on
 * nothing but their row, the same bits with any thread count, nothing written outside C. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/isa.h"
#include "core/threads.h"
#include "kernels/gemm.h"

extern qk_gemm_fn qk_gemm_base, qk_gemm_avx2, qk_gemm_avx512;

#define MAX_ISAS 3
static qk_gemm_fn *isas[MAX_ISAS];
static int         isa_count;

#define GUARD 64 /* bytes */
#define GUARD_BYTE 0xa5

/* Memory that ends and begins with guard bytes, and looks the same at every call. */
typedef struct {
    unsigned char *whole;
    size_t         bytes;
    void          *data;
} guarded;

static guarded guarded_new(size_t bytes) {
    size_t  total = (bytes + 2 * GUARD + 63) / 64 * 64;
    guarded g = {aligned_alloc(64, total), bytes, NULL};
    assert_non_null(g.whole);
    memset(g.whole, GUARD_BYTE, total);
    g.data = g.whole + GUARD;
    return g;
}

static void guarded_check_free(guarded *g) {
    for (int i = 0; i < GUARD; i++) {
        assert_int_equal(g->whole[i], GUARD_BYTE);
        assert_int_equal(g->whole[GUARD + g->bytes + (size_t)i], GUARD_BYTE);
    }
    free(g->whole);
}

static uint32_t state = 1;
static float next_value(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

/* ---- A call, as the test sees it ---------------------------------------------------------- */

typedef enum { ROWS, COLS, STRIDED } layout; /* contiguous along a row, down a column, neither */

typedef struct {
    int64_t  batch, m, n, k;
    layout   a, b;
    qp_dtype a_type, b_type, c_type, compute;
    float    scale;
    bool     accumulate, bias, residual, residual_is_c, pre_act;
    qk_act   act;
} test_case;

typedef struct {
    qk_gemm_args args;
    void        *a, *b;
    double      *a_values, *b_values; /* what the elements stand for */
    float       *bias;
    void        *residual, *c0;
    double      *residual_values, *c0_values;
    guarded      c, pre_act;
    size_t       c_count, c_bytes;
} problem;

static float half_to_float(qp_dtype type, uint16_t h) {
    if (type == QP_BF16) {
        uint32_t u = (uint32_t)h << 16;
        float    f;
        memcpy(&f, &u, sizeof f);
        return f;
    }
    int   exponent = h >> 10 & 31;
    float f = exponent ? ldexpf((float)(1024 + (h & 1023)), exponent - 25) : ldexpf((float)(h & 1023), -24);
    return h & 0x8000 ? -f : f;
}

/* The nearest value of a type, ties to even, by double arithmetic. */
static double rounded(qp_dtype type, double x) {
    int exponent, digits = type == QP_BF16 ? 8 : 11, least = type == QP_BF16 ? -133 : -24;
    if (type == QP_F32 || x == 0 || !isfinite(x)) return x;
    frexp(x, &exponent);
    exponent -= digits;
    return ldexp(nearbyint(ldexp(x, -(exponent > least ? exponent : least))),
                 exponent > least ? exponent : least);
}

static double value_of(qp_dtype type, const void *data, int64_t i) {
    return type == QP_F32 ? ((const float *)data)[i] : half_to_float(type, ((const uint16_t *)data)[i]);
}

static size_t bytes_of(qp_dtype type) { return type == QP_F32 ? 4 : 2; }

/* Random elements of a type, and what they stand for. */
static void *random_values(qp_dtype type, size_t count, double **values) {
    void *data = calloc(count + 1, 4);
    *values = calloc(count + 1, sizeof(double));
    for (size_t i = 0; i < count; i++) {
        float x = next_value();
        if (type == QP_F32) ((float *)data)[i] = x;
        else ((uint16_t *)data)[i] = (uint16_t)((state >> 8 & 0x83ff) | (type == QP_BF16 ? 0x3f00 : 0x3400));
        (*values)[i] = value_of(type, data, (int64_t)i);
    }
    return data;
}

/* Fills rows x cols with random elements of a type and reports the strides: with gaps, but for what is one element
 * wide, where both may be 1. */
static void *fill(qp_dtype type, qp_dtype compute, layout l, int64_t batch, int64_t rows, int64_t cols,
                  int64_t *row, int64_t *col, int64_t *step, double **values) {
    *row = l == ROWS ? cols == 1 ? 1 : cols + 3 : l == COLS ? 1 : 2 * cols + 1;
    *col = l == ROWS ? 1 : l == COLS ? rows == 1 ? 1 : rows + 5 : 2;
    *step = l == COLS ? *col * cols + rows : *row * rows + cols;
    int64_t count = *step * batch + 1;
    void   *data = random_values(type, (size_t)count, values);
    for (int64_t i = 0; i < count; i++) (*values)[i] = rounded(compute, (*values)[i]);
    return data;
}

static float *random_floats(size_t count) {
    float *x = malloc((count + 1) * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = next_value();
    return x;
}

static problem problem_new(const test_case *t) {
    problem       q = {0};
    qk_gemm_args *g = &q.args;
    *g = (qk_gemm_args){.batch = t->batch,
                        .m = t->m,
                        .n = t->n,
                        .k = t->k,
                        .a_type = t->a_type,
                        .b_type = t->b_type,
                        .c_type = t->c_type,
                        .compute = t->compute,
                        .scale = t->scale,
                        .accumulate = t->accumulate,
                        .act = t->act};
    g->a = q.a =
        fill(t->a_type, t->compute, t->a, t->batch, t->m, t->k, &g->a_row, &g->a_col, &g->a_batch, &q.a_values);
    g->b = q.b =
        fill(t->b_type, t->compute, t->b, t->batch, t->k, t->n, &g->b_row, &g->b_col, &g->b_batch, &q.b_values);
    g->c_row = t->n + 5;
    g->c_batch = g->c_row * t->m;
    q.c_count = (size_t)(g->c_batch * t->batch);
    q.c_bytes = q.c_count * bytes_of(t->c_type);
    q.c0 = random_values(t->c_type, q.c_count, &q.c0_values);
    q.c = guarded_new(q.c_bytes);
    q.pre_act = guarded_new(q.c_bytes);
    g->c = q.c.data;
    if (t->pre_act) g->pre_act = q.pre_act.data;
    q.bias = random_floats((size_t)t->n);
    if (t->bias) g->bias = q.bias;
    g->residual_row = t->residual_is_c ? g->c_row : t->n + 1;
    g->residual_batch = t->residual_is_c ? g->c_batch : g->residual_row * t->m;
    q.residual = random_values(t->c_type, (size_t)(g->residual_batch * t->batch), &q.residual_values);
    if (t->residual) g->residual = t->residual_is_c ? g->c : q.residual;
    return q;
}

static void problem_free(problem *q) {
    guarded_check_free(&q->c);
    guarded_check_free(&q->pre_act);
    free(q->a);
    free(q->b);
    free(q->a_values);
    free(q->b_values);
    free(q->bias);
    free(q->residual);
    free(q->residual_values);
    free(q->c0);
    free(q->c0_values);
}

static void run(const problem *q, qk_gemm_fn *gemm, qp_pool *pool, int threads) {
    const qk_gemm_args *g = &q->args;
    guarded             scratch = guarded_new(qk_gemm_scratch(g->batch, g->m, g->n, g->k, threads));
    qp_exec             exec = {pool, threads, scratch.data};
    memcpy(q->c.data, q->c0, q->c_bytes);
    gemm(&exec, g);
    guarded_check_free(&scratch);
}

static double activate(qk_act act, double x) {
    switch (act) {
    case QK_ACT_RELU: return x > 0 ? x : 0;
    case QK_ACT_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case QK_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case QK_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

static void check(const problem *q) {
    const qk_gemm_args *g = &q->args;
    double              tolerance = 8e-7 * (4 + sqrt((double)g->k));
    if (g->c_type != QP_F32) tolerance += g->c_type == QP_BF16 ? 0x1.01p-8 : 0x1.01p-11;
    for (int64_t t = 0; t < g->batch; t++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->c_row; j++) {
                int64_t at = t * g->c_batch + i * g->c_row + j;
                if (j >= g->n) {
                    assert_true(value_of(g->c_type, q->c.data, at) == q->c0_values[at]);
                    continue;
                }
                double x = 0;
                for (int64_t p = 0; p < g->k; p++)
                    x += q->a_values[t * g->a_batch + i * g->a_row + p * g->a_col] *
                         q->b_values[t * g->b_batch + p * g->b_row + j * g->b_col];
                x = g->scale * x + (g->accumulate ? q->c0_values[at] : 0) + (g->bias ? g->bias[j] : 0);
                if (g->pre_act)
                    assert_true(fabs(value_of(g->c_type, q->pre_act.data, at) - x) <=
                                tolerance * (1 + fabs(x)));
                x = activate(g->act, x);
                if (g->residual)
                    x += g->residual == g->c
                             ? q->c0_values[at]
                             : q->residual_values[t * g->residual_batch + i * g->residual_row + j];
                double c = value_of(g->c_type, q->c.data, at);
                if (!(fabs(c - x) <= tolerance * (1 + fabs(x))))
                    fail_msg("batch %d m %d n %d k %d at (%d, %d): %.9g, not %.9g", (int)g->batch, (int)g->m,
                             (int)g->n, (int)g->k, (int)i, (int)j, c, x);
            }
}

/* One case on every instruction set and with several threads: right, and the same bits. */
static void check_case(const test_case *t, qp_pool *pool) {
    problem q = problem_new(t);
    void   *first = malloc(q.c_bytes + 1);
    for (int s = 0; s < isa_count; s++)
        for (int threads = 1; threads <= 5; threads += threads == 1 ? 1 : 3) {
            run(&q, isas[s], pool, threads);
            if (threads == 1) {
                check(&q);
                memcpy(first, q.c.data, q.c_bytes);
            } else {
                assert_memory_equal(first, q.c.data, q.c_bytes);
            }
        }
    free(first);
    problem_free(&q);
}

/* ---- Tests ---------------------------------------------------------------------------------- */

static const test_case plain = {.batch = 1, .scale = 1};

static int setup(void **pool) {
    *pool = qpi_pool_new(5);
    return *pool ? 0 : -1;
}

static int teardown(void **pool) {
    qpi_pool_free(*pool);
    return 0;
}

static void sizes(void **pool) {
    static const int64_t ms[] = {0, 1, 2, 7, 8, 9, 13, 14, 33, 65, 300},
                         ns[] = {0, 1, 7, 13, 16, 33, 64, 65, 130}, ks[] = {0, 1, 3, 13, 16, 33, 65, 400};
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
        for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
            for (size_t p = 0; p < sizeof ks / sizeof *ks; p++)
                for (int l = 0; l < 4; l++) {
                    test_case t = plain;
                    t.m = ms[i], t.n = ns[j], t.k = ks[p], t.a = l & 1 ? COLS : ROWS, t.b = l & 2 ? COLS : ROWS;
                    check_case(&t, *pool);
                }
}

static void layouts_and_types(void **pool) {
    static const qp_dtype types[] = {QP_F32, QP_BF16, QP_F16};
    static const int64_t  ms[] = {1, 5, 29, 70}, ns[] = {31, 68, 200};
    for (int c = 0; c < 3 * 3 * 3 * 3; c++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++) {
                test_case t = plain;
                t.m = ms[i], t.n = ns[j], t.k = 53;
                t.a = c % 3, t.b = c / 3 % 3, t.a_type = types[c / 9 % 3], t.b_type = types[c / 27];
                for (int type = 0; type < 3; type++) {
                    t.compute = types[type];
                    t.c_type = types[(c + type) % 3];
                    check_case(&t, *pool);
                }
            }
}

/* Sizes of every kind for pairs of bf16, in every way to read them. */
static void sizes_of_bf16(void **pool) {
    static const int64_t ms[] = {1, 4, 9, 17, 64, 100}, ns[] = {1, 33, 64, 300},
                         ks[] = {0, 1, 2, 3, 15, 16, 17, 32, 401};
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
        for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
            for (size_t p = 0; p < sizeof ks / sizeof *ks; p++)
                for (int l = 0; l < 16; l++) {
                    test_case t = plain;
                    t.m = ms[i], t.n = ns[j], t.k = ks[p], t.a = l & 1 ? COLS : ROWS, t.b = l & 2 ? COLS : ROWS;
                    t.a_type = l & 4 ? QP_BF16 : QP_F32, t.b_type = l & 8 ? QP_BF16 : QP_F32;
                    t.compute = QP_BF16, t.c_type = ms[i] % 2 ? QP_F32 : QP_BF16;
                    check_case(&t, *pool);
                }
}

/* Values between two of bf16: ties go to the even one, infinities and NaN stay. */
static void rounding(void **pool) {
    static const float in[] = {0x1.01p0f, 0x1.03p0f,   0x1.010002p0f, -0x1.01p0f,
                               0x1.ffp0f, 0x1.fep127f, 1e-20f,        INFINITY},
                       out[] = {1, 0x1.04p0f, 0x1.02p0f, -1, 2, 0x1.fep127f, 0, INFINITY};
    float              a[8], b[8] = {1}, c[8];
    for (int s = 0; s < isa_count; s++)
        for (int i = 0; i < 9; i++)
            for (int m = 1; m <= 40; m += 39) { /* rows that repeat: a_row is 0 */
                guarded scratch = guarded_new(qk_gemm_scratch(1, m, 1, 8, 1));
                float   rows[40];
                qp_exec exec = {*pool, 1, scratch.data};
                for (int p = 0; p < 8; p++) a[p] = p == i % 3 ? (i < 8 ? in[i] : NAN) : 0, b[p] = p == i % 3;
                qk_gemm_args g = {.batch = 1,
                                  .m = m,
                                  .n = 1,
                                  .k = 8,
                                  .a = a,
                                  .a_col = 1,
                                  .b = b,
                                  .b_row = 1,
                                  .b_col = 8,
                                  .c = rows,
                                  .c_row = 1,
                                  .scale = 1,
                                  .compute = QP_BF16};
                isas[s](&exec, &g);
                c[0] = rows[m - 1];
                if (i == 8) assert_true(isnan(c[0]));
                else assert_true(i == 6 ? fabsf(c[0] - in[i]) <= 0x1p-8f * in[i] : c[0] == out[i]);
                guarded_check_free(&scratch);
            }
}

static void ends(void **pool) {
    static const int64_t shapes[][3] = {{1, 70, 40},  {8, 33, 800}, {30, 64, 800},
                                        {65, 50, 20}, {3, 5, 0},    {20, 64, 0}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int c = 0; c < 1 << 5; c++)
            for (qk_act act = QK_ACT_NONE; act <= QK_ACT_SILU; act++) {
                test_case t = plain;
                t.compute = (c + act) % 2 ? QP_BF16 : QP_F32, t.c_type = c % 3 == 2 ? QP_BF16 : QP_F32;
                t.batch = 2, t.m = shapes[s][0], t.n = shapes[s][1], t.k = shapes[s][2];
                t.b = s % 2 ? COLS : ROWS, t.scale = c & 1 ? 0.25f : 1, t.act = act;
                t.accumulate = c & 2, t.bias = c & 4, t.residual = c & 8, t.pre_act = c & 16;
                t.residual_is_c = act & 1;
                check_case(&t, *pool);
            }
}

/* Long k is cut into stretches whose totals pass through C. */
static void long_sums(void **pool) {
    test_case t = {.batch = 1,
                   .m = 90,
                   .n = 40,
                   .k = 30000,
                   .b = COLS,
                   .scale = 0.5f,
                   .bias = true,
                   .act = QK_ACT_RELU,
                   .residual = true};
    check_case(&t, *pool);
    t.residual_is_c = true;
    check_case(&t, *pool);
    t.accumulate = true;
    check_case(&t, *pool);
    t.compute = QP_BF16, t.k = 29999;
    check_case(&t, *pool);
    t.c_type = QP_BF16;
    check_case(&t, *pool);
}

static void large(void **pool) {
    test_case t = {.batch = 1, .m = 1100, .n = 70, .k = 900, .a = COLS, .scale = 1, .accumulate = true};
    check_case(&t, *pool);
    t = (test_case){.batch = 3, .m = 300, .n = 400, .k = 250, .b = COLS, .scale = 1, .bias = true};
    check_case(&t, *pool);
    t.compute = t.a_type = t.b_type = QP_BF16;
    check_case(&t, *pool);
}

/* The product with B's values stored the other way round gives the same bits. */
static void check_other_layout(const problem *q, qk_gemm_fn *gemm, qp_pool *pool, const float *expected) {
    problem       other = *q;
    qk_gemm_args *g = &other.args;
    bool          rows = g->b_col == 1;
    float        *copy = malloc((size_t)(g->k * g->n) * sizeof *copy);
    for (int64_t p = 0; p < g->k; p++)
        for (int64_t j = 0; j < g->n; j++)
            copy[rows ? j * g->k + p : p * g->n + j] = ((const float *)q->b)[p * g->b_row + j * g->b_col];
    g->b = copy;
    g->b_row = rows ? 1 : g->n;
    g->b_col = rows ? g->k : 1;
    run(&other, gemm, pool, 2);
    assert_memory_equal(other.c.data, expected, q->c_count * sizeof(float));
    free(copy);
}

/* The same rows alone and in groups, and some of the columns. */
static void check_rows(const test_case *t, qk_gemm_fn *gemm, qp_pool *pool) {
    problem q = problem_new(t), part = q;
    size_t  bytes = bytes_of(t->c_type), row = (size_t)q.args.c_row * bytes;
    int64_t b_bytes = (int64_t)bytes_of(t->b_type);
    char   *all = malloc(q.c_bytes);
    run(&q, gemm, pool, 2);
    memcpy(all, q.c.data, q.c_bytes);
    if (t->b_type == QP_F32 && t->c_type == QP_F32) check_other_layout(&q, gemm, pool, (float *)all);
    for (int64_t m = 1; m <= 65; m += m < 20 ? 1 : 5) {
        int64_t start = t->m - m - 3;
        part.args = q.args;
        part.args.m = m;
        part.args.a = (const char *)q.args.a + start * q.args.a_row * (int64_t)bytes_of(t->a_type);
        part.args.residual = (const char *)q.args.residual + start * q.args.residual_row * (int64_t)bytes;
        run(&part, gemm, pool, 1 + (int)m % 3);
        for (int64_t i = 0; i < m; i++)
            assert_memory_equal((char *)q.c.data + (size_t)i * row, all + (size_t)(start + i) * row,
                                (size_t)t->n * bytes);
    }
    part.args = q.args;
    part.args.n = 9;
    part.args.b = (const char *)q.args.b + 20 * q.args.b_col * b_bytes;
    part.args.bias += 20;
    part.args.residual = (const char *)q.args.residual + 20 * bytes;
    run(&part, gemm, pool, 2);
    for (int64_t i = 0; i < t->m; i++)
        assert_memory_equal((char *)q.c.data + (size_t)i * row, all + (size_t)i * row + 20 * bytes, 9 * bytes);
    free(all);
    problem_free(&q);
}

static void rows_do_not_depend_on_each_other(void **pool) {
    static const int64_t  ks[] = {5, 64, 768, 1000};
    static const qp_dtype types[] = {QP_F32, QP_BF16, QP_F16};
    for (int c = 0; c < 4 * 2 * 3 * 2; c++)
        for (int s = 0; s < isa_count; s++) {
            test_case t = {.batch = 1,
                           .m = 150,
                           .n = c < 24 ? 77 : 300,
                           .k = ks[c % 4],
                           .b = c / 4 % 2 ? COLS : ROWS,
                           .b_type = types[c / 8 % 3],
                           .scale = 1,
                           .bias = true,
                           .act = QK_ACT_GELU,
                           .residual = true};
            check_rows(&t, isas[s], *pool);
            t.compute = QP_BF16, t.a_type = types[c % 2], t.c_type = types[c / 8 % 2], t.k *= 2;
            check_rows(&t, isas[s], *pool);
            if (c % 4 == 0) continue;
            t.compute = QP_F16, t.k = 53;
            check_rows(&t, isas[s], *pool);
        }
}

/* No batch, or nothing in it. */
static void nothing_to_do(void **pool) {
    test_case t = plain;
    t.batch = 0, t.m = 4, t.n = 4, t.k = 4;
    check_case(&t, *pool);
    assert_int_equal(qk_gemm_scratch(0, 4, 4, 4, 1), 0);
}

static void find_isas(void) {
    if (getenv("QUIPU_TEST_WITHOUT_EXTRAS")) qpi_cpu_without_extras();
    isas[isa_count++] = qk_gemm_base;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas[isa_count++] = qk_gemm_avx2;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        isas[isa_count++] = qk_gemm_avx512;
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(layouts_and_types, setup, teardown),
        cmocka_unit_test_setup_teardown(sizes_of_bf16, setup, teardown),
        cmocka_unit_test_setup_teardown(rounding, setup, teardown),
        cmocka_unit_test_setup_teardown(ends, setup, teardown),
        cmocka_unit_test_setup_teardown(long_sums, setup, teardown),
        cmocka_unit_test_setup_teardown(large, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_do_not_depend_on_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_to_do, setup, teardown),
    };
    find_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
