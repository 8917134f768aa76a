/* Recomputation gives what storing gives. */
#include "support.h"

/* y = exp(-h^2) w + noise, h = x w; w is reached through the closure only. */
typedef struct {
    qp_ctx   *ctx;
    qp_tensor w;
    int       runs, depth;
} closure;

static qp_tensor noise(qp_ctx *ctx) {
    double key[2];
    assert_int_equal(qp_read(qpi_random_key(ctx), QP_F64, key, 2), QP_OK);
    return qp_scalar(ctx, QP_F64, 1 + 0.001 * key[1]);
}

static void block(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    closure *c = *(closure *const *)data;
    c->runs++;
    qp_tensor h = qp_mul(xs[0], c->w);
    for (int i = 0; i < c->depth; i++) h = qp_exp(qp_affine(qp_mul(h, h), -1, 0));
    ys[0] = qp_mul(qp_mul(h, c->w), noise(c->ctx));
}

static double run(bool checkpoint, int blocks, int depth, double *dx, double *dw, size_t *peak, int *runs) {
    qp_ctx *ctx = open_context();
    enum { N = 500 };
    qp_tensor x = qp_full(ctx, QP_F64, SHAPE(N), 0.3), w = qp_full(ctx, QP_F64, SHAPE(N), 1.2);
    qp_require_grad(x, true);
    qp_require_grad(w, true);
    closure c = {ctx, w, 0, depth};
    qp_reset_peak(ctx);
    qp_tensor h = x;
    for (int i = 0; i < blocks; i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor y;
        if (checkpoint) qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &h, 1, &y);
        else block(&(closure *){&c}, &h, &y);
        h = qp_return(s, y);
    }
    qp_tensor loss = total(h);
    double    value = qp_item(loss);
    qp_set_random(ctx, 1, 777); /* later draws do not matter */
    qp_backward(loss);
    assert_int_equal(qp_random_position(ctx), 777);
    *peak = qp_stats_of(ctx).peak_bytes;
    *runs = c.runs;
    *dx = qp_item(qp_slice(qp_grad_of(x), 0, 3, 4, 1));
    *dw = qp_item(qp_slice(qp_grad_of(w), 0, 3, 4, 1));
    close_context(ctx);
    return value;
}

static void same_gradients_less_memory(void **state) {
    (void)state;
    double dx[2], dw[2], y[2];
    size_t peak[2];
    int    runs[2];
    for (int i = 0; i < 2; i++) y[i] = run(i, 6, 8, &dx[i], &dw[i], &peak[i], &runs[i]);
    assert_true(y[0] == y[1] && dx[0] == dx[1]);
    assert_true(fabs(dw[0] - dw[1]) <= 1e-14 * fabs(dw[0]));
    assert_true(dx[0] != 0 && dw[0] != 0);
    assert_int_equal(runs[0], 6);
    assert_int_equal(runs[1], 12);
    assert_true(peak[1] < peak[0] / 2);
}

static void parameters_only(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = counting(ctx, 2, 1), w = parameter(ctx, 2, 1), y;
    closure   c = {ctx, w, 0, 0};
    qp_set_random(ctx, 1, 0);
    qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &x, 1, &y);
    assert_true(qp_requires_grad(y));
    qp_backward(total(y));
    EXPECT(qp_grad_of(w), 2, 8); /* x w^2 */
    assert_true(qp_random_position(ctx) == 1);

    qp_no_grad(ctx, true);
    qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &x, 1, &y);
    qp_no_grad(ctx, false);
    assert_false(qp_requires_grad(y));
    close_context(ctx);
}

/* ys: an x handed through, a constant, the same tensor twice, one unused. */
static void odd_block(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    (void)data;
    ys[0] = xs[0];
    ys[1] = qp_full(xs[0].ctx, QP_F64, SHAPE(2), 3);
    ys[2] = qp_mul(xs[0], xs[0]);
    ys[3] = ys[2];
    ys[4] = qp_exp(xs[0]);
    if (!qp_is_none(xs[1])) ys[4] = qp_add(ys[4], xs[1]);
}

static void odd_outputs(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), ys[5], xs[2] = {x, QP_NONE};
    qp_checkpoint(ctx, odd_block, NULL, 0, 2, xs, 5, ys);
    expect_ok(ctx);
    EXPECT(ys[3], 1, 4);
    qp_tensor y = qp_add(qp_add(ys[0], qp_mul(ys[1], ys[2])), ys[3]); /* x + 3x^2 + x^2 */
    qp_backward(total(y));
    EXPECT(qp_grad_of(x), 1 + 8, 1 + 16);
    EXPECT(x, 1, 2);
    close_context(ctx);
}

static void nested_block(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    closure  *c = *(closure *const *)data;
    qp_tensor h;
    qp_checkpoint(c->ctx, block, &c, sizeof c, 1, xs, 1, &h);
    qp_checkpoint(c->ctx, block, &c, sizeof c, 1, &h, 1, ys);
}

