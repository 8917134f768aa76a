/* y = log(1 + e^x).   dx = dy s(x), s the sigmoid. */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, qk_softplus(x))
QK_BINARY(grad_run, y *qk_sigmoid(x))

QP_KERNEL(softplus) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(softplus_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_softplus_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return fmax(x[0], 0) + log1p(exp(-fabs(x[0])));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[1] / (1 + exp(-x[0]));
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(softplus_grad, NULL, r->in[0], r->dout[0]); }

QP_OP(softplus) = {.name = "softplus",
                   .source = "torch.nn.functional.softplus",
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

QP_OP(softplus_grad) = {.name = "softplus_grad",
                        .source = "backward of softplus",
                        .min_in = 2,
                        .max_in = 2,
                        .nout = 1,
                        .plain = grad_plain,
                        .elementwise = true,
                        .samples = grad_samples};

qp_tensor qp_softplus(qp_tensor x) { return QP_CALL(softplus, NULL, x); }
#endif
