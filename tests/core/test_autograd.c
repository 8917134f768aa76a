/* Recording and walking back. */
#include "support.h"

TOY(toy_into, toy_into_rule);
TOY(toy_peek, toy_peek_rule);
TOY(toy_silent, toy_silent_rule);
TOY(toy_wrong, toy_wrong_rule);

/* y0 = x, y1 = 2 x */
static void toy_two_plain(const qp_call *c) {
    for (int64_t i = 0; i < qp_view_count(&c->in[0]); i++)
        for (int j = 0; j < 2; j++)
            qp_store(&c->out[j], qp_view_offset(&c->out[j], i),
                     (j + 1) * qp_load(&c->in[0], qp_view_offset(&c->in[0], i)));
}
static void toy_two_shape(qp_call *c) { c->out[0] = c->out[1] = c->in[0]; }
static void toy_two_rule(qp_rule *r) {
    for (int j = 0; j < 2; j++) {
        if (qp_is_none(r->dout[j])) continue;
        qp_tensor d = qp_affine(r->dout[j], j + 1, 0);
        r->din[0] = qp_is_none(r->din[0]) ? d : qp_add(r->din[0], d);
    }
}
static const qp_op toy_two = {.name = "toy_two",
                              .min_in = 1,
                              .max_in = 1,
                              .nout = 2,
                              .shape = toy_two_shape,
                              .plain = toy_two_plain,
                              .backward = toy_two_rule};

static void one_leaf(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1);
    assert_true(qp_is_none(qp_grad_of(x)));
    assert_true(qp_requires_grad(x));
    qp_tensor y = total(qp_exp(x));
    assert_true(qp_requires_grad(y));
    qp_backward(y);
    EXPECT(qp_grad_of(x), exp(1), exp(2), exp(3));
    qp_zero_grad(x);
    assert_true(qp_is_none(qp_grad_of(x)));
    close_context(ctx);
}

static void a_leaf_as_its_own_loss(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 1, 5);
    qp_backward(x);
    qp_backward(x);
    EXPECT(qp_grad_of(x), 2);
    EXPECT(x, 5);
    close_context(ctx);
}

static void several_uses(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 2); /* 2, 3 */
    /* x^2 + x^3, x used five times, x^2 shared: 2x + 3x^2 */
    qp_tensor square = qp_mul(x, x);
    qp_backward(total(qp_add(square, qp_mul(square, x))));
    EXPECT(qp_grad_of(x), 4 + 12, 6 + 27);
    close_context(ctx);
}

static void diamond(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), a = qp_affine(x, 3, 0);
    qp_tensor b = qp_affine(a, 2, 0), c = qp_mul(a, a);
    qp_tensor d = qp_add(b, c), e = qp_mul(d, b);
    /* e = (6x + 9x^2) 6x; de/dx = 72x + 162x^2 */
    qp_backward(total(e));
    EXPECT(qp_grad_of(x), 72 + 162, 144 + 648);
    close_context(ctx);
}

static void leaves_accumulate(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y = parameter(ctx, 2, 5);
    for (int i = 0; i < 3; i++) {
        qp_scope s = qp_enter(ctx);
        qp_backward(total(qp_mul(x, y)));
        qp_leave(s);
    }
    EXPECT(qp_grad_of(x), 15, 18);
    EXPECT(qp_grad_of(y), 3, 6);
    qp_zero_grad(x);
    qp_backward(total(qp_add(x, y)));
    EXPECT(qp_grad_of(x), 1, 1);
    EXPECT(qp_grad_of(y), 4, 7);
    close_context(ctx);
}

/* z = x + y hands the same tensor to both; an optimiser changes one of them in place. */
static void gradients_are_not_shared(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y = parameter(ctx, 2, 5);
    qp_tensor z = qp_add(x, y), seed = counting(ctx, 2, 1), dz;
    qp_backward(total(qp_mul(z, seed)));
    assert_int_equal(qp_write(qp_grad_of(x), QP_F64, (double[]){-1, -1}, 2), QP_OK);
    EXPECT(qp_grad_of(x), -1, -1);
    EXPECT(qp_grad_of(y), 1, 2);
    z = qp_add(x, y);
    qp_grad(1, &z, 1, &x, &dz, (qp_grad_options){.seeds = &seed});
    EXPECT(dz, 1, 2);
    close_context(ctx);
}

static void broadcast_sums(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1), s = qp_scalar(ctx, QP_F64, 2);
    qp_require_grad(s, true);
    qp_tensor wide = qp_expand(x, SHAPE(4, 3));
    qp_backward(total(qp_mul(wide, s)));
    EXPECT(qp_grad_of(x), 8, 8, 8);
    EXPECT(qp_grad_of(s), 24);
    assert_int_equal(qp_ndim(qp_grad_of(s)), 0);
    close_context(ctx);
}

