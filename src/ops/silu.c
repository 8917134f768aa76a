/* y = x s(x), s the sigmoid.   dx = dy s(x) (1 + x (1 - s(x))). arXiv:1702.03118 */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, qk_silu(x))
QK_BINARY(grad_run, y *qk_silu_slope(x))

QP_KERNEL(silu) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(silu_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_silu_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] / (1 + exp(-x[0]));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    double s = 1 / (1 + exp(-x[0]));
    return x[1] * s * (1 + x[0] * (1 - s));
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(silu_grad, NULL, r->in[0], r->dout[0]); }

QP_OP(silu) = {.name = "silu",
               .source = "torch.nn.functional.silu",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .saves = QP_SAVE_IN(0),
               .plain = plain,
               .backward = backward,
               .elementwise = true,
               .samples = qp_unary_samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[] x[]"}, {.in = "x[67] x[67]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(silu_grad) = {.name = "silu_grad",
                    .source = "backward of silu",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .plain = grad_plain,
                    .elementwise = true,
                    .samples = grad_samples};

qp_tensor qp_silu(qp_tensor x) { return QP_CALL(silu, NULL, x); }
#endif
