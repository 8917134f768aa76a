/* y = tanh x.   dx = dy (1 - y^2). */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_tanh(x))
QK_BINARY(grad_run, y *vf_fma(-x, x, vf_set1(1)))

QP_KERNEL(tanh) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(tanh_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_tanh_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return tanh(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[1] * (1 - x[0] * x[0]);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(tanh_grad, NULL, r->out[0], r->dout[0]); }

QP_OP(tanh) = {.name = "tanh",
               .source = "torch.tanh",
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

QP_OP(tanh_grad) = {.name = "tanh_grad",
                    .source = "backward of tanh",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .plain = grad_plain,
                    .elementwise = true,
                    .samples = grad_samples};

qp_tensor qp_tanh(qp_tensor x) { return QP_CALL(tanh, NULL, x); }
#endif