static void second_walk(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), h = qp_exp(x), y = total(h), z = total(qp_mul(h, h)), d;
    qp_backward(y);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    EXPECT(qp_grad_of(x), exp(1), exp(2));
    qp_backward(z); /* shares exp with y */
    expect_error(ctx, QP_ERR_STATE);
    EXPECT(qp_grad_of(x), exp(1), exp(2));

    y = total(qp_exp(x));
    for (int i = 0; i < 3; i++) {
        qp_grad(1, &y, 1, &x, &d, (qp_grad_options){.retain = i < 2});
        EXPECT(d, exp(1), exp(2));
    }
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    close_context(ctx);
}

static void changed_saved_value(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    double    ones[2] = {1, 1};
    qp_tensor x = parameter(ctx, 2, 1), w = counting(ctx, 2, 3);
    qp_tensor y = total(qp_mul(x, w));
    assert_int_equal(qp_write(w, QP_F64, ones, 2), QP_OK);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    assert_true(qp_is_none(qp_grad_of(x)));

    /* through a view, by hand, by copy_to; x itself; an output */
    y = total(qp_mul(x, w));
    qp_copy_to(qp_slice(w, 0, 0, 1, 1), qp_scalar(ctx, QP_F64, 7));
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    y = total(qp_mul(x, w));
    qp_data_write(w);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    y = total(qp_mul(x, x));
    qp_write(x, QP_F64, ones, 2);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    qp_tensor e = qp_exp(x);
    y = total(e);
    qp_data_write(e);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);

    /* what add does not save may change; a change before the use is none */
    qp_write(w, QP_F64, ones, 2);
    y = total(qp_add(x, w));
    qp_data_write(w);
    qp_backward(y);
    EXPECT(qp_grad_of(x), 1, 1);
    qp_copy_to(qp_exp(x), w);
    expect_error(ctx, QP_ERR_STATE); /* in-place change of a recorded result */
    close_context(ctx);
}

static void outside_saves(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1);
    qp_backward(total(qp_apply(&toy_peek, 1, &x, NULL)));
    assert_non_null(strstr(qp_error(ctx), "saves"));
    expect_error(ctx, QP_ERR_STATE);
    close_context(ctx);
}

static void rules_that_misbehave(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1);
    qp_backward(total(qp_apply(&toy_wrong, 1, &x, NULL)));
    expect_error(ctx, QP_ERR_SHAPE);
    assert_true(qp_is_none(qp_grad_of(x)));
    qp_backward(total(qp_add(qp_apply(&toy_silent, 1, &x, NULL), qp_affine(x, 3, 0))));
    EXPECT(qp_grad_of(x), 3, 3);
    close_context(ctx);
}

static void several_outputs(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), y[2];
    qp_apply_many(&toy_two, 1, &x, NULL, y);
    qp_backward(total(y[1]));
    EXPECT(qp_grad_of(x), 2, 2);
    qp_apply_many(&toy_two, 1, &x, NULL, y);
    qp_drop(y[1]);
    qp_backward(total(y[0]));
    EXPECT(qp_grad_of(x), 3, 3);
    qp_apply_many(&toy_two, 1, &x, NULL, y);
    qp_backward(total(qp_mul(y[0], y[1]))); /* 2 x^2 */
    EXPECT(qp_grad_of(x), 3 + 4, 3 + 8);
    close_context(ctx);
}

static void long_chain(void **state) {
    (void)state;
    enum { LENGTH = 200000 };
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 1, 1);
    for (int walk = 0; walk < 2; walk++) {
        qp_tensor h = x;
        for (int i = 0; i < LENGTH; i++) {
            qp_tensor next = qp_affine(h, 1, 1);
            if (i) qp_drop(h);
            h = next;
        }
        assert_true(qp_item(h) == LENGTH + 1);
        if (walk == 0) qp_backward(h); /* the second one is dropped unwalked */
        qp_drop(h);
    }
    EXPECT(qp_grad_of(x), 1);
    close_context(ctx);
}

/* A ladder whose every rung is used twice: each node is visited once. */
static void long_ladder(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 1, 1), h = x;
    for (int i = 0; i < 1000; i++) h = qp_affine(qp_add(h, h), 0.5, 0);
    qp_backward(h);
    EXPECT(qp_grad_of(x), 1);
    close_context(ctx);
}

