/* y = e^x.   dx = dy y. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_exp(x))

QP_KERNEL(exp) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return exp(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_mul(r->dout[0], r->out[0]); }

QP_OP(exp) = {.name = "exp",
              .source = "torch.exp",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_OUT(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_samples};

qp_tensor qp_exp(qp_tensor x) { return QP_CALL(exp, NULL, x); }
#endif
