/* y = sin x.   dx = dy cos x. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_sin(x))

QP_KERNEL(sin) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return sin(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_mul(r->dout[0], qp_cos(r->in[0])); }

QP_OP(sin) = {.name = "sin",
              .source = "torch.sin",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_IN(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_samples};

qp_tensor qp_sin(qp_tensor x) { return QP_CALL(sin, NULL, x); }
#endif
