/* y = -x.   dx = -dy. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, -x)

QP_KERNEL(neg) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return -x[0];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_neg(r->dout[0]); }

QP_OP(neg) = {.name = "neg",
              .source = "torch.neg",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_samples};

qp_tensor qp_neg(qp_tensor x) { return QP_CALL(neg, NULL, x); }
#endif
