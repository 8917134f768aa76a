/* Handles, scopes, errors. */
#include "support.h"

/* ---- Handles -------------------------------------------------------------------------------- */

static void stale_handles(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = counting(ctx, 3, 1);
    qp_leave(s);
    assert_int_equal(qp_ndim(x), 0);
    expect_error(ctx, QP_ERR_STATE);
    qp_exp(x);
    expect_error(ctx, QP_ERR_STATE);

    /* the slot is taken again, with another generation */
    qp_tensor y = counting(ctx, 5, 1);
    assert_int_equal(y.slot, x.slot);
    assert_int_not_equal(y.generation, x.generation);
    assert_int_equal(qp_count(x), 0);
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_count(y), 5);

    qp_drop(y);
    qp_drop(y);
    qp_drop(QP_NONE);
    expect_ok(ctx);
    assert_true(isnan(qp_item(y)));
    expect_error(ctx, QP_ERR_STATE);

    qp_tensor made_up = {ctx, 123456789, 3};
    qp_exp(made_up);
    expect_error(ctx, QP_ERR_STATE);
    close_context(ctx);
}

static void handles_of_another_context(void **state) {
    (void)state;
    qp_ctx   *a = open_context(), *b = open_context();
    qp_tensor x = counting(a, 3, 1), y = counting(b, 3, 1);
    qp_tensor z = qp_add(x, y);
    expect_error(a, QP_ERR_ARGUMENT);
    expect_ok(b);
    assert_true(qpi_is_poison(z));

    qp_scope s = qp_enter(a);
    for (int i = 0; i < 4; i++) counting(a, 3, 0);
    y = qp_return(s, y); /* not this scope's to hand out */
    EXPECT(y, 1, 2, 3);

    qp_tensor p = parameter(a, 1, 2), q = parameter(b, 1, 2), d;
    qp_tensor out = qp_mul(p, p);
    qp_grad(1, &out, 1, &q, &d, (qp_grad_options){0});
    expect_error(a, QP_ERR_ARGUMENT);
    out = qp_mul(p, p);
    qp_grad(1, &out, 1, &p, &d, (qp_grad_options){.seeds = &q});
    expect_error(a, QP_ERR_ARGUMENT);
    qp_clear(b);
    close_context(b);
    close_context(a);
}

static void many_handles(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    enum { N = 3000 };
    qp_tensor *t = calloc(N, sizeof *t);
    for (int i = 0; i < N; i++) t[i] = qp_scalar(ctx, QP_F64, i);
    for (int i = 0; i < N; i += 2) qp_drop(t[i]);
    for (int i = 0; i < N; i += 2) t[i] = qp_scalar(ctx, QP_F32, i);
    for (int i = 0; i < N; i++) assert_true(qp_item(t[i]) == i);
    free(t);
    close_context(ctx);
}

/* A loop outside any scope that drops what it replaces holds a constant number of things. */
static void replacing_in_a_loop(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = counting(ctx, 3, 0);
    for (int i = 0; i < 10000; i++) {
        qp_tensor y = qp_affine(x, 1, 1);
        qp_drop(x);
        x = y;
    }
    EXPECT(x, 10000, 10001, 10002);
    assert_true(ctx->live_capacity <= 1024);
    close_context(ctx);
}

/* ---- Scopes ---------------------------------------------------------------------------------- */

static void nested_scopes(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    size_t    before = qp_stats_of(ctx).bytes;
    qp_scope  outer = qp_enter(ctx);
    qp_tensor x = counting(ctx, 3, 1);
    qp_scope  inner = qp_enter(ctx);
    qp_tensor y = qp_affine(x, 2, 0), unused = qp_exp(y);
    y = qp_return(inner, y);
    EXPECT(y, 2, 4, 6);
    qp_count(unused);
    expect_error(ctx, QP_ERR_STATE);
    qp_leave(outer);
    qp_count(y);
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_stats_of(ctx).bytes, before);
    close_context(ctx);
}