static void memory_returns(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 1000, 0);
    qp_scope  s = qp_enter(ctx);
    size_t    before = qp_stats_of(ctx).bytes, kept;
    for (int i = 0; i < 10; i++) qp_exp(qp_affine(x, 0.001, 0));
    qp_leave(s);
    assert_int_equal(qp_stats_of(ctx).bytes, before);

    /* the record outlives the handles, and goes with the loss */
    s = qp_enter(ctx);
    qp_tensor y = x;
    for (int i = 0; i < 10; i++) y = qp_exp(qp_affine(y, 0.001, 0));
    y = total(y);
    y = qp_return(s, y);
    kept = qp_stats_of(ctx).bytes;
    assert_true(kept > before + 10 * 8000); /* exp keeps its output */
    assert_true(kept < before + 13 * 8000); /* affine keeps nothing */
    qp_drop(y);
    assert_int_equal(qp_stats_of(ctx).bytes, before);

    s = qp_enter(ctx);
    y = x;
    for (int i = 0; i < 10; i++) y = qp_exp(qp_affine(y, 0.001, 0));
    y = qp_return(s, total(y));
    qp_reset_peak(ctx);
    qp_backward(y);
    assert_true(qp_stats_of(ctx).peak_bytes < kept + 4 * 8064); /* freed on the way */
    qp_drop(y);
    qp_zero_grad(x);
    assert_int_equal(qp_stats_of(ctx).bytes, before);
    close_context(ctx);
}

static void no_grad_and_detach(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1);
    assert_false(qp_no_grad(ctx, true));
    qp_tensor quiet = qp_exp(x);
    assert_true(qp_no_grad(ctx, false));
    assert_false(qp_requires_grad(quiet));
    qp_tensor cut = qp_detach(qp_exp(x));
    assert_false(qp_requires_grad(cut));
    qp_backward(total(qp_add(qp_mul(x, cut), quiet)));
    EXPECT(qp_grad_of(x), exp(1), exp(2));
    qp_backward(total(quiet));
    expect_error(ctx, QP_ERR_STATE);
    EXPECT(x, 1, 2);

    qp_require_grad(x, false);
    assert_false(qp_requires_grad(qp_exp(x)));
    assert_true(qp_is_none(qp_grad_of(x))); /* what is no leaf has none */
    qp_zero_grad(x);
    expect_ok(ctx);
    assert_int_equal(qp_on_grad(x, NULL, NULL), 0);
    expect_error(ctx, QP_ERR_STATE);
    qp_set_grad(x, x);
    expect_error(ctx, QP_ERR_STATE);
    qp_require_grad(qp_arange(ctx, QP_I64, 3), true);
    expect_error(ctx, QP_ERR_TYPE);
    qp_require_grad(x, true);
    qp_tensor y = qp_exp(x);
    qp_require_grad(y, true);
    expect_error(ctx, QP_ERR_STATE);
    qp_backward(y); /* two elements */
    expect_error(ctx, QP_ERR_SHAPE);
    close_context(ctx);
}

/* ---- qp_grad ------------------------------------------------------------------------------------ */

static void grad_of_leaves_and_inner(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), w = parameter(ctx, 2, 3), other = parameter(ctx, 3, 0);
    qp_backward(total(qp_mul(x, w)));
    qp_tensor held = qp_grad_of(x);
    EXPECT(held, 3, 4);

    qp_tensor h = qp_mul(x, w), y = total(qp_exp(h)), plain = counting(ctx, 2, 0);
    qp_tensor xs[] = {h, x, other, plain, x, y}, dxs[6];
    qp_grad(1, &y, 6, xs, dxs, (qp_grad_options){.retain = true});
    double eh[2] = {exp(3), exp(8)};
    EXPECT(dxs[0], eh[0], eh[1]);
    EXPECT(dxs[1], eh[0] * 3, eh[1] * 4);
    EXPECT(dxs[2], 0, 0, 0);
    EXPECT(dxs[3], 0, 0);
    EXPECT(dxs[4], eh[0] * 3, eh[1] * 4);
    EXPECT(dxs[5], 1);
    EXPECT(qp_grad_of(x), 3, 4);
    EXPECT(qp_grad_of(w), 1, 2);
    assert_true(qp_is_none(qp_grad_of(other)));
    assert_false(qp_requires_grad(dxs[0]));

    qp_grad(1, &y, 1, &h, dxs, (qp_grad_options){0}); /* the leaves lie beyond h */
    EXPECT(dxs[0], eh[0], eh[1]);
    EXPECT(qp_grad_of(w), 1, 2);
    close_context(ctx);
}

