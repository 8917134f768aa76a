/* Handles, scopes, errors, attached memory, reading and writing. */
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
    qp_ctx    *ctx = open_context();
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
    qp_scope fresh = qp_enter(ctx); /* same depth as `outer`, another scope */
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

/* ---- Memory of the host program ---------------------------------------------------------------- */

static void count_release(void *user) { ++*(int *)user; }

static void attached_memory(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    float     data[6] = {1, 2, 3, 4, 5, 6};
    int       released = 0;
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = qp_attach(ctx, QP_F32, SHAPE(2, 3), data, false, count_release, &released);
    assert_ptr_equal(qp_data_of(x), data);
    qp_tensor row = qp_keep(qp_slice(x, 0, 1, 2, 1));
    assert_int_equal(qp_write(qp_slice(x, 1, 0, 1, 1), QP_F64, (double[]){10, 40}, 2), QP_OK);
    assert_true(data[0] == 10 && data[3] == 40);
    qp_leave(s);
    assert_int_equal(released, 0); /* a view still needs it */
    EXPECT(row, 40, 5, 6);
    qp_drop(row);
    assert_int_equal(released, 1);

    /* saved by a node, then freed with it */
    qp_tensor p = parameter(ctx, 3, 1);
    qp_tensor y = qp_attach(ctx, QP_F64, SHAPE(3), (double[]){1, 2, 3}, true, count_release, &released);
    qp_tensor z = qp_mul(p, y);
    qp_drop(y);
    assert_int_equal(released, 1);
    qp_drop(z);
    assert_int_equal(released, 2);

    qp_attach(ctx, QP_F32, SHAPE(6), data, false, count_release, &released);
    qp_close(ctx);
    assert_int_equal(released, 3);
}

/* The caller never has to ask whether it still owns the memory. */
static void attach_that_fails_releases(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    int     released = 0;
    float   data[1] = {0};
    qp_attach(ctx, QP_F32, SHAPE(-1), data, false, count_release, &released);
    assert_int_equal(released, 1);
    qp_attach(ctx, QP_F32, SHAPE(1), data, false, count_release, &released);
    assert_int_equal(released, 2); /* the failure still stands */
    expect_error(ctx, QP_ERR_ARGUMENT);
    close_context(ctx);
}

static void read_only_memory(void **state) {
    (void)state;
    qp_ctx      *a = open_context(), *b = open_context();
    const double data[3] = {1, 2, 3};
    qp_tensor    x = qp_attach(a, QP_F64, SHAPE(3), (void *)data, true, NULL, NULL);
    qp_tensor    y = qp_attach(b, QP_F64, SHAPE(3), (void *)data, true, NULL, NULL);
    EXPECT(qp_add(x, x), 2, 4, 6);
    EXPECT(qp_exp(y), exp(1), exp(2), exp(3));
    double v[3] = {9, 9, 9};
    assert_int_equal(qp_write(x, QP_F64, v, 3), QP_ERR_STATE);
    expect_error(a, QP_ERR_STATE);
    assert_int_equal(qp_copy_to(qp_slice(x, 0, 0, 1, 1), qp_scalar(a, QP_F64, 5)), QP_ERR_STATE);
    expect_error(a, QP_ERR_STATE);
    qp_data_write(x);
    expect_error(a, QP_ERR_STATE);
    EXPECT(x, 1, 2, 3);
    close_context(b);
    close_context(a);
}

/* ---- Elements ------------------------------------------------------------------------------------ */