static void early_leave(void **state) {
    (void)state;
    qp_ctx  *ctx = open_context();
    qp_scope outer = qp_enter(ctx), inner = qp_enter(ctx), innermost = qp_enter(ctx);
    counting(ctx, 3, 1);
    qp_leave(outer);
    assert_int_equal(qp_stats_of(ctx).bytes, 0);
    qp_leave(inner);
    expect_error(ctx, QP_ERR_STATE);
    qp_leave(innermost);
    expect_error(ctx, QP_ERR_STATE);
    qp_scope  fresh = qp_enter(ctx); /* same depth as `outer`, another scope */
    qp_tensor x = counting(ctx, 2, 0);
    qp_leave(outer);
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_count(x), 2);
    qp_leave(fresh);
    close_context(ctx);
}

static void return_many(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor old = counting(ctx, 2, 7);
    qp_scope  outer = qp_enter(ctx), s = qp_enter(ctx);
    qp_tensor a = counting(ctx, 2, 1), b = counting(ctx, 2, 3), lost = counting(ctx, 2, 5);
    qp_tensor kept = qp_keep(counting(ctx, 2, 9));
    qp_tensor ys[] = {b, QP_NONE, a, old, b, kept, qpi_poison(ctx)};
    qp_return_many(s, ys, 7);
    EXPECT(ys[0], 3, 4);
    assert_true(qp_is_none(ys[1]));
    EXPECT(ys[2], 1, 2);
    EXPECT(ys[3], 7, 8);
    EXPECT(ys[4], 3, 4);
    assert_true(qpi_is_poison(ys[6]));
    qp_count(lost);
    expect_error(ctx, QP_ERR_STATE);
    qp_leave(outer);
    qp_count(a);
    expect_error(ctx, QP_ERR_STATE);
    qp_count(b); /* returned twice, still owned by the outer scope */
    expect_error(ctx, QP_ERR_STATE);
    EXPECT(old, 7, 8);
    EXPECT(kept, 9, 10);
    qp_drop(kept);
    close_context(ctx);
}

static void return_of_a_stale_tensor(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = counting(ctx, 2, 1);
    qp_drop(x);
    assert_true(qpi_is_poison(qp_return(s, x)));
    expect_error(ctx, QP_ERR_STATE);
    s = qp_enter(ctx);
    qp_leave(s);
    qp_tensor y = qp_return(s, counting(ctx, 2, 1)); /* a scope that has been left */
    expect_error(ctx, QP_ERR_STATE);
    EXPECT(y, 1, 2);
    close_context(ctx);
}

static void keep_and_alias(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = qp_keep(counting(ctx, 3, 1)), y = qp_alias(x);
    qp_scope  t = qp_enter(ctx);
    qp_tensor z = qp_alias(y);
    qp_drop(y);
    EXPECT(z, 1, 2, 3);
    qp_leave(t);
    qp_leave(s);
    EXPECT(x, 1, 2, 3);
    qp_tensor v = qp_alias(x);
    qp_drop(x);
    EXPECT(v, 1, 2, 3);
    assert_true(qp_is_none(qp_alias(QP_NONE)));
    assert_true(qp_is_none(qp_keep(QP_NONE)));
    close_context(ctx);
}

static void deep_scopes(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_scope  first = qp_enter(ctx);
    qp_tensor x = counting(ctx, 2, 0);
    for (int i = 0; i < 5000; i++) {
        qp_enter(ctx);
        x = qp_affine(x, 1, 1);
    }
    x = qp_return(first, x);
    EXPECT(x, 5000, 5001);
    close_context(ctx);
}