static void grad_with_seeds(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), a = qp_affine(x, 2, 0), b = qp_mul(x, x), dx;
    qp_tensor ys[] = {a, b, x, a},
              seeds[] = {counting(ctx, 2, 10), QP_NONE, counting(ctx, 2, 1), counting(ctx, 2, 100)};
    qp_grad(4, ys, 1, &x, &dx, (qp_grad_options){.seeds = seeds, .retain = true});
    EXPECT(dx, 20 + 1 + 200, 22 + 2 + 202);
    EXPECT(seeds[0], 10, 11);
    EXPECT(seeds[2], 1, 2);
    qp_grad(2, ys, 1, &x, &dx, (qp_grad_options){.retain = true}); /* no seeds: one element each */
    expect_error(ctx, QP_ERR_SHAPE);
    seeds[1] = counting(ctx, 3, 0);
    qp_grad(2, ys, 1, &x, &dx, (qp_grad_options){.seeds = seeds, .retain = true});
    expect_error(ctx, QP_ERR_SHAPE);
    seeds[1] = qp_zeros(ctx, QP_F32, SHAPE(2));
    qp_grad(2, ys, 1, &x, &dx, (qp_grad_options){.seeds = seeds, .retain = true});
    expect_error(ctx, QP_ERR_SHAPE);
    assert_true(qpi_is_poison(dx));
    seeds[1] = qp_transpose(qp_reshape(counting(ctx, 2, 1), SHAPE(1, 2)), 0, 1);
    ys[1] = qp_reshape(b, SHAPE(2, 1));
    qp_grad(2, ys, 1, &x, &dx, (qp_grad_options){.seeds = seeds});
    EXPECT(dx, 20 + 2 * 1 * 1, 22 + 2 * 2 * 2);
    close_context(ctx);
}

/* dxs may be kept while the record goes on to be used. */
static void grad_results_are_values(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 4, 1), p = qp_affine(x, 1, 0), s = qp_slice(p, 0, 1, 3, 1);
    qp_tensor y = total(qp_add(qp_apply(&toy_into, 1, &s, NULL), qp_slice(qp_exp(p), 0, 0, 2, 1)));
    qp_tensor xs[] = {s, p, x}, d[3];
    qp_grad(1, &y, 3, xs, d, (qp_grad_options){.retain = true});
    EXPECT(d[0], 1, 1);
    EXPECT(d[1], exp(1), exp(2) + 1, 1, 0);
    EXPECT(d[2], exp(1), exp(2) + 1, 1, 0);
    qp_grad(1, &y, 1, &s, d, (qp_grad_options){.retain = true});
    EXPECT(d[0], 1, 1);
    assert_true(qp_is_none(qp_grad_of(x)));
    qp_backward(y);
    EXPECT(qp_grad_of(x), exp(1), exp(2) + 1, 1, 0);
    close_context(ctx);
}

/* A slice of a leaf that holds a gradient already. */
static void grad_at_a_slice_of_a_leaf(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1), d;
    qp_backward(total(qp_affine(x, 5, 0)));
    qp_tensor s = qp_slice(x, 0, 0, 2, 1), y = total(qp_apply(&toy_into, 1, &s, NULL));
    qp_grad(1, &y, 1, &s, &d, (qp_grad_options){0});
    EXPECT(d, 1, 1);
    EXPECT(qp_grad_of(x), 5, 5, 5);
    close_context(ctx);
}

static void grad_arguments(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 1, 1), many[QP_MAX_IN + 1], ds[QP_MAX_IN + 1];
    for (int i = 0; i <= QP_MAX_IN; i++) many[i] = x;
    qp_grad(1, &x, QP_MAX_IN + 1, many, ds, (qp_grad_options){0});
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_grad(1, &x, QP_MAX_IN, many, ds, (qp_grad_options){0});
    EXPECT(ds[QP_MAX_IN - 1], 1);
    many[1] = QP_NONE;
    qp_grad(1, &x, 2, many, ds, (qp_grad_options){0});
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_grad(0, NULL, 0, NULL, NULL, (qp_grad_options){0});
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_leaf),
        cmocka_unit_test(a_leaf_as_its_own_loss),
        cmocka_unit_test(several_uses),
        cmocka_unit_test(diamond),
        cmocka_unit_test(leaves_accumulate),
        cmocka_unit_test(gradients_are_not_shared),
        cmocka_unit_test(broadcast_sums),
        cmocka_unit_test(second_walk),
        cmocka_unit_test(changed_saved_value),
        cmocka_unit_test(outside_saves),
        cmocka_unit_test(rules_that_misbehave),
        cmocka_unit_test(several_outputs),
        cmocka_unit_test(long_chain),
        cmocka_unit_test(long_ladder),
        cmocka_unit_test(memory_returns),
        cmocka_unit_test(no_grad_and_detach),
        cmocka_unit_test(grad_of_leaves_and_inner),
        cmocka_unit_test(grad_with_seeds),
        cmocka_unit_test(grad_results_are_values),
        cmocka_unit_test(grad_at_a_slice_of_a_leaf),
        cmocka_unit_test(grad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