static void reading_and_writing(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    for (qp_dtype t = 0; t < QP_DTYPE_COUNT; t++) {
        double    v[4] = {0, 1, 1, 0}, back[4] = {9, 9, 9, 9};
        qp_tensor x = qp_zeros(ctx, t, SHAPE(2, 2));
        assert_int_equal(qp_dtype_of(x), t);
        assert_int_equal(qp_write(x, QP_F64, v, 4), QP_OK);
        assert_int_equal(qp_read(qp_transpose(x, 0, 1), QP_F64, back, 4), QP_OK);
        assert_memory_equal(v, back, sizeof v);
        EXPECT(qp_full(ctx, t, SHAPE(3), 1), 1, 1, 1);
        EXPECT(qp_arange(ctx, t, 2), 0, 1);
        assert_int_equal(qp_count(qp_arange(ctx, t, 0)), 0);
        assert_int_equal(qp_read(x, QP_F64, back, 3), QP_ERR_SHAPE);
        expect_error(ctx, QP_ERR_SHAPE);
        assert_int_not_equal(qp_read(x, QP_DTYPE_COUNT, back, 4), QP_OK);
        assert_true(qp_failed(ctx));
        qp_clear(ctx);
    }
    /* large integers keep every bit, strided too */
    int64_t   big[4] = {INT64_MAX, INT64_MIN, (INT64_C(1) << 53) + 1, -3}, back[4];
    qp_tensor k = qp_from(ctx, QP_I64, SHAPE(2, 2), big);
    assert_int_equal(qp_read(qp_transpose(k, 0, 1), QP_I64, back, 4), QP_OK);
    assert_true(back[0] == big[0] && back[1] == big[2] && back[2] == big[1] && back[3] == big[3]);
    qp_tensor copy = qp_zeros(ctx, QP_I64, SHAPE(2, 2));
    assert_int_equal(qp_copy_to(copy, qp_transpose(k, 0, 1)), QP_OK);
    assert_int_equal(qp_read(copy, QP_I64, back, 4), QP_OK);
    assert_true(back[0] == big[0] && back[1] == big[2] && back[2] == big[1] && back[3] == big[3]);
    close_context(ctx);
}

static void copies_in_place(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = qp_zeros(ctx, QP_F32, SHAPE(2, 3));
    assert_int_equal(qp_copy_to(x, qp_arange(ctx, QP_I64, 3)), QP_OK);
    EXPECT(x, 0, 1, 2, 0, 1, 2);
    assert_int_equal(qp_copy_to(x, counting(ctx, 4, 0)), QP_ERR_SHAPE);
    expect_error(ctx, QP_ERR_SHAPE);
    /* regions that overlap */
    qp_tensor line = counting(ctx, 6, 0);
    assert_int_equal(qp_copy_to(qp_slice(line, 0, 1, 6, 1), qp_slice(line, 0, 0, 5, 1)), QP_OK);
    EXPECT(line, 0, 0, 1, 2, 3, 4);
    qp_tensor square = qp_reshape(counting(ctx, 4, 1), SHAPE(2, 2));
    assert_int_equal(qp_copy_to(square, qp_transpose(square, 0, 1)), QP_OK);
    EXPECT(square, 1, 3, 2, 4);
    /* one element standing for many cannot be written to */
    qp_tensor wide = qp_expand(counting(ctx, 1, 1), SHAPE(4));
    assert_int_not_equal(qp_copy_to(wide, counting(ctx, 4, 0)), QP_OK);
    assert_true(qp_failed(ctx));
    qp_clear(ctx);
    assert_null(qp_data_of(wide));
    expect_error(ctx, QP_ERR_STATE);
    close_context(ctx);
}

static void random_position(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor a = qpi_random_key(ctx), b = qpi_random_key(ctx);
    assert_int_equal(qp_random_position(ctx), 2);
    EXPECT(a, 1, 0);
    EXPECT(b, 1, 1);
    qp_set_random(ctx, 5, 100);
    EXPECT(qpi_random_key(ctx), 5, 100);
    assert_int_equal(qp_random_position(ctx), 101);
    /* test vectors of Random123 1.14 (Salmon et al.): philox4x32-10 */
    uint32_t w[4];
    qpi_philox(0, 0, 0, w);
    assert_true(w[0] == 0x6627e8d5 && w[1] == 0xe169c58d && w[2] == 0xbc57ac4c && w[3] == 0x9b00dbd8);
    qpi_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, w);
    assert_true(w[0] == 0x408f276d && w[1] == 0x41c83b0e && w[2] == 0xa20bc7c6 && w[3] == 0x6d5451fd);
    qpi_philox(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u, w);
    assert_true(w[0] == 0xd16cfe09 && w[1] == 0x94fdcceb && w[2] == 0x5001e420 && w[3] == 0x24126ea1);
    close_context(ctx);
}

