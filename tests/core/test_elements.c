/* Attached memory, reading and writing, elements that come later, things that a context owns. */
#include "support.h"

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
    for (qp_dtype t = 0; t < QP_Q8_0; t++) {
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
    assert_int_equal(qpi_set_storage(p, qp_zeros(ctx, QP_F32, SHAPE(2))),
                     QP_ERR_STATE); /* holds an f64 gradient */
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
        cmocka_unit_test(attached_memory),  cmocka_unit_test(attach_that_fails_releases),
        cmocka_unit_test(read_only_memory), cmocka_unit_test(reading_and_writing),
        cmocka_unit_test(copies_in_place),  cmocka_unit_test(random_position),
        cmocka_unit_test(no_elements_yet),  cmocka_unit_test(elements_given_later),
        cmocka_unit_test(elements_refused), cmocka_unit_test(owned_things),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
