/* What the tests of the core share: contexts that must not fail, values at a glance, and toy
 * ops whose rules do what the library's own never would. */
#ifndef TESTS_CORE_SUPPORT_H
#define TESTS_CORE_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "quipu/quipu.h"

static inline qp_ctx *open_context(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 1});
    assert_non_null(ctx);
    return ctx;
}

static inline void expect_ok(qp_ctx *ctx) {
    if (qp_failed(ctx)) fail_msg("unexpected failure: %s", qp_error(ctx));
}

/* The failure that must have been stored; the context is usable afterwards. */
static inline void expect_error(qp_ctx *ctx, qp_code code) {
    if (qp_error_code(ctx) != code)
        fail_msg("code %d, expected %d: %s", qp_error_code(ctx), code, qp_error(ctx));
    assert_true(strlen(qp_error(ctx)) > 0);
    qp_clear(ctx);
}

static inline void close_context(qp_ctx *ctx) {
    expect_ok(ctx);
    qp_close(ctx);
}

#define SHAPE(...) \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

/* f64 [n]: start, start + 1, .. */
static inline qp_tensor counting(qp_ctx *ctx, int64_t n, double start) {
    double *v = malloc((size_t)(n ? n : 1) * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = start + (double)i;
    qp_tensor t = qp_from(ctx, QP_F64, 1, &n, v);
    free(v);
    return t;
}

static inline qp_tensor parameter(qp_ctx *ctx, int64_t n, double start) {
    qp_tensor t = counting(ctx, n, start);
    qp_require_grad(t, true);
    return t;
}

static inline qp_tensor total(qp_tensor x) { return qp_sum(x, 0, NULL, false); }

static inline void expect_values(qp_tensor t, int64_t n, const double *expected) {
    double *v = malloc((size_t)(n ? n : 1) * sizeof *v);
    assert_false(qp_is_none(t));
    expect_ok(t.ctx);
    assert_int_equal(qp_read(t, QP_F64, v, n), QP_OK);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(v[i] - expected[i]) <= 1e-12 * (1 + fabs(expected[i]))))
            fail_msg("element %lld is %.17g, expected %.17g", (long long)i, v[i], expected[i]);
    free(v);
}
#define EXPECT(t, ...) \
    expect_values(t, (int64_t)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), (double[]){__VA_ARGS__})

/* ---- Toy ops ------------------------------------------------------------------------------ */

static inline double toy_copy_value(const double *x, const void *attr) {
    (void)attr;
    return x[0];
}
static inline void toy_copy(const qp_call *c) { qp_plain_map(c, toy_copy_value); }

/* y = x, the gradient added into place. */
static inline void toy_into_rule(qp_rule *r) {
    r->din[0] = qp_grad_into(r, 0);
    qp_apply(&qp_op_accumulate, 2, (qp_tensor[]){r->din[0], r->dout[0]}, NULL);
}
/* The same with a rule that touches what `saves` does not name. */
static inline void toy_peek_rule(qp_rule *r) { r->din[0] = qp_mul(r->dout[0], r->in[0]); }
/* No gradient at all. */
static inline void toy_silent_rule(qp_rule *r) { (void)r; }
/* A gradient of another shape. */
static inline void toy_wrong_rule(qp_rule *r) { r->din[0] = total(r->dout[0]); }

#define TOY(toy_name, rule) \
    static const qp_op toy_name = {.name = #toy_name, \
                                   .min_in = 1, \
                                   .max_in = 1, \
                                   .nout = 1, \
                                   .plain = toy_copy, \
                                   .backward = rule, \
                                   .elementwise = true}

#endif
