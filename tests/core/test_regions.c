/* Gradients of views that are added straight into a region of the parent's buffer. */
#include "support.h"

/* Scales its contribution, so that orders and places show: y = x, dx += scale dy. */
typedef struct {
    double scale;
} attr;
static void scaled_into_rule(qp_rule *r) {
    r->din[0] = qp_grad_into(r, 0);
    qp_tensor d = qp_affine(r->dout[0], ((const attr *)r->attr)->scale, 0);
    qp_apply(&qp_op_accumulate, 2, (qp_tensor[]){r->din[0], d}, NULL);
}
static void scaled_rule(qp_rule *r) { r->din[0] = qp_affine(r->dout[0], ((const attr *)r->attr)->scale, 0); }
static const qp_op toy_scaled_into = {.name = "toy_scaled_into",
                                      .min_in = 1,
                                      .max_in = 1,
                                      .nout = 1,
                                      .attr_bytes = sizeof(attr),
                                      .plain = toy_copy,
                                      .backward = scaled_into_rule,
                                      .elementwise = true};
static const qp_op toy_scaled = {.name = "toy_scaled",
                                 .min_in = 1,
                                 .max_in = 1,
                                 .nout = 1,
                                 .attr_bytes = sizeof(attr),
                                 .plain = toy_copy,
                                 .backward = scaled_rule,
                                 .elementwise = true};

static qp_tensor use(qp_tensor x, double scale, bool in_place) {
    return total(qp_apply(in_place ? &toy_scaled_into : &toy_scaled, 1, &x, &(attr){scale}));
}

/* Where the gradient of a slice went: the bytes of the parent's buffer. */
static void *landed;
static void land_rule(qp_rule *r) {
    r->din[0] = qp_grad_into(r, 0);
    landed = qpi_resolve(r->din[0], "test")->value.view.data;
    qp_apply(&qp_op_accumulate, 2, (qp_tensor[]){r->din[0], r->dout[0]}, NULL);
}
TOY(toy_land, land_rule);

static void slices_land_in_place(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 12, 0), w = qp_reshape(x, SHAPE(3, 4));
    qp_tensor s = qp_slice(qp_slice(w, 1, 1, 3, 1), 0, 1, 3, 1); /* rows 1, 2 of columns 1, 2 */
    qp_tensor t = qp_transpose(s, 0, 1);
    qp_backward(total(qp_apply(&toy_land, 1, &t, NULL)));
    qp_tensor g = qp_grad_of(x);
    EXPECT(g, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0);
    assert_ptr_equal(landed, (const double *)qp_data_of(g) + 5);
    close_context(ctx);
}

static void disjoint_slices_of_a_product(void **state) {
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, 6, 1), qkv = qp_mul(x, x), parts[3];
        qp_split(qkv, 0, 3, (int64_t[]){2, 2, 2}, parts);
        qp_tensor y = use(parts[0], 1, in_place);
        y = qp_add(y, use(parts[1], 10, in_place));
        y = qp_add(y, use(parts[2], 100, in_place));
        qp_backward(y);
        EXPECT(qp_grad_of(x), 2, 4, 60, 80, 1000, 1200);
        close_context(ctx);
    }
}

static void overlapping_slices(void **state) {
    (void)state;
    for (int mix = 0; mix < 8; mix++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, 5, 1), p = qp_affine(x, 1, 0);
        qp_tensor a = qp_slice(p, 0, 0, 3, 1), b = qp_slice(p, 0, 2, 5, 1), c = qp_slice(p, 0, 0, 5, 2);
        qp_tensor y = use(a, 1, mix & 1);
        y = qp_add(y, use(b, 10, mix & 2));
        y = qp_add(y, use(c, 100, mix & 4));
        qp_backward(y);
        EXPECT(qp_grad_of(x), 101, 1, 111, 10, 110);
        close_context(ctx);
    }
}

/* One slice, several contributions of both kinds in every order, the parent used as well. */
static void mixed_contributions(void **state) {
    (void)state;
    for (int mix = 0; mix < 64; mix++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, 4, 1), p = qp_affine(x, 1, 0);
        qp_tensor early = use(p, 1000, mix & 1);
        qp_tensor s = qp_slice(p, 0, 1, 3, 1);
        qp_tensor y = use(s, 1, mix & 2);
        y = qp_add(y, use(p, 2000, mix & 4));
        y = qp_add(y, use(s, 10, mix & 8));
        qp_tensor v = qp_reshape(s, SHAPE(2, 1));
        y = qp_add(y, use(v, 100, mix & 16));
        y = qp_add(y, use(s, 5, mix & 32));
        qp_backward(qp_add(y, early));
        EXPECT(qp_grad_of(x), 3000, 3116, 3116, 3000);
        close_context(ctx);
    }
}

