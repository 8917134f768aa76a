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
    qp_op good = {.name = "host", .min_in = 1, .max_in = 1, .nout = 1, .plain = toy_copy, .elementwise = true},
          op;
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

static bool accept(const qp_call *c) {
    (void)c;
    return true;
}

static int runs;

static void toy_count(const qp_call *c) {
    runs++;
    toy_copy(c);
}

/* A host program's descriptor is what its memory says at the call. */
static void one_place_for_several(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    qp_op   op = {.name = "host", .min_in = 1, .max_in = 1, .nout = 1, .plain = toy_copy, .elementwise = true};
    for (int i = 0; i < 4; i++) {
        runs = 0;
        op.kernel = i % 2 ? (qp_kernel){toy_count, QP_ANY, accept} : (qp_kernel){0};
        EXPECT(qp_apply(&op, 1, (qp_tensor[]){counting(ctx, 2, 1)}, NULL), 1, 2);
        assert_int_equal(runs, i % 2);
    }
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

typedef struct {
    int    calls;
    double seconds, flops, bytes;
    char   last[32];
} seen;

static void observe(void *user, const qp_call *call, double seconds) {
    seen *s = user;
    s->calls++;
    s->seconds += seconds;
    s->flops += qp_call_flops(call);
    s->bytes += qp_call_bytes(call);
    snprintf(s->last, sizeof s->last, "%s", call->op->name);
}

/* Every call is seen once, with what it must move: a broadcast operand once, what is written in
 * place twice, of a table the rows that are named. */
static void calls_are_observed(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    seen      s = {0};
    int32_t   ids[] = {5, 2};
    qp_tensor rows = qp_zeros(ctx, QP_F32, SHAPE(100, 3)), row = qp_zeros(ctx, QP_F32, SHAPE(3)),
              index = qp_from(ctx, QP_I32, SHAPE(2), ids);
    struct {
        const char *op;
        qp_tensor   in[2];
        double      flops, bytes;
    } cases[] = {{"add", {rows, row}, 300, 4 * (300 + 3 + 300)},
                 {"accumulate", {rows, row}, 300, 4 * (2 * 300 + 3)},
                 {"embedding", {rows, index}, 6, 4 * (2 * 6 + 2)},
                 {"matmul", {rows, qp_transpose(rows, 0, 1)}, 2 * 100 * 100 * 3, 4 * (2 * 300 + 10000)}};
    qp_observe(ctx, observe, &s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s = (seen){0};
        qp_apply(qp_op_find(cases[i].op), 2, cases[i].in, NULL);
        expect_ok(ctx);
        assert_int_equal(s.calls, 1);
        assert_string_equal(s.last, cases[i].op);
        assert_true(s.seconds > 0);
        if (s.flops != cases[i].flops || s.bytes != cases[i].bytes)
            fail_msg("%s: %g flops, %g bytes", cases[i].op, s.flops, s.bytes);
    }
    qp_reshape(rows, SHAPE(300)); /* moves no data */
    assert_int_equal(s.calls, 1);
    qp_observe(ctx, NULL, NULL);
    qp_add(rows, row);
    assert_int_equal(s.calls, 1);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsound_descriptors), cmocka_unit_test(one_place_for_several),
        cmocka_unit_test(wrong_counts),        cmocka_unit_test(outs_may_be_ins),
        cmocka_unit_test(calls_are_observed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
