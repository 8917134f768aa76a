/* z = x / y, broadcast.   dx = dz / y, dy = -dz z / y, each summed over the axes it was
 * broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, x / y)

QP_KERNEL(div) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] / x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    qp_tensor dx = qp_div(r->dout[0], r->in[1]);
    if (r->need[0]) r->din[0] = qp_sum_to(dx, r->in[0]);
    if (r->need[1]) r->din[1] = qp_neg(qp_sum_to(qp_mul(dx, r->out[0]), r->in[1]));
}

static const qp_sample samples[] = {{.in = "x[3,5] p[3,5]"}, {.in = "x[4,1,5] p[3,1]"}, {.in = "x[] p[2,3]"},
                                    {.in = "x[0,3] p[3]"},   {.in = "x[67] p[67]"},     {0}};

QP_OP(div) = {.name = "div",
              .source = "torch.div",
              .min_in = 2,
              .max_in = 2,
              .nout = 1,
              .saves = QP_SAVE_IN(1) | QP_SAVE_OUT(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = samples};

qp_tensor qp_div(qp_tensor x, qp_tensor y) { return QP_CALL(div, NULL, x, y); }
#endif
