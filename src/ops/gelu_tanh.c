/* y = x / (1 + e^-u), u = sqrt(8 / pi) (x + 0.044715 x^3), which is x (1 + tanh(u / 2)) / 2.
 * dx = dy (s + x s (1 - s) u'), s the sigmoid of u. arXiv:1606.08415 */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, qk_gelu_tanh(x))
QK_BINARY(grad_run, y *qk_gelu_tanh_slope(x))

QP_KERNEL(gelu_tanh) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(gelu_tanh_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_gelu_tanh_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    double u = sqrt(2 / atan(1)) * (x[0] + 0.044715 * x[0] * x[0] * x[0]);
    return x[0] / (1 + exp(-u));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    double u = sqrt(2 / atan(1)) * (x[0] + 0.044715 * x[0] * x[0] * x[0]), s = 1 / (1 + exp(-u));
    double du = sqrt(2 / atan(1)) * (1 + 3 * 0.044715 * x[0] * x[0]);
    return x[1] * (s + x[0] * s * (1 - s) * du);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(gelu_tanh_grad, NULL, r->in[0], r->dout[0]); }

QP_OP(gelu_tanh) = {.name = "gelu_tanh",
                    .source = "torch.nn.functional.gelu(approximate=\"tanh\")",
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

QP_OP(gelu_tanh_grad) = {.name = "gelu_tanh_grad",
                         .source = "backward of gelu_tanh",
                         .min_in = 2,
                         .max_in = 2,
                         .nout = 1,
                         .plain = grad_plain,
                         .elementwise = true,
                         .samples = grad_samples};

qp_tensor qp_gelu_tanh(qp_tensor x) { return QP_CALL(gelu_tanh, NULL, x); }
#endif
