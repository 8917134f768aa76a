/* The product with block types against a double loop over the same rounded rows, and its promises:
 * a row's bits depend on that row alone, exact sums, nothing written or read outside. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/blocks.h"
#include "core/core.h"
#include "kernels/block_product.h"

extern qk_gemm_fn qk_gemm_base, qk_gemm_avx2, qk_gemm_avx512;

#define MOST 64 /* rows */
#define TOLERANCE 2e-6

static qk_gemm_fn *isas[3];
static int         isa_count;

static const qp_dtype types[] = {
#define X(name, text, block, bytes) QP_##name,
    QP_BLOCK_DTYPES(X)
#undef X
};
#define TYPES ((int)(sizeof types / sizeof *types))

static uint32_t state = 1;
static float next_value(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

typedef struct {
    qp_dtype type;
    int64_t  n, k;
    float   *x;       /* [MOST, k] */
    char    *w;       /* ends where its memory ends, for AddressSanitizer */
    double  *y;       /* [MOST, n], by the definition */
    double   largest; /* of y */
} problem;

/* 16 values as 8-bit numbers times a scale. */
static void round_values(const float *x, double *out) {
    float most = 0;
    for (int i = 0; i < 16; i++) most = fmaxf(most, fabsf(x[i]));
    for (int i = 0; i < 16; i++)
        out[i] = most > 1e-30f ? (double)(most / 127.0f) * (double)rintf(x[i] * (127.0f / most)) : 0;
}

static problem problem_new(qp_dtype type, int64_t n, int64_t k) {
    problem q = {.type = type, .n = n, .k = k};
    float  *w = malloc((size_t)(n * k) * sizeof *w);
    double *rounded = malloc((size_t)k * sizeof *rounded);
    q.x = malloc((size_t)(MOST * k) * sizeof *q.x);
    q.w = malloc(qp_dtype_size(type, n * k));
    q.y = malloc((size_t)(MOST * n) * sizeof *q.y);
    for (int64_t i = 0; i < n * k; i++) w[i] = next_value() + (i / k % 3 == 1 ? 0.5f : 0);
    for (int64_t i = 0; i < MOST * k; i++) q.x[i] = next_value() * (i % 41 ? 1 : 6) + (i / 32 % 5 ? 0 : 0.7f);
    memset(q.x + k / 2, 0, 32 * sizeof *q.x); /* a scale of 0 */
    qpi_blocks_encode(type, w, n * k, q.w);
    qpi_blocks_decode(type, q.w, n * k, w);
    for (int64_t i = 0; i < MOST; i++) {
        for (int64_t p = 0; p < k; p += 16) round_values(q.x + i * k + p, rounded + p);
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++) sum += rounded[p] * (double)w[j * k + p];
            q.y[i * n + j] = sum;
            q.largest = fmax(q.largest, fabs(sum));
        }
    }
    free(w);
    free(rounded);
    return q;
}

static void problem_free(problem *q) {
    free(q->x);
    free(q->w);
    free(q->y);
}

static qk_gemm_args args_of(const problem *q, int64_t rows, float *y) {
    return (qk_gemm_args){.batch = 1,
                          .m = rows,
                          .n = q->n,
                          .k = q->k,
                          .a = q->x,
                          .b = q->w,
                          .b_type = q->type,
                          .a_row = q->k,
                          .a_col = 1,
                          .b_row = 1,
                          .b_col = q->k,
                          .c = y,
                          .c_row = q->n,
                          .scale = 1};
}

static void run(qk_gemm_fn *gemm, const qk_gemm_args *g, qp_pool *pool, int threads) {
    size_t bytes = block_product_scratch(g->m, g->k, threads);
    char  *scratch = aligned_alloc(64, (bytes + 127) / 64 * 64), *end = scratch + bytes;
    assert_int_equal(bytes % 64, 0);
    memset(end, 0xa5, 64);
    gemm(&(qp_exec){pool, threads, scratch}, g);
    for (int i = 0; i < 64; i++) assert_int_equal((unsigned char)end[i], 0xa5);
    free(scratch);
}

static float *product(const problem *q, qk_gemm_fn *gemm, int64_t rows, qp_pool *pool, int threads) {
    float       *y = malloc((size_t)(rows * q->n) * sizeof *y);
    qk_gemm_args g = args_of(q, rows, y);
    run(gemm, &g, pool, threads);
    return y;
}

/* Sizes: fewer columns than a vector has, not whole panels, several panels of k, several tasks. */
static const int64_t sizes[][2] = {{1, 256}, {37, 512}, {16, 32}, {70, 1280}, {33, 576}, {400, 768}};

static void test_definition(void **unused) {
    (void)unused;
    for (int t = 0; t < TYPES; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            if (sizes[s][1] % qp_dtype_block(types[t])) continue;
            problem q = problem_new(types[t], sizes[s][0], sizes[s][1]);
            for (int isa = 0; isa < isa_count; isa++) {
                float *y = product(&q, isas[isa], MOST, NULL, 1);
                for (int64_t i = 0; i < MOST * q.n; i++)
                    if (!(fabs(y[i] - q.y[i]) <= TOLERANCE * q.largest))
                        fail_msg("%s isa %d n %d k %d at %d: %.9g, not %.9g", qp_dtype_name(types[t]), isa,
                                 (int)q.n, (int)q.k, (int)i, y[i], q.y[i]);
                free(y);
            }
            problem_free(&q);
        }
}

