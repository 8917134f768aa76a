/* y = x^2.   dx = 2 dy x. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, (x * x))

QP_KERNEL(square) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] * x[0];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_affine(qp_mul(r->dout[0], r->in[0]), 2, 0); }

QP_OP(square) = {.name = "square",
                 .source = "torch.square",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .saves = QP_SAVE_IN(0),
                 .plain = plain,
                 .backward = backward,
                 .elementwise = true,
                 .samples = qp_unary_samples};

qp_tensor qp_square(qp_tensor x) { return QP_CALL(square, NULL, x); }
#endif
