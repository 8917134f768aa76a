/* y = 1 / (1 + e^-x).   dx = dy y (1 - y). */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, qk_sigmoid(x))
QK_BINARY(grad_run, y * x * (1.0f - x))

QP_KERNEL(sigmoid) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(sigmoid_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_sigmoid_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return 1 / (1 + exp(-x[0]));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[1] * x[0] * (1 - x[0]);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(sigmoid_grad, NULL, r->out[0], r->dout[0]); }

QP_OP(sigmoid) = {.name = "sigmoid",
                  .source = "torch.sigmoid",
                  .min_in = 1,
                  .max_in = 1,
                  .nout = 1,
                  .saves = QP_SAVE_OUT(0),
                  .plain = plain,
                  .backward = backward,
                  .elementwise = true,
                  .samples = qp_unary_samples};

static const qp_sample grad_samples[] = {
    {.in = "u[3,5] x[3,5]"}, {.in = "u[] x[]"}, {.in = "u[67] x[67]"}, {.in = "u[0] x[0]"}, {0}};

QP_OP(sigmoid_grad) = {.name = "sigmoid_grad",
                       .source = "backward of sigmoid",
                       .min_in = 2,
                       .max_in = 2,
                       .nout = 1,
                       .plain = grad_plain,
                       .elementwise = true,
                       .samples = grad_samples};

qp_tensor qp_sigmoid(qp_tensor x) { return QP_CALL(sigmoid, NULL, x); }
#endif