/* All numbers of rows up to 64, with 1, 2 and 5 threads: the first rows of 64. */
static void test_rows_and_threads(void **unused) {
    (void)unused;
    const int threads[] = {1, 2, 5};
    qp_pool  *pools[3];
    for (int i = 0; i < 3; i++) pools[i] = qpi_pool_new(threads[i]);
    for (int t = 0; t < TYPES; t++) {
        problem q = problem_new(types[t], 70, 768);
        for (int isa = 0; isa < isa_count; isa++) {
            float *all = product(&q, isas[isa], MOST, NULL, 1);
            for (int64_t rows = 1; rows <= MOST; rows++) {
                float *y = product(&q, isas[isa], rows, pools[rows % 3], threads[rows % 3]);
                assert_memory_equal(y, all, (size_t)(rows * q.n) * sizeof *y);
                free(y);
            }
            free(all);
        }
        problem_free(&q);
    }
    for (int i = 0; i < 3; i++) qpi_pool_free(pools[i]);
}

/* A value that is not finite spoils its row and no other. */
static void test_not_finite(void **unused) {
    (void)unused;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int t = 0; t < TYPES; t++) {
        problem q = problem_new(types[t], 19, 256);
        for (int isa = 0; isa < isa_count; isa++)
            for (int b = 0; b < 3; b++) {
                float *good = product(&q, isas[isa], 3, NULL, 1), kept = q.x[q.k + 77];
                q.x[q.k + 77] = bad[b];
                float *y = product(&q, isas[isa], 3, NULL, 1);
                for (int64_t j = 0; j < q.n; j++) {
                    assert_true(isnan(y[q.n + j]));
                    assert_true(y[j] == good[j] && y[2 * q.n + j] == good[2 * q.n + j]);
                }
                q.x[q.k + 77] = kept;
                free(good);
                free(y);
            }
        problem_free(&q);
    }
}

/* Bias, activation, residual and a row step as with other products; rows of bf16; tiny values. */
static void test_ends(void **unused) {
    (void)unused;
    problem q = problem_new(QP_Q4_0, 37, 64);
    float   bias[37], residual[3 * 40], y[3 * 40];
    for (int i = 0; i < 37; i++) bias[i] = next_value();
    for (int i = 0; i < 120; i++) residual[i] = next_value();
    for (int isa = 0; isa < isa_count; isa++) {
        qk_gemm_args g = args_of(&q, 3, y);
        g.c_row = g.residual_row = 40;
        g.bias = bias;
        g.act = QK_ACT_RELU;
        g.residual = residual;
        for (int i = 0; i < 120; i++) y[i] = 77;
        run(isas[isa], &g, NULL, 1);
        for (int i = 0; i < 120; i++) {
            double u = i % 40 < 37 ? q.y[i / 40 * 37 + i % 40] + bias[i % 40] : 0;
            if (i % 40 < 37) assert_true(fabs(y[i] - (fmax(u, 0) + residual[i])) <= 4 * TOLERANCE * q.largest);
            else assert_true(y[i] == 77);
        }
    }
    for (int64_t i = 0; i < q.k; i++) q.x[i] *= 1e-36f;
    float *tiny = product(&q, isas[isa_count - 1], 1, NULL, 1);
    for (int64_t j = 0; j < q.n; j++) assert_true(fabsf(tiny[j]) < 1e-28f);
    free(tiny);
    problem_free(&q);
}

static void test_rows_of_bf16(void **unused) {
    (void)unused;
    problem   q = problem_new(QP_Q6_K, 21, 256);
    uint16_t *half = malloc((size_t)(MOST * q.k) * sizeof *half);
    for (int64_t i = 0; i < MOST * q.k; i++) {
        half[i] = qpi_f32_to_bf16(q.x[i]);
        q.x[i] = qpi_bf16_to_f32(half[i]);
    }
    for (int isa = 0; isa < isa_count; isa++) {
        float       *y = product(&q, isas[isa], MOST, NULL, 1), *z = malloc((size_t)(MOST * q.n) * sizeof *z);
        qk_gemm_args g = args_of(&q, MOST, z);
        g.a = half;
        g.a_type = QP_BF16;
        run(isas[isa], &g, NULL, 1);
        assert_memory_equal(y, z, (size_t)(MOST * q.n) * sizeof *y);
        free(y);
        free(z);
    }
    free(half);
    problem_free(&q);
}

int main(void) {
    isas[isa_count++] = qk_gemm_base;
#if defined(__x86_64__)
    if (qpi_cpu_isa() >= QP_ISA_AVX2) isas[isa_count++] = qk_gemm_avx2;
    if (qpi_cpu_isa() >= QP_ISA_AVX512) isas[isa_count++] = qk_gemm_avx512;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_rows_and_threads),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_ends), cmocka_unit_test(test_rows_of_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
