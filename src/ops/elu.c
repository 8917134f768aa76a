/* y = x where x > 0, e^x - 1 elsewhere.   dx = dy, or dy (y + 1). arXiv:1511.07289 */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_select(vf_gt(x, (vf){0}), x, vf_expm1(x)))
QK_BINARY(grad_run, vf_select(vf_gt(x, (vf){0}), y, y *(x + 1.0f)))

QP_KERNEL(elu) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(elu_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_elu_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] > 0 ? x[0] : expm1(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[0] > 0 ? x[1] : x[1] * (x[0] + 1);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(elu_grad, NULL, r->out[0], r->dout[0]); }

QP_OP(elu) = {.name = "elu",
              .source = "torch.nn.functional.elu",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_OUT(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[] x[]"}, {.in = "x[67] x[67]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(elu_grad) = {.name = "elu_grad",
                   .source = "backward of elu",
                   .min_in = 2,
                   .max_in = 2,
                   .nout = 1,
                   .plain = grad_plain,
                   .elementwise = true,
                   .samples = grad_samples};

qp_tensor qp_elu(qp_tensor x) { return QP_CALL(elu, NULL, x); }
#endif
