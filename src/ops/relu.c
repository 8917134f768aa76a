/* y = max(x, 0).   dx = dy where y > 0. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_select(vf_lt(x, (vf){0}), (vf){0}, x))
QK_BINARY(grad_run, vf_select(vf_gt(x, (vf){0}), y, (vf){0}))

QP_KERNEL(relu) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(relu_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_relu_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] < 0 ? 0 : x[0];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[0] > 0 ? x[1] : 0;
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(relu_grad, NULL, r->out[0], r->dout[0]); }

static const qp_sample samples[] = {{.in = "x[3,5]"}, {.in = "d[31]"},     {.in = "x[]"},
                                    {.in = "x[0,4]"}, {.in = "x[2,3,35]"}, {0}};

QP_OP(relu) = {.name = "relu",
               .source = "torch.relu",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .saves = QP_SAVE_OUT(0),
               .plain = plain,
               .backward = backward,
               .elementwise = true,
               .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[] x[]"}, {.in = "x[67] x[67]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(relu_grad) = {.name = "relu_grad",
                    .source = "backward of relu",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .plain = grad_plain,
                    .elementwise = true,
                    .samples = grad_samples};

qp_tensor qp_relu(qp_tensor x) { return QP_CALL(relu, NULL, x); }
#endif
