/* z = the smaller of x and y, NaN if either is, broadcast.   The smaller one gets dz, equal ones
 * dz / 2 each, summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, vf_select(vf_eq(x, x), vf_min(x, y), x)) /* vf_min gives the second one if either is NaN */

QP_KERNEL(minimum) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_maximum_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] < x[1] || x[0] != x[0] ? x[0] : x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    for (int i = 0; i < 2; i++) {
        if (!r->need[i]) continue;
        qp_tensor full = QP_CALL(maximum_grad, NULL, r->in[1 - i], r->in[i], r->dout[0]);
        r->din[i] = qp_sum_to(full, r->in[i]);
    }
}

QP_OP(minimum) = {.name = "minimum",
                  .source = "torch.minimum",
                  .min_in = 2,
                  .max_in = 2,
                  .nout = 1,
                  .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
                  .plain = plain,
                  .backward = backward,
                  .elementwise = true,
                  .samples = qp_binary_samples};

qp_tensor qp_minimum(qp_tensor x, qp_tensor y) { return QP_CALL(minimum, NULL, x, y); }
#endif
