/* Parameters: their elements come when they are needed, and are set from tensors that fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../expect.h"
#include "quipu/quipu.h"

static qp_ctx *open_ctx(void) { return qp_open((qp_options){.threads = 1, .seed = 7}); }

static void elements_come_later(void **state) {
    (void)state;
    qp_ctx    *ctx = open_ctx();
    size_t     before = qp_stats_of(ctx).bytes;
    qp_module *m = qp_module_new(ctx, NULL, "");
    qp_tensor  huge = qp_param(m, "huge", "normal:1", 2, (int64_t[]){1 << 30, 1 << 20});
    qp_tensor  small = qp_param(m, "small", "constant:3", 1, (int64_t[]){4});
    expect_ok(ctx);
    assert_true(qp_stats_of(ctx).bytes - before < 4096);
    assert_int_equal(qp_param_count(m, true), ((int64_t)1 << 50) + 4);
    qp_neg(small);
    expect_error(ctx, QP_ERR_STATE, "neg: input 0 has no elements");
    qp_module_fill(m);
    expect_error(ctx, QP_ERR_MEMORY, "");
    (void)huge;
    qp_close(ctx);
}

static void elements_are_set(void **state) {
    (void)state;
    qp_ctx    *ctx = open_ctx();
    qp_module *m = qp_module_new(ctx, NULL, "");
    qp_tensor  p = qp_param(m, "p", "zeros", 2, (int64_t[]){2, 3}),
               q = qp_param(m, "q", "ones", 1, (int64_t[]){3});
    float      x[6] = {1, 2, 3, 4, 5, 6};
    qp_tensor  value = qp_attach(ctx, QP_F32, 2, (int64_t[]){2, 3}, x, true, NULL, NULL);
    assert_int_equal(qp_param_set(p, value), QP_OK);
    assert_ptr_equal(qp_data_of(p), x);
    qp_module_fill(m); /* what has elements keeps them */
    assert_true(qp_item(qp_sum(p, 0, NULL, false)) == 21 && qp_item(qp_sum(q, 0, NULL, false)) == 3);
    assert_int_equal(qp_param_set(p, qp_cast(value, QP_BF16)), QP_OK);
    assert_int_equal(qp_dtype_of(p), QP_BF16);
    expect_ok(ctx);
    assert_int_equal(qp_param_set(p, qp_detach(q)), QP_ERR_SHAPE);
    expect_error(ctx, QP_ERR_SHAPE, "");
    assert_int_equal(qp_param_set(q, qp_arange(ctx, QP_I64, 3)), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE, "i64");
    qp_module_new(ctx, m, "a");
    assert_null(qp_module_new(ctx, m, "a"));
    expect_error(ctx, QP_ERR_ARGUMENT, "two children named a");
    char name[200] = {0};
    memset(name, 'n', sizeof name - 1);
    assert_null(qp_module_new(ctx, m, name));
    expect_error(ctx, QP_ERR_ARGUMENT, "too long");
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(elements_come_later),
                                       cmocka_unit_test(elements_are_set)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
