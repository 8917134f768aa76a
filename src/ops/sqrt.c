/* y = sqrt x.   dx = dy / (2 y). */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_UNARY(run, vf_sqrt(x))

QP_KERNEL(sqrt) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return sqrt(x[0]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_affine(qp_div(r->dout[0], r->out[0]), 0.5, 0); }

QP_OP(sqrt) = {.name = "sqrt",
               .source = "torch.sqrt",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .saves = QP_SAVE_OUT(0),
               .plain = plain,
               .backward = backward,
               .elementwise = true,
               .samples = qp_unary_positive_samples};

qp_tensor qp_sqrt(qp_tensor x) { return QP_CALL(sqrt, NULL, x); }
#endif