/* Random enters, leaves, returns, drops and keeps against a model of who owns what. */
static void scopes_against_a_model(void **state) {
    (void)state;
    enum { MANY = 400, DEEP = 40 };
    qp_ctx   *ctx = open_context();
    qp_scope  scopes[DEEP];
    qp_tensor made[MANY];
    int       owner[MANY], count = 0, depth = 0; /* owner: scope depth, -1 kept, -2 gone */
    srand(7);
    for (int step = 0; step < 20000; step++) {
        int r = rand() % 100, pick = count ? rand() % count : -1;
        if (r < 12 && depth < DEEP) {
            scopes[depth++] = qp_enter(ctx);
        } else if (r < 24 && depth) {
            int to = rand() % depth;
            if (pick >= 0 && r < 18 && owner[pick] != -2) {
                made[pick] = qp_return(scopes[to], made[pick]);
                if (owner[pick] > to) owner[pick] = to;
            } else {
                qp_leave(scopes[to]);
            }
            for (int i = 0; i < count; i++)
                if (owner[i] > to) owner[i] = -2;
            depth = to;
        } else if (r < 34 && pick >= 0) {
            qp_drop(made[pick]);
            owner[pick] = -2;
        } else if (r < 37 && pick >= 0 && owner[pick] != -2) {
            qp_keep(made[pick]);
            owner[pick] = -1;
        } else if (count < MANY) {
            made[count] = qp_scalar(ctx, QP_F64, count);
            owner[count++] = depth;
        }
        if (pick >= 0 && owner[pick] != -2) assert_true(qp_item(made[pick]) == pick);
        if (count == MANY && step % 7 == 0) {
            for (int i = 0; i < count; i++) {
                if (owner[i] == -2) {
                    qp_count(made[i]);
                    expect_error(ctx, QP_ERR_STATE);
                } else {
                    assert_true(qp_item(made[i]) == i);
                    qp_drop(made[i]);
                }
            }
            count = 0;
        }
    }
    close_context(ctx);
}

/* ---- Errors ----------------------------------------------------------------------------------- */

static void first_error_stays(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = counting(ctx, 3, 1), y = counting(ctx, 4, 1);
    qp_tensor z = qp_add(x, y);
    assert_true(qp_failed(ctx));
    assert_non_null(strstr(qp_error(ctx), "add"));
    assert_non_null(strstr(qp_error(ctx), "[3]"));
    char text[600];
    snprintf(text, sizeof text, "%s", qp_error(ctx));
    qp_fail(ctx, QP_ERR_IO, "another");
    qp_empty(ctx, QP_F32, 99, NULL);
    assert_string_equal(qp_error(ctx), text);
    assert_int_equal(qp_error_code(ctx), QP_ERR_SHAPE);

    /* while the failure stands nothing computes, and what is asked for a number says so */
    assert_true(qpi_is_poison(qp_add(x, x)));
    assert_true(qpi_is_poison(z));
    assert_true(isnan(qp_item(qp_scalar(ctx, QP_F64, 1))));
    double v[3] = {0};
    assert_int_equal(qp_read(x, QP_F64, v, 3), QP_ERR_SHAPE);
    assert_int_equal(qp_write(x, QP_F64, v, 3), QP_ERR_SHAPE);
    qp_clear(ctx);
    assert_string_equal(qp_error(ctx), "");
    EXPECT(qp_add(x, x), 2, 4, 6);
    close_context(ctx);
}

static void poison_spreads(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1), bad = qp_add(x, counting(ctx, 4, 1)), dx;
    double    v[3] = {1, 1, 1};
    qp_clear(ctx);
    assert_int_equal(qp_count(bad), 0);
    qp_drop(bad);
    assert_true(qpi_is_poison(qp_return(qp_enter(ctx), bad)));
    expect_ok(ctx); /* it has been looked at, not used */

    qp_tensor y = qp_mul(qp_exp(bad), x);
    assert_true(qpi_is_poison(y));
    assert_string_equal(qp_error(ctx), "exp: poison from an earlier failure");
    assert_true(qpi_is_poison(qp_reshape(bad, SHAPE(1))));
    assert_true(qpi_is_poison(qp_detach(bad)));
    assert_true(qpi_is_poison(qp_alias(bad)));
    expect_error(ctx, QP_ERR_STATE);
    qp_backward(y);
    expect_error(ctx, QP_ERR_STATE);
    qp_grad(1, &y, 1, &x, &dx, (qp_grad_options){0});
    assert_true(qpi_is_poison(dx));
    expect_error(ctx, QP_ERR_STATE);
    assert_true(qp_is_none(qp_grad_of(x)));
    qp_require_grad(bad, true);
    expect_error(ctx, QP_ERR_STATE);
    assert_true(isnan(qp_item(bad)));
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_read(bad, QP_F64, v, 3), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE);
    close_context(ctx);
}

