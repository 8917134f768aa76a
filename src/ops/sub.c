/* z = x - y, broadcast.   dx = dz, dy = -dz, each summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, x - y)

QP_KERNEL(sub) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] - x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    if (r->need[0]) r->din[0] = qp_sum_to(r->dout[0], r->in[0]);
    if (r->need[1]) r->din[1] = qp_neg(qp_sum_to(r->dout[0], r->in[1]));
}

QP_OP(sub) = {.name = "sub",
              .source = "torch.sub",
              .min_in = 2,
              .max_in = 2,
              .nout = 1,
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_binary_samples};

qp_tensor qp_sub(qp_tensor x, qp_tensor y) { return QP_CALL(sub, NULL, x, y); }
#endif
