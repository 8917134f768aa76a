/* z = (x == y) as bool, broadcast. No gradient. */
#include "kernels/compare.h"
#include "ops/compare.h"

QK_COMPARE(run, ==)

QP_KERNEL(eq) = {run, QP_ELEMENTWISE, qk_compare_takes};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] == x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {COMPARE_SAMPLES, {0}};

QP_OP(eq) = {.name = "eq",
             .source = "torch.eq",
             .min_in = 2,
             .max_in = 2,
             .nout = 1,
             .shape = compare_shape,
             .plain = plain,
             .elementwise = true,
             .samples = samples};

qp_tensor qp_eq(qp_tensor x, qp_tensor y) { return QP_CALL(eq, NULL, x, y); }
#endif
