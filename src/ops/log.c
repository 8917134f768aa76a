/* y = log x.   dx = dy / x. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_log(x))

QP_KERNEL(log) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return log(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_div(r->dout[0], r->in[0]); }

QP_OP(log) = {.name = "log",
              .source = "torch.log",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .saves = QP_SAVE_IN(0),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = qp_unary_positive_samples};

qp_tensor qp_log(qp_tensor x) { return QP_CALL(log, NULL, x); }
#endif
