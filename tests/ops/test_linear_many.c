/* Products that share x have the bits of each by itself, gradients too; what does not fit is told of. */
#include "harness.h"

enum { MANY = 3, MOST_ROWS = 20 };

static float wave(int64_t i) { return (float)sin(0.37 * (double)i + 0.1); }

static qp_tensor waves(qp_ctx *ctx, int64_t rows, int64_t cols, qp_dtype type, float start) {
    float *values = malloc((size_t)(rows * cols + 1) * sizeof *values);
    for (int64_t i = 0; i < rows * cols; i++) values[i] = wave(i) + start;
    qp_tensor t = qp_from(ctx, QP_F32, 2, (int64_t[]){rows, cols}, values);
    free(values);
    return type == QP_F32 ? t : qp_cast(t, type);
}

static qp_tensor bias_of(qp_ctx *ctx, int64_t n) { return qp_reshape(waves(ctx, 1, n, QP_F32, 3), 1, &n); }

static void expect_same(qp_tensor a, qp_tensor b, const char *what) {
    if (qp_failed(a.ctx)) fail_msg("%s: %s", what, qp_error(a.ctx));
    array x = array_read(a), y = array_read(b);
    if (!same_bits(&x, &y)) fail_msg("%s: other bits than by itself", what);
    array_free(&x);
    array_free(&y);
}

/* n of the sizes, types of w in turn. */
static void check(qp_ctx *ctx, int64_t rows, int64_t k, int n, const int64_t *sizes, const qp_dtype *types) {
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = waves(ctx, rows, k, QP_F32, 0), w[MANY + 1], bias[MANY + 1], y[MANY + 1];
    char      what[160];
    qp_no_grad(ctx, true);
    for (int i = 0; i < n; i++) {
        w[i] = waves(ctx, sizes[i], k, types[i], (float)i);
        bias[i] = i % 2 ? bias_of(ctx, sizes[i]) : QP_NONE;
    }
    qp_linear_many(x, n, w, bias, y);
    for (int i = 0; i < n; i++) {
        snprintf(what, sizeof what, "%d rows of %d by %d of %s, %d products, number %d", (int)rows, (int)k,
                 (int)sizes[i], qp_dtype_name(types[i]), n, i);
        expect_same(y[i], qp_linear(x, w[i], bias[i], QP_ACT_NONE, QP_NONE), what);
    }
    qp_leave(s);
}

static void bits_of_each(void **state) {
    static const int64_t rows[] = {1, 2, 5, 8, 9, 16, 17, MOST_ROWS};
    static const int64_t sizes[][4] = {{64, 16, 16, 16}, {17, 40, 33, 20}, {576, 192, 192, 1}, {7, 16, 100, 5}};
    static const qp_dtype types[][4] = {
        {QP_F32, QP_F32, QP_F32, QP_F32},      {QP_BF16, QP_BF16, QP_BF16, QP_BF16},
        {QP_F16, QP_F16, QP_F32, QP_F16},      {QP_Q8_0, QP_Q8_0, QP_Q8_0, QP_Q8_0},
        {QP_Q4_0, QP_Q4_0, QP_Q4_1, QP_Q4_1},  {QP_Q4_K, QP_Q4_K, QP_Q6_K, QP_Q4_K},
        {QP_BF16, QP_Q8_0, QP_Q8_0, QP_IQ4_NL}};
    (void)state;
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++)
        for (int threads = 1; threads <= 3; threads++) {
            qp_ctx *ctx = qp_open((qp_options){.threads = threads, .isa = isa});
            for (int low = 0; low < 2; low++) {
                qp_autocast(ctx, low ? QP_BF16 : QP_F32);
                for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
                        for (size_t t = 0; t < sizeof types / sizeof *types; t++)
                            check(ctx, rows[r], 256, 1 + (int)(r + z + t) % 4, sizes[z], types[t]);
            }
            check(ctx, 1, 1700, 3, sizes[2], types[1]); /* several blocks of k */
            check(ctx, 3, 37, 3, sizes[1], types[0]);
            assert_int_equal(qp_error_code(ctx), QP_OK);
            qp_close(ctx);
        }
}

