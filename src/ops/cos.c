/* y = cos x.   dx = -dy sin x. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_cos(x))

QP_KERNEL(cos) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return cos(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_neg(qp_mul(r->dout[0], qp_sin(r->in[0]))); }

QP_OP(cos) = {.name = "cos",
              .source = "torch.cos",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_IN(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_samples};

qp_tensor qp_cos(qp_tensor x) { return QP_CALL(cos, NULL, x); }
#endif
