/* Dropout by its numbers: kernel and definition share the mask and the scale, so that comparing them says nothing of
 * either. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { N = 200000 };

static float drop(qp_ctx *ctx, double p, float y[N], float dx[N]) {
    int64_t   shape = N;
    qp_scope  s = qp_enter(ctx);
    int64_t   zeros = 0;
    qp_tensor x = qp_full(ctx, QP_F32, 1, &shape, 3), ones = qp_full(ctx, QP_F32, 1, &shape, 1), out, grad;
    qp_require_grad(x, true);
    out = qp_dropout(x, p);
    qp_grad(1, &out, 1, &x, &grad, (qp_grad_options){.seeds = &ones});
    if (qp_read(out, QP_F32, y, N) != QP_OK || qp_read(grad, QP_F32, dx, N) != QP_OK)
        fail_msg("%s", qp_error(ctx));
    for (int i = 0; i < N; i++) zeros += y[i] == 0;
    qp_leave(s);
    return (float)zeros / N;
}

/* What is left is x / (1 - p), as many as p says (within five deviations), and the gradient has the same mask. */
static void shares(void **state) {
    static float        y[N], dx[N], again[N];
    static const double ps[] = {0, 0.1, 0.5, 0.75};
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    for (int k = 0; k < 4; k++) {
        double share = drop(ctx, ps[k], y, dx);
        assert_true(fabs(share - ps[k]) <= 5 * sqrt(ps[k] * (1 - ps[k]) / N));
        for (int i = 0; i < N; i++) {
            assert_true(y[i] == 0 ? ps[k] > 0 : fabs(y[i] - 3 / (1 - ps[k])) < 1e-5);
            assert_true(fabs(dx[i] - y[i] / 3) < 1e-6);
        }
        drop(ctx, ps[k], again, dx);
        int64_t differ = 0;
        for (int i = 0; i < N; i++) differ += again[i] != y[i];
        double chance = 2 * ps[k] * (1 - ps[k]); /* another mask */
        assert_true(fabs((double)differ / N - chance) <= 5 * sqrt(chance * (1 - chance) / N));
    }
    assert_true(drop(ctx, 1, y, dx) == 1);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shares)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