/* ---- Elements that come later --------------------------------------------------------------- */

static void no_elements_yet(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = counting(ctx, 6, 1);
    size_t    before = qp_stats_of(ctx).bytes;
    qp_tensor p = qpi_leaf_empty(ctx, QP_F32, SHAPE(2, 3));
    double    six[6] = {0};
    assert_int_equal(qp_stats_of(ctx).bytes, before);
    qp_require_grad(p, true);
    assert_int_equal(qp_size(p, 1), 3);
    assert_int_equal(qp_dtype_of(p), QP_F32);
    expect_ok(ctx);
    qp_add(qp_reshape(x, SHAPE(2, 3)), p);
    assert_string_equal(qp_error(ctx), "add: input 1 has no elements yet");
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_read(p, QP_F64, six, 6), QP_ERR_STATE);
    assert_string_equal(qp_error(ctx), "read: the tensor has no elements yet");
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_write(p, QP_F64, six, 6), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE);
    assert_null(qp_data_of(p));
    expect_error(ctx, QP_ERR_STATE);
    qp_data_write(p);
    expect_error(ctx, QP_ERR_STATE);
    assert_true(isnan(qp_item(qpi_leaf_empty(ctx, QP_F32, 0, NULL))));
    expect_error(ctx, QP_ERR_STATE);
    qp_reshape(p, SHAPE(6));
    expect_error(ctx, QP_ERR_STATE);
    qp_tensor again = qp_keep(qp_detach(qp_alias(p)));
    qp_exp(again);
    expect_error(ctx, QP_ERR_STATE);
    qp_tensor grad;
    qp_grad(1, &x, 1, &p, &grad, (qp_grad_options){.seeds = &again});
    expect_error(ctx, QP_ERR_SHAPE);
    qpi_leaf_empty(ctx, QP_F32, SHAPE(-1));
    expect_error(ctx, QP_ERR_ARGUMENT);
    close_context(ctx);
}

/* Type, strides and memory are the value's; the leaf and its gradient stay. */
static void elements_given_later(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor p = qpi_leaf_empty(ctx, QP_F32, SHAPE(3, 2)), x = qp_full(ctx, QP_F64, SHAPE(3, 2), 2);
    qp_require_grad(p, true);
    qp_scope  s = qp_enter(ctx);
    qp_tensor value = qp_reshape(counting(ctx, 6, 1), SHAPE(2, 3));
    assert_int_equal(qpi_set_storage(p, qp_transpose(value, 0, 1)), QP_OK);
    assert_int_equal(qp_write(value, QP_F64, (double[]){9, 2, 3, 4, 5, 6}, 6), QP_OK); /* shared, not copied */
    qp_leave(s);
    EXPECT(p, 9, 4, 2, 5, 3, 6);
    assert_int_equal(qp_dtype_of(p), QP_F64);
    s = qp_enter(ctx);
    qp_backward(total(qp_mul(p, x)));
    qp_leave(s);
    EXPECT(qp_grad_of(p), 2, 2, 2, 2, 2, 2);
    assert_int_equal(qp_dtype_of(qp_grad_of(p)), QP_F64);

    /* a second time, over a read-only value of the same type */
    static double fixed[6] = {1, 1, 1, 1, 1, 1};
    assert_int_equal(qpi_set_storage(p, qp_attach(ctx, QP_F64, SHAPE(3, 2), fixed, true, NULL, NULL)), QP_OK);
    qp_backward(total(qp_mul(p, p)));
    EXPECT(qp_grad_of(p), 4, 4, 4, 4, 4, 4);
    assert_int_equal(qp_write(p, QP_F64, fixed, 6), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE);

    /* the gradient is of the new type, whatever type the rule made */
    qp_zero_grad(p);
    qp_tensor loss = total(qp_add(p, x));
    assert_int_equal(qpi_set_storage(p, qp_zeros(ctx, QP_BF16, SHAPE(3, 2))), QP_OK);
    qp_backward(loss);
    assert_int_equal(qp_dtype_of(qp_grad_of(p)), QP_BF16);
    EXPECT(qp_grad_of(p), 1, 1, 1, 1, 1, 1);
    close_context(ctx);
}

