/* Hooks of leaves, gradients that are put in or adopted, cancelling. */
#include "support.h"

TOY(toy_silent, toy_silent_rule);
TOY(toy_peek, toy_peek_rule);

typedef struct {
    int    calls;
    double sum;
} seen;

static void look(void *user, qp_tensor grad) {
    seen *s = user;
    s->calls++;
    s->sum = qp_item(total(grad));
}

static void doubled(void *user, qp_tensor grad) {
    (void)user;
    double v[2];
    assert_int_equal(qp_read(grad, QP_F64, v, 2), QP_OK);
    for (int i = 0; i < 2; i++) v[i] *= 2;
    assert_int_equal(qp_write(grad, QP_F64, v, 2), QP_OK);
}

static void hooks(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), w = parameter(ctx, 2, 3), unused = parameter(ctx, 2, 3), d;
    seen      at_x = {0}, at_w = {0}, at_unused = {0};
    qp_on_grad(x, look, &at_x);
    qp_on_grad(w, look, &at_w);
    qp_on_grad(unused, look, &at_unused);
    qp_backward(total(qp_mul(qp_mul(x, w), x))); /* x^2 w */
    assert_int_equal(at_x.calls, 1);
    assert_true(at_x.sum == 2 * 3 + 4 * 4);
    assert_int_equal(at_w.calls, 1);
    assert_true(at_w.sum == 1 + 4);
    assert_int_equal(at_unused.calls, 1); /* with zeros, at the end */
    assert_true(at_unused.sum == 0);
    EXPECT(qp_grad_of(unused), 0, 0);

    qp_tensor y = total(qp_mul(x, w));
    qp_grad(1, &y, 1, &x, &d, (qp_grad_options){0}); /* no leaf's gradient: no hook */
    assert_int_equal(at_x.calls, 1);
    assert_int_equal(at_w.calls, 1);
    assert_int_equal(at_unused.calls, 1);

    /* reached only by a rule that gives nothing: zeros */
    qp_zero_grad(unused);
    qp_backward(total(qp_add(w, qp_affine(qp_apply(&toy_silent, 1, &unused, NULL), 2, 0))));
    assert_int_equal(at_unused.calls, 2);
    assert_true(at_unused.sum == 0);
    assert_int_equal(at_w.calls, 2);
    assert_int_equal(at_x.calls, 2); /* unreached: what it holds */
    assert_true(at_x.sum == 22);

    /* what a hook writes is the gradient; x + w hand the same tensor to both */
    qp_zero_grad(x);
    qp_zero_grad(w);
    int hook = qp_on_grad(x, doubled, NULL);
    qp_backward(total(qp_add(x, w)));
    EXPECT(qp_grad_of(x), 2, 2);
    EXPECT(qp_grad_of(w), 1, 1);
    qp_off_grad(x, hook);
    qp_backward(total(qp_add(x, w)));
    EXPECT(qp_grad_of(x), 3, 3);
    qp_off_grad(x, hook);
    expect_error(ctx, QP_ERR_ARGUMENT);
    close_context(ctx);
}

typedef struct {
    qp_tensor leaf;
    int       hook;
    char     *order, letter;
} link;

static void note(void *user, qp_tensor grad) {
    link *l = user;
    (void)grad;
    strncat(l->order, &l->letter, 1);
    if (l->hook) qp_off_grad(l->leaf, l->hook); /* maybe the one that runs */
    l->hook = 0;
}

/* Several hooks of a leaf, in order; they come off while they run, and go with the leaf. */
static void rows_of_hooks(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y = parameter(ctx, 2, 1);
    char      order[16] = "";
    link      a = {x, 0, order, 'a'}, b = {x, 0, order, 'b'}, c = {x, 0, order, 'c'}, d = {y, 0, order, 'd'};
    qp_on_grad(x, note, &a);
    int at_b = qp_on_grad(x, note, &b), at_c = qp_on_grad(x, note, &c);
    d.hook = qp_on_grad(y, note, &d); /* y is unused: takes itself off at the end */
    qp_backward(total(x));
    assert_string_equal(order, "abcd");
    a.hook = at_c; /* a takes c off before its turn, b itself */
    b.hook = at_b;
    order[0] = 0;
    qp_backward(total(x));
    assert_string_equal(order, "ab");
    qp_backward(total(qp_add(x, y)));
    assert_string_equal(order, "aba");
    qp_require_grad(x, false);
    qp_backward(total(y));
    assert_string_equal(order, "aba");
    qp_on_grad(y, note, &d);
    qp_drop(y);
    close_context(ctx);
}

static void scale_by_hand(void *user, qp_tensor grad) {
    qp_set_grad(*(qp_tensor *)user, qp_affine(grad, 10, 0));
}