static void no_context(void **state) {
    (void)state;
    assert_true(qp_failed(NULL));
    assert_true(strlen(qp_error(NULL)) > 0);
    assert_true(qp_is_none(qp_zeros(NULL, QP_F32, SHAPE(2))));
    assert_true(qp_is_none(qp_exp(QP_NONE)));
    assert_int_equal(qp_fail(NULL, QP_ERR_IO, "text"), QP_ERR_IO);
    qp_scope s = qp_enter(NULL);
    assert_true(qp_is_none(qp_return(s, QP_NONE)));
    qp_leave(s);
    qp_clear(NULL);
    qp_cancel(NULL);
    qp_backward(QP_NONE);
    assert_false(qp_no_grad(NULL, true));
    assert_int_equal(qp_autocast(NULL, QP_BF16), QP_F32);
    qp_set_random(NULL, 1, 2);
    assert_int_equal(qp_random_position(NULL), 0);
    assert_int_equal(qp_stats_of(NULL).bytes, 0);
    qp_reset_peak(NULL);
    qp_observe(NULL, NULL, NULL);
    assert_null(qp_tokenizer_bytes(NULL));
    assert_null(qp_model_new(NULL, "none", "{\"model_type\": \"quipu\"}"));
    assert_null(qp_data_open(NULL, 1, (const char *[]){SOURCE_DIR "/README.md"}, (qp_data_options){0}));
    qp_close(NULL);
}

static void bad_shapes(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    qp_empty(ctx, QP_F32, 9, nine);
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_F32, -1, nine);
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_F32, SHAPE(3, -1));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_DTYPE_COUNT, SHAPE(3));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_F64, SHAPE(INT64_C(1) << 40, INT64_C(1) << 40));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_F64, SHAPE(0, INT64_C(1) << 40, INT64_C(1) << 40));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_F64, SHAPE(INT64_C(1) << 48));
    expect_error(ctx, QP_ERR_MEMORY);
    qp_tensor x = qp_zeros(ctx, QP_F32, SHAPE(2, 3));
    assert_int_equal(qp_size(x, -1), 3);
    qp_size(x, 2);
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_size(x, -3);
    expect_error(ctx, QP_ERR_ARGUMENT);
    assert_true(isnan(qp_item(x)));
    expect_error(ctx, QP_ERR_SHAPE);

    /* a result too large for any memory, by ops and by views */
    qp_tensor a = qp_zeros(ctx, QP_U8, SHAPE(1, 1 << 20)), b = qp_reshape(a, SHAPE(1 << 20, 1));
    qp_tensor wide = qp_expand(a, SHAPE(1 << 20, 1 << 20));
    expect_ok(ctx);
    qp_add(wide, b);
    expect_error(ctx, QP_ERR_MEMORY);
    qp_expand(a, SHAPE(INT64_C(1) << 50, 1 << 20));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_add(qp_reshape(wide, SHAPE(1, 1 << 20, 1 << 20)), qp_reshape(wide, SHAPE(1 << 20, 1 << 20, 1)));
    assert_true(qp_failed(ctx));
    qp_clear(ctx);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stale_handles),
        cmocka_unit_test(handles_of_another_context),
        cmocka_unit_test(many_handles),
        cmocka_unit_test(replacing_in_a_loop),
        cmocka_unit_test(nested_scopes),
        cmocka_unit_test(early_leave),
        cmocka_unit_test(return_many),
        cmocka_unit_test(return_of_a_stale_tensor),
        cmocka_unit_test(keep_and_alias),
        cmocka_unit_test(deep_scopes),
        cmocka_unit_test(scopes_against_a_model),
        cmocka_unit_test(first_error_stays),
        cmocka_unit_test(poison_spreads),
        cmocka_unit_test(no_context),
        cmocka_unit_test(bad_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
