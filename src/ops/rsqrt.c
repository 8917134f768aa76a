/* y = 1 / sqrt x.   dx = -dy y^3 / 2. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, 1.0f / vf_sqrt(x))
QK_BINARY(grad_run, -0.5f * y * (x * x * x))

QP_KERNEL(rsqrt) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(rsqrt_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_rsqrt_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return 1 / sqrt(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return -0.5 * x[1] * x[0] * x[0] * x[0];
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(rsqrt_grad, NULL, r->out[0], r->dout[0]); }

QP_OP(rsqrt) = {.name = "rsqrt",
                .source = "torch.rsqrt",
                .min_in = 1,
                .max_in = 1,
                .nout = 1,
                .saves = QP_SAVE_OUT(0),
                .plain = plain,
                .backward = backward,
                .elementwise = true,
                .samples = qp_unary_positive_samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[] x[]"}, {.in = "x[67] x[67]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(rsqrt_grad) = {.name = "rsqrt_grad",
                     .source = "backward of rsqrt",
                     .min_in = 2,
                     .max_in = 2,
                     .nout = 1,
                     .plain = grad_plain,
                     .elementwise = true,
                     .samples = grad_samples};

qp_tensor qp_rsqrt(qp_tensor x) { return QP_CALL(rsqrt, NULL, x); }
#endif
