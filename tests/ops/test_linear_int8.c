/* Rows that 8 bits cannot hold, for any instruction set and for the definition. */
#include "harness.h"

enum { K = 37, N = 3 };

/* x's row is `rest` but for one `value`, weights are 1: the sum, if it is to be finite. */
static void check_row(qp_ctx *ctx, qp_dtype type, float value, float rest, float expected) {
    float  x[K], *y;
    int8_t w[N * K];
    for (int j = 0; j < K; j++) x[j] = j == 11 ? value : rest;
    for (int j = 0; j < N * K; j++) w[j] = 1;
    qp_scope  s = qp_enter(ctx);
    qp_tensor scale = qp_full(ctx, QP_F32, 1, (int64_t[]){N}, 1);
    qp_tensor row = qp_cast(qp_from(ctx, QP_F32, 2, (int64_t[]){1, K}, x), type);
    qp_tensor out = qp_linear_int8(row, qp_from(ctx, QP_I8, 2, (int64_t[]){N, K}, w), scale, QP_NONE);
    y = qp_data_write(qp_cast(out, QP_F32));
    assert_non_null(y);
    for (int o = 0; o < N; o++)
        if (isnan(expected) ? !isnan(y[o]) : !(fabsf(y[o] - expected) <= 1e-5f * fabsf(expected) + 1e-28f))
            fail_msg("%s: %g among %g gives %g, expected %g", qp_dtype_name(type), (double)value, (double)rest,
                     (double)y[o], (double)expected);
    qp_leave(s);
}

static void rows_of_all_sizes(void **state) {
    (void)state;
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++)
        for (int definition = 0; definition < 2; definition++) {
            qp_ctx  *ctx = context_of(isa, 0);
            qp_dtype type = definition ? QP_F64 : QP_F32; /* kernels take f32 */
            check_row(ctx, type, 0, 0, 0);
            check_row(ctx, type, 1e-45f, 0, 0); /* 127 / 1e-45 is no f32 */
            check_row(ctx, type, -1e-40f, 1e-45f, 0);
            check_row(ctx, type, 1e-30f, 0, 0);
            check_row(ctx, type, 1e-20f, 0, 1e-20f);
            check_row(ctx, type, 2, 1, 2 + 36 * 2 * 64.f / 127); /* 63.5 is rounded to even */
            check_row(ctx, type, 3e38f, 0, 3e38f);
            check_row(ctx, type, INFINITY, 1, NAN);
            check_row(ctx, type, -INFINITY, 0, NAN);
            check_row(ctx, type, NAN, 1e-45f, NAN);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_all_sizes)};
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
