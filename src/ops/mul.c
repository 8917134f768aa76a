/* z = x y, broadcast.   dx = dz y, dy = dz x, each summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, x *y)

QP_KERNEL(mul) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] * x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    for (int i = 0; i < 2; i++)
        if (r->need[i]) r->din[i] = qp_sum_to(qp_mul(r->dout[0], r->in[1 - i]), r->in[i]);
}

QP_OP(mul) = {.name = "mul",
              .source = "torch.mul",
              .min_in = 2,
              .max_in = 2,
              .nout = 1,
              .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_binary_samples};

qp_tensor qp_mul(qp_tensor x, qp_tensor y) { return QP_CALL(mul, NULL, x, y); }
#endif
