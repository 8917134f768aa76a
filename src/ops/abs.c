/* y = |x|.   dx = dy sign x, 0 at 0. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_abs(x))
QK_BINARY(grad_run, vf_select(vf_eq(x, (vf){0}), (vf){0}, (vf)((vu)y ^ ((vu)x & 0x80000000u))))

QP_KERNEL(abs) = {run, QP_ELEMENTWISE, NULL};
QP_KERNEL(abs_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_abs_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return fabs(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[0] > 0 ? x[1] : x[0] < 0 ? -x[1] : 0;
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) { r->din[0] = QP_CALL(abs_grad, NULL, r->in[0], r->dout[0]); }

static const qp_sample samples[] = {{.in = "x[3,5]"}, {.in = "d[31]"},     {.in = "x[]"},
                                    {.in = "x[0,4]"}, {.in = "x[2,3,35]"}, {0}};

QP_OP(abs) = {.name = "abs",
              .source = "torch.abs",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_IN(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[] x[]"}, {.in = "x[67] x[67]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(abs_grad) = {.name = "abs_grad",
                   .source = "backward of abs",
                   .min_in = 2,
                   .max_in = 2,
                   .nout = 1,
                   .plain = grad_plain,
                   .elementwise = true,
                   .samples = grad_samples};

qp_tensor qp_abs(qp_tensor x) { return QP_CALL(abs, NULL, x); }
#endif