static void nested(void **state) {
    (void)state;
    double dx[2], dw[2];
    for (int i = 0; i < 2; i++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, 2, 0.3), w = parameter(ctx, 2, 0.7), y, h;
        closure   c = {ctx, w, 0, 1};
        if (i) {
            qp_checkpoint(ctx, nested_block, &(closure *){&c}, sizeof(closure *), 1, &x, 1, &y);
        } else {
            block(&(closure *){&c}, &x, &h);
            block(&(closure *){&c}, &h, &y);
        }
        qp_backward(total(y));
        dx[i] = qp_item(qp_slice(qp_grad_of(x), 0, 1, 2, 1));
        dw[i] = qp_item(qp_slice(qp_grad_of(w), 0, 1, 2, 1));
        close_context(ctx);
    }
    assert_true(fabs(dx[0] - dx[1]) <= 1e-14 * fabs(dx[0]) && fabs(dw[0] - dw[1]) <= 1e-14 * fabs(dw[0]));
}

/* x feeds two checkpoints and a plain use. */
static void shared_input(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), h = qp_affine(x, 2, 0), w = qp_full(ctx, QP_F64, SHAPE(2), 1), a, b;
    closure   c = {ctx, w, 0, 0};
    qp_set_random(ctx, 1, 0);
    qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &h, 1, &a);
    qp_set_random(ctx, 1, 1000);
    qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &h, 1, &b); /* twice as loud */
    qp_backward(total(qp_add(qp_add(a, b), h)));
    EXPECT(qp_grad_of(x), 8, 8);
    close_context(ctx);
}

static void failing_block(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    int *runs = *(int *const *)data;
    ys[0] = ++*runs > 1 ? qp_add(xs[0], qp_zeros(xs[0].ctx, QP_F64, SHAPE(99))) : qp_exp(xs[0]);
}

static void failures(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y, many[25], ys[9], h = qp_exp(x);
    int       runs = 0;
    for (int i = 0; i < 25; i++) many[i] = x;
    qp_checkpoint(ctx, odd_block, NULL, 0, 25, many, 5, ys);
    expect_error(ctx, QP_ERR_ARGUMENT);
    assert_true(qpi_is_poison(ys[0]));
    qp_checkpoint(ctx, failing_block, &(int *){&runs}, sizeof(int *), 1, &x, 1, &y);
    expect_ok(ctx);
    qp_backward(total(y)); /* fails when run again */
    expect_error(ctx, QP_ERR_SHAPE);
    runs = 1;
    qp_checkpoint(ctx, failing_block, &(int *){&runs}, sizeof(int *), 1, &x, 1, &y);
    expect_error(ctx, QP_ERR_SHAPE);
    assert_true(qpi_is_poison(y));

    /* a result with a history of its own must come in through xs */
    closure c = {ctx, h, 0, 0};
    qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &h, 1, &y);
    qp_backward(total(y));
    expect_error(ctx, QP_ERR_STATE);

    closure d = {ctx, x, 0, 0};
    qp_checkpoint(ctx, block, &(closure *){&d}, sizeof(closure *), 1, &x, 1, &y);
    qp_grad(1, &y, 1, &x, ys, (qp_grad_options){.seeds = &x});
    expect_error(ctx, QP_ERR_UNSUPPORTED);

    qp_scope s = qp_enter(ctx);
    qp_zero_grad(x);
    qp_checkpoint(ctx, block, &(closure *){&d}, sizeof(closure *), 1, &x, 1, &y);
    qp_cancel(ctx);
    qp_backward(total(y));
    expect_error(ctx, QP_ERR_CANCELLED);
    qp_leave(s);
    qp_drop(h);
    close_context(ctx);
}

static void count_calls(void *user, qp_tensor grad) {
    (void)grad;
    ++*(int *)user;
}

/* A parameter used by two checkpoints and outside: its gradient is complete once. */
static void hooks_fire_once(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), w = parameter(ctx, 2, 1), h, y;
    int       calls = 0;
    closure   c = {ctx, w, 0, 1};
    qp_on_grad(w, count_calls, &calls);
    for (int step = 1; step <= 2; step++) {
        qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &x, 1, &h);
        qp_checkpoint(ctx, block, &(closure *){&c}, sizeof(closure *), 1, &h, 1, &y);
        qp_backward(total(qp_mul(y, w)));
        assert_int_equal(calls, step);
    }
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_gradients_less_memory),
        cmocka_unit_test(parameters_only),
        cmocka_unit_test(odd_outputs),
        cmocka_unit_test(nested),
        cmocka_unit_test(shared_input),
        cmocka_unit_test(failures),
        cmocka_unit_test(hooks_fire_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