static void slices_of_a_leaf_accumulate(void **state) {
    (void)state;
    for (int mix = 0; mix < 4; mix++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, 4, 1);
        qp_backward(use(x, 1, mix & 1));
        qp_tensor held = mix & 2 ? qp_grad_of(x) : QP_NONE;
        for (int i = 0; i < 2; i++) {
            qp_scope  scope = qp_enter(ctx);
            qp_tensor y = use(qp_slice(x, 0, 0, 2, 1), 10, true);
            qp_backward(qp_add(y, use(qp_slice(x, 0, 3, 4, 1), 100, false)));
            qp_leave(scope);
        }
        EXPECT(qp_grad_of(x), 21, 21, 1, 201);
        if (!qp_is_none(held)) assert_int_equal(qp_count(held), 4);
        close_context(ctx);
    }
}

static void expanded_is_no_region(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 2, 1), wide = qp_expand(x, SHAPE(3, 2));
    qp_tensor y = use(qp_slice(wide, 0, 0, 2, 1), 1, true);
    qp_backward(qp_add(y, use(wide, 10, true)));
    EXPECT(qp_grad_of(x), 32, 32);
    close_context(ctx);
}

/* The value's strides allow the reshape, those of its gradient's buffer do not. */
static void reshape_of_a_strided_leaf(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor leaf = qp_transpose(qp_reshape(counting(ctx, 6, 0), SHAPE(2, 3)), 0, 1); /* [3, 2] */
    qp_require_grad(leaf, true);
    qp_tensor line = qp_reshape(qp_transpose(leaf, 0, 1), SHAPE(6));
    EXPECT(line, 0, 1, 2, 3, 4, 5);
    qp_tensor head = qp_slice(line, 0, 0, 2, 1);
    qp_backward(qp_add(use(line, 1, true), use(head, 10, true)));
    EXPECT(qp_grad_of(leaf), 11, 1, 11, 1, 1, 1);
    assert_non_null(qp_data_of(qp_grad_of(leaf)));
    close_context(ctx);
}

static void empty_slices(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1);
    qp_tensor y = use(qp_slice(x, 0, 2, 2, 1), 1, true);
    qp_backward(qp_add(y, use(qp_slice(x, 0, 3, 9, 1), 1, false)));
    EXPECT(qp_grad_of(x), 0, 0, 0);
    close_context(ctx);
}

/* A region's buffer may be handed on by a rule that returns its dout; later contributions to
 * the parent must not reach that copy. */
static void handed_on_gradients(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1), w = parameter(ctx, 3, 1);
    qp_tensor p = qp_add(x, w); /* dx and dw are the same tensor */
    qp_tensor a = qp_affine(x, 1, 0), s = qp_slice(p, 0, 0, 2, 1);
    qp_backward(qp_add(qp_add(use(s, 1, true), use(a, 10, true)), use(qp_slice(x, 0, 2, 3, 1), 100, true)));
    EXPECT(qp_grad_of(x), 11, 11, 110);
    EXPECT(qp_grad_of(w), 1, 1, 0);
    close_context(ctx);
}

/* Chains of views may be longer than the stack is deep. */
static void many_views(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 4, 1), y = x;
    for (int i = 0; i < 100000; i++) y = i % 2 ? qp_reshape(y, SHAPE(4)) : qp_reshape(y, SHAPE(2, 2));
    qp_backward(qp_add(use(qp_slice(y, 0, 1, 2, 1), 1, true), use(qp_slice(y, 0, 0, 3, 2), 10, true)));
    EXPECT(qp_grad_of(x), 10, 1, 10, 0);
    close_context(ctx);
}