/* x whose rows are no matrix: each product by itself. */
static void rows_that_lie_apart(void **state) {
    (void)state;
    qp_ctx   *ctx = context_of(QP_ISA_BASE, 0);
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = qp_slice(qp_reshape(waves(ctx, 6, 64, QP_F32, 0), 3, (int64_t[]){2, 3, 64}), 1, 0, 2, 1);
    qp_tensor w[] = {waves(ctx, 20, 64, QP_Q8_0, 0), waves(ctx, 16, 64, QP_Q8_0, 1)}, y[2];
    qp_linear_many(x, 2, w, (qp_tensor[]){QP_NONE, QP_NONE}, y);
    for (int i = 0; i < 2; i++) expect_same(y[i], qp_linear(x, w[i], QP_NONE, QP_ACT_NONE, QP_NONE), "apart");
    qp_leave(s);
}

static void gradients(void **state) {
    (void)state;
    qp_ctx   *ctx = context_of(QP_ISA_BASE, 0);
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = waves(ctx, 3, 40, QP_F32, 0), y[2], grads[2][4];
    qp_tensor w[] = {waves(ctx, 20, 40, QP_F32, 0), waves(ctx, 16, 40, QP_F32, 1)};
    qp_tensor bias[] = {bias_of(ctx, 20), QP_NONE}, leaves[] = {x, w[0], w[1], bias[0]};
    for (int i = 0; i < 4; i++) qp_require_grad(leaves[i], true);
    for (int alone = 0; alone < 2; alone++) {
        if (!alone) qp_linear_many(x, 2, w, bias, y);
        for (int i = 0; i < 2 && alone; i++) y[i] = qp_linear(x, w[i], bias[i], QP_ACT_NONE, QP_NONE);
        qp_tensor loss =
            qp_add(qp_sum(qp_square(y[0]), 0, NULL, false), qp_sum(qp_square(y[1]), 0, NULL, false));
        qp_grad(1, &loss, 4, leaves, grads[alone], (qp_grad_options){0});
    }
    for (int i = 0; i < 4; i++) expect_same(grads[0][i], grads[1][i], "gradient");
    qp_leave(s);
}

static void expect_refused(qp_ctx *ctx, int n, const qp_tensor *in, const char *text) {
    qp_tensor y[MANY];
    qp_apply_many(qp_op_find("linear_many"), n, in, NULL, y);
    assert_true(qp_failed(ctx));
    if (!strstr(qp_error(ctx), text)) fail_msg("\"%s\" is not in: %s", text, qp_error(ctx));
    qp_clear(ctx);
}

static void refusals(void **state) {
    (void)state;
    qp_ctx   *ctx = context_of(QP_ISA_BASE, 0);
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = waves(ctx, 3, 40, QP_F32, 0), w = waves(ctx, 20, 40, QP_F32, 0),
              v = waves(ctx, 20, 30, QP_F32, 0);
    qp_tensor ids = qp_cast(w, QP_I64), b = bias_of(ctx, 19), o = QP_NONE;
    expect_refused(ctx, 5, (qp_tensor[]){x, w, o, w, o}, "5 inputs for 3 outputs");
    expect_refused(ctx, 7, (qp_tensor[]){x, w, o, o, o, w, o}, "input 3 is missing");
    expect_refused(ctx, 7, (qp_tensor[]){x, w, o, v, o, w, o}, "x is f32 [3, 40], w is f32 [20, 30]");
    expect_refused(ctx, 7, (qp_tensor[]){x, w, o, ids, o, w, o}, "expected floats");
    expect_refused(ctx, 7, (qp_tensor[]){x, w, o, w, b, w, o}, "bias is f32 [19]");
    qp_leave(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_of_each), cmocka_unit_test(rows_that_lie_apart),
                                       cmocka_unit_test(gradients), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