static void elements_refused(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor p = qpi_leaf_empty(ctx, QP_F64, SHAPE(2)), x = counting(ctx, 2, 1);
    qp_require_grad(p, true);
    assert_int_equal(qpi_set_storage(p, counting(ctx, 3, 1)), QP_ERR_SHAPE);
    assert_string_equal(qp_error(ctx), "set: the tensor is f64 [2], the value f64 [3]");
    expect_error(ctx, QP_ERR_SHAPE);
    assert_int_equal(qpi_set_storage(p, qp_arange(ctx, QP_I64, 2)), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE);
    assert_int_equal(qpi_set_storage(p, p), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qpi_set_storage(p, QP_NONE), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT);
    assert_int_equal(qpi_set_storage(p, x), QP_OK);
    assert_int_equal(qpi_set_storage(p, p), QP_OK);

    qp_tensor y = qp_mul(p, counting(ctx, 2, 5));
    assert_int_equal(qpi_set_storage(y, x), QP_ERR_STATE); /* computed */
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qpi_set_storage(p, counting(ctx, 2, 7)), QP_ERR_STATE); /* saved */
    assert_string_equal(qp_error(ctx), "set: backward of mul needs the tensor as it is");
    expect_error(ctx, QP_ERR_STATE);
    qp_backward(total(y));
    assert_int_equal(qpi_set_storage(p, qp_zeros(ctx, QP_F32, SHAPE(2))), QP_ERR_STATE); /* holds an f64 gradient */
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qpi_set_storage(p, counting(ctx, 2, 7)), QP_OK);
    EXPECT(qp_grad_of(p), 5, 6);
    close_context(ctx);
}

/* ---- Things that a context owns --------------------------------------------------------------- */

static char destroyed[8];
static void destroy_letter(void *thing) { strcat(destroyed, thing); }

static void owned_things(void **state) {
    (void)state;
    qp_ctx    *ctx = open_context();
    char       letters[] = "a\0b\0c\0d";
    qpi_owned *owned[4];
    for (int i = 0; i < 4; i++) owned[i] = qpi_own(ctx, letters + 2 * i, destroy_letter);
    destroyed[0] = 0;
    qpi_disown(owned[1]); /* in the middle, and at the head: closed earlier by their users */
    qpi_disown(owned[3]);
    qpi_disown(NULL);
    assert_string_equal(destroyed, "");
    close_context(ctx);
    assert_string_equal(destroyed, "ca");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stale_handles),       cmocka_unit_test(handles_of_another_context),
        cmocka_unit_test(many_handles),        cmocka_unit_test(replacing_in_a_loop),
        cmocka_unit_test(nested_scopes),       cmocka_unit_test(early_leave),
        cmocka_unit_test(return_many),         cmocka_unit_test(return_of_a_stale_tensor),
        cmocka_unit_test(keep_and_alias),      cmocka_unit_test(deep_scopes),
        cmocka_unit_test(scopes_against_a_model), cmocka_unit_test(first_error_stays),
        cmocka_unit_test(poison_spreads),      cmocka_unit_test(no_context),
        cmocka_unit_test(bad_shapes),          cmocka_unit_test(attached_memory),
        cmocka_unit_test(attach_that_fails_releases), cmocka_unit_test(read_only_memory),
        cmocka_unit_test(reading_and_writing), cmocka_unit_test(copies_in_place),
        cmocka_unit_test(random_position),     cmocka_unit_test(owned_things),
        cmocka_unit_test(no_elements_yet),     cmocka_unit_test(elements_given_later),
        cmocka_unit_test(elements_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