/* Attention on q, k and v that are slices of one leaf, against a leaf for each. */
static void attention_of_slices(void **state) {
    (void)state;
    enum { B = 2, T = 5, H = 2, K = 4, N = B * T * H * K };
    for (int wide = 0; wide < 2; wide++) {
        qp_ctx   *ctx = open_context();
        qp_tensor all = qp_cast(qp_randn(ctx, QP_F32, SHAPE(B, T, 3 * H * K)), wide ? QP_F64 : QP_F32), p[3],
                  own[3];
        qp_tensor w = qp_cast(qp_randn(ctx, QP_F32, SHAPE(B, T, H, K)), qp_dtype_of(all));
        for (int i = 0; i < 3; i++) {
            own[i] = qp_reshape(qp_slice(all, 2, i * H * K, (i + 1) * H * K, 1), SHAPE(B, T, H, K));
            own[i] = qp_detach(qp_contiguous(own[i]));
            qp_require_grad(own[i], true);
        }
        qp_require_grad(all, true);
        for (int i = 0; i < 3; i++)
            p[i] = qp_reshape(qp_slice(all, 2, i * H * K, (i + 1) * H * K, 1), SHAPE(B, T, H, K));
        qp_backward(total(qp_mul(qp_attention(p[0], p[1], p[2], (qp_mask){.causal = true}, 0), w)));
        qp_backward(total(qp_mul(qp_attention(own[0], own[1], own[2], (qp_mask){.causal = true}, 0), w)));
        for (int i = 0; i < 3; i++) {
            double    ours[N], expected[N];
            qp_tensor d =
                qp_reshape(qp_slice(qp_grad_of(all), 2, i * H * K, (i + 1) * H * K, 1), SHAPE(B, T, H, K));
            assert_int_equal(qp_read(d, QP_F64, ours, N), QP_OK);
            assert_int_equal(qp_read(qp_grad_of(own[i]), QP_F64, expected, N), QP_OK);
            for (int k = 0; k < N; k++) assert_true(fabs(ours[k] - expected[k]) <= (wide ? 1e-13 : 1e-5));
        }
        close_context(ctx);
    }
}

/* Random programs of views and uses; each use's place is known through a value of its own. */
static void random_programs(void **state) {
    (void)state;
    enum { N = 24, VIEWS = 12, USES = 10 };
    srand(11);
    for (int program = 0; program < 400; program++) {
        qp_ctx   *ctx = open_context();
        qp_tensor x = parameter(ctx, N, 0), views[VIEWS], y = QP_NONE;
        double    expected[N] = {0};
        views[0] = rand() % 2 ? qp_affine(x, 1, 0) : qp_alias(x);
        for (int i = 1; i < VIEWS; i++) {
            qp_tensor v = views[rand() % i];
            int       ndim = qp_ndim(v), axis = rand() % ndim, kind = rand() % 4;
            int64_t   size = qp_size(v, axis), start = rand() % (size + 1);
            if (kind == 0) v = qp_reshape(v, SHAPE(qp_count(v)));
            else if (kind == 1 && ndim == 1 && size % 3 == 0) v = qp_reshape(v, SHAPE(3, size / 3));
            else if (kind == 2 && ndim == 2) v = qp_transpose(v, 0, 1);
            else if (size) v = qp_slice(v, axis, start, start + 1 + rand() % size, 1 + rand() % 2);
            views[i] = v;
        }
        for (int i = 0; i < USES; i++) {
            qp_tensor v = views[rand() % VIEWS];
            double    scale = 1 + rand() % 9, at[N];
            int64_t   n = qp_count(v);
            assert_int_equal(qp_read(v, QP_F64, at, n), QP_OK); /* elements are their own places */
            for (int64_t k = 0; k < n; k++) expected[(int)at[k]] += scale;
            qp_tensor t = use(v, scale, rand() % 2);
            y = i ? qp_add(y, t) : t;
        }
        qp_backward(y);
        expect_values(qp_grad_of(x), N, expected);
        close_context(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_land_in_place),        cmocka_unit_test(disjoint_slices_of_a_product),
        cmocka_unit_test(overlapping_slices),          cmocka_unit_test(mixed_contributions),
        cmocka_unit_test(slices_of_a_leaf_accumulate), cmocka_unit_test(expanded_is_no_region),
        cmocka_unit_test(reshape_of_a_strided_leaf),   cmocka_unit_test(empty_slices),
        cmocka_unit_test(handed_on_gradients),         cmocka_unit_test(many_views),
        cmocka_unit_test(attention_of_slices),         cmocka_unit_test(random_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
