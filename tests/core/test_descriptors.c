/* Descriptors and arrays of host programs that do not hold what op.h asks for: errors, no more. */
#include "support.h"

static bool refuse(const qp_call *c) {
    (void)c;
    return false;
}

static void refused(qp_ctx *ctx, const qp_op *op, const char *text) {
    qp_tensor in[70];
    for (int i = 0; i < 70; i++) in[i] = counting(ctx, 2, 1);
    assert_false(qp_requires_grad(qp_apply(op, op->max_in > 64 ? 70 : 1, in, &(char[256]){0})));
    if (!strstr(qp_error(ctx), text)) fail_msg("\"%s\" does not say \"%s\"", qp_error(ctx), text);
    expect_error(ctx, QP_ERR_ARGUMENT);
}

static void unsound_descriptors(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    qp_op   good = {.name = "host", .min_in = 1, .max_in = 1, .nout = 1, .plain = toy_copy, .elementwise = true}, op;
    EXPECT(qp_apply(&good, 1, (qp_tensor[]){counting(ctx, 2, 1)}, NULL), 1, 2);
    op = good;
    op.plain = NULL;
    op.kernel = (qp_kernel){toy_copy, QP_ANY, refuse};
    refused(ctx, &op, "host: plain");
    op = good;
    op.nout = QP_MAX_OUT + 1;
    refused(ctx, &op, "host: nout");
    op = good;
    op.nout = 0;
    refused(ctx, &op, "host: nout");
    op = good;
    op.max_in = 70;
    refused(ctx, &op, "host: min_in or max_in");
    op = good;
    op.min_in = -1;
    refused(ctx, &op, "host: min_in or max_in");
    op = good;
    op.attr_bytes = QP_MAX_ATTR + 1;
    refused(ctx, &op, "host: attr_bytes");
    close_context(ctx);
}

static void wrong_counts(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor in[70], y;
    for (int i = 0; i < 70; i++) in[i] = counting(ctx, 2, 1);
    int counts[] = {70, 3, 1};
    for (int i = 0; i < 3; i++) {
        y = qp_apply(qp_op_find("add"), counts[i], in, NULL);
        assert_true(qpi_is_poison(y));
        expect_error(ctx, QP_ERR_ARGUMENT);
    }
    close_context(ctx);
}

static void outs_may_be_ins(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor t[2] = {counting(ctx, 2, 1), counting(ctx, 2, 10)};
    qp_apply_many(qp_op_find("add"), 2, t, NULL, t);
    EXPECT(t[0], 11, 13);
    qp_apply_many(&qp_op_accumulate, 2, t, NULL, t);
    EXPECT(t[0], 21, 24);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsound_descriptors),
        cmocka_unit_test(wrong_counts),
        cmocka_unit_test(outs_may_be_ins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