static void gradients_put_in(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), g = counting(ctx, 2, 5), narrow = qp_cast(g, QP_F32);
    qp_set_grad(x, g);
    assert_ptr_equal(qp_data_of(qp_grad_of(x)), qp_data_of(g)); /* taken over */
    qp_backward(total(x));
    EXPECT(qp_grad_of(x), 6, 7);
    EXPECT(g, 5, 6);
    qp_set_grad(x, narrow);
    assert_int_equal(qp_dtype_of(qp_grad_of(x)), QP_F64);
    EXPECT(qp_grad_of(x), 5, 6);
    qp_set_grad(x, qp_grad_of(x));
    EXPECT(qp_grad_of(x), 5, 6);
    qp_set_grad(x, qp_expand(qp_scalar(ctx, QP_F64, 3), SHAPE(2)));
    assert_int_equal(qp_write(qp_grad_of(x), QP_F64, (double[]){1, 2}, 2), QP_OK);
    EXPECT(qp_grad_of(x), 1, 2);
    qp_set_grad(x, QP_NONE);
    assert_true(qp_is_none(qp_grad_of(x)));
    qp_set_grad(x, counting(ctx, 3, 1));
    expect_error(ctx, QP_ERR_SHAPE);
    qp_set_grad(x, qp_arange(ctx, QP_I64, 2));
    expect_error(ctx, QP_ERR_SHAPE);
    qp_on_grad(x, scale_by_hand, &x); /* amid a walk */
    qp_backward(total(x));
    EXPECT(qp_grad_of(x), 10, 10);
    close_context(ctx);
}

/* y = x and a hidden 3 x, which the rule hands on as it is. */
static void toy_ready_plain(const qp_call *c) {
    for (int64_t i = 0; i < qp_view_count(&c->in[0]); i++) {
        qp_store(&c->out[0], i, qp_load(&c->in[0], i));
        qp_store(&c->out[1], i, 3);
    }
}
static bool toy_was_ones;
static void toy_ready_shape(qp_call *c) { c->out[0] = c->out[1] = c->in[0]; }
static void toy_ready_rule(qp_rule *r) {
    toy_was_ones = r->ones;
    r->din[0] = r->out[1];
}
static const qp_op toy_ready = {.name = "toy_ready",
                                .min_in = 1,
                                .max_in = 1,
                                .nout = 2,
                                .shape = toy_ready_shape,
                                .plain = toy_ready_plain,
                                .backward = toy_ready_rule,
                                .saves = QP_SAVE_OUT(1),
                                .hidden = QP_SAVE_OUT(1)};

/* A gradient that the forward call has formed becomes the leaf's without a copy. */
static void ready_gradients_are_adopted(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = qp_zeros(ctx, QP_F64, SHAPE(1)), y[2], dx;
    qp_require_grad(x, true);
    for (int retain = 0; retain < 2; retain++) {
        qp_zero_grad(x);
        qp_apply_many(&toy_ready, 1, &x, NULL, y);
        const void *ready = qp_data_of(y[1]);
        qp_drop(y[1]);
        if (retain) {
            qp_grad(1, y, 1, &x, &dx, (qp_grad_options){.retain = true});
            EXPECT(dx, 3);
            assert_true(toy_was_ones);
            qp_tensor seed = qp_full(ctx, QP_F64, SHAPE(1), 1);
            qp_grad(1, y, 1, &x, &dx, (qp_grad_options){.seeds = &seed});
            assert_false(toy_was_ones); /* nobody has looked */
            EXPECT(dx, 3);
        } else {
            qp_backward(y[0]);
            assert_ptr_equal(qp_data_of(qp_grad_of(x)), ready);
        }
    }
    qp_apply_many(&toy_ready, 1, &x, NULL, y);
    qp_tensor ys[] = {y[0], y[0]}; /* twice: 2, not 1 */
    qp_grad(2, ys, 1, &x, &dx, (qp_grad_options){0});
    assert_false(toy_was_ones);
    close_context(ctx);
}

/* A failed walk leaves nothing behind that disturbs the next. */
static void hooks_after_a_failure(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1);
    seen      at_x = {0};
    qp_on_grad(x, look, &at_x);
    qp_backward(total(qp_add(qp_apply(&toy_peek, 1, &x, NULL), qp_mul(x, x))));
    expect_error(ctx, QP_ERR_STATE);
    qp_zero_grad(x);
    at_x.calls = 0;
    qp_backward(total(qp_mul(x, x)));
    assert_int_equal(at_x.calls, 1);
    EXPECT(qp_grad_of(x), 2, 4);
    close_context(ctx);
}

static void cancel(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y = total(qp_exp(x));
    qp_cancel(ctx);
    assert_false(qp_failed(ctx));
    qp_backward(y);
    expect_error(ctx, QP_ERR_CANCELLED);
    assert_true(qp_is_none(qp_grad_of(x)));
    qp_backward(total(qp_exp(x))); /* cleared with the error */
    EXPECT(qp_grad_of(x), exp(1), exp(2));

    qp_cancel(ctx);
    assert_true(qpi_is_poison(qp_exp(x))); /* forward, too */
    assert_int_equal(qp_error_code(ctx), QP_ERR_CANCELLED);
    qp_clear(ctx);
    qp_fail(ctx, QP_ERR_IO, "something else");
    qp_cancel(ctx);
    qp_clear(ctx); /* of something else: the wish stays */
    assert_false(qp_failed(ctx));
    qp_scope s = qp_enter(ctx);
    qpi_shield(ctx);
    qp_exp(x); /* not to be left half done */
    expect_ok(ctx);
    qp_leave(s);
    qp_exp(x);
    expect_error(ctx, QP_ERR_CANCELLED);
    qp_exp(x);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hooks),
        cmocka_unit_test(rows_of_hooks),
        cmocka_unit_test(gradients_put_in),
        cmocka_unit_test(ready_gradients_are_adopted),
        cmocka_unit_test(hooks_after_a_failure),
        cmocka_unit_test(cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
