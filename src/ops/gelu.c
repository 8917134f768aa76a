/* y = x Phi(x), Phi the normal distribution.   dx = dy (Phi(x) + x phi(x)). arXiv:1606.08415 */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, qk_gelu(x))
QK_BINARY(grad_run, y *qk_gelu_slope(x))

QP_KERNEL(gelu) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(gelu_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_gelu_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return 0.5 * x[0] * (1 + erf(x[0] * sqrt(0.5)));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    double density = exp(-0.5 * x[0] * x[0]) / sqrt(8 * atan(1));
    return x[1] * (0.5 * (1 + erf(x[0] * sqrt(0.5))) + x[0] * density);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(gelu_grad, NULL, r->in[0], r->dout[0]); }

QP_OP(gelu) = {.name = "gelu",
               .source = "torch.nn.functional.gelu",
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

QP_OP(gelu_grad) = {.name = "gelu_grad",
                    .source = "backward of gelu",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .plain = grad_plain,
                    .elementwise = true,
                    .samples = grad_samples};

qp_tensor qp_gelu(qp_tensor x) { return QP_CALL(gelu, NULL, x); }
#endif
