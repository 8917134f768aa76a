/* z = the larger of x and y, NaN if either is, broadcast.   The larger one gets dz, equal ones
 * dz / 2 each, summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, vf_select(vf_eq(x, x), vf_max(x, y), x)) /* vf_max gives the second one if either is NaN */

QP_KERNEL(maximum) = {run, QP_ELEMENTWISE, NULL};

static void grad_row(const qp_call *c, char *const *p, int64_t n) {
    float       *dx = (float *)p[0];
    const float *x = (const float *)p[1], *y = (const float *)p[2], *dz = (const float *)p[3];
    int64_t so = QK_LAST(c->out[0]), sx = QK_LAST(c->in[0]), sy = QK_LAST(c->in[1]), sz = QK_LAST(c->in[2]);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        vf  a = qk_get(x, sx, i, m), b = qk_get(y, sy, i, m), d = qk_get(dz, sz, i, m), zero = {0};
        qk_put(dx, so, i, vf_select(vf_gt(a, b), d, vf_select(vf_eq(a, b), 0.5f * d, zero)), m);
    }
}
static void grad_run(const qp_call *c) { qk_elementwise(c, grad_row); }

QP_KERNEL(maximum_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_maximum_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] > x[1] || x[0] != x[0] ? x[0] : x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    (void)attr;
    return x[0] > x[1] ? x[2] : x[0] == x[1] ? 0.5 * x[2] : 0;
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) {
    for (int i = 0; i < 2; i++) {
        if (!r->need[i]) continue;
        qp_tensor full = QP_CALL(maximum_grad, NULL, r->in[i], r->in[1 - i], r->dout[0]);
        r->din[i] = qp_sum_to(full, r->in[i]);
    }
}

QP_OP(maximum) = {.name = "maximum",
                  .source = "torch.maximum",
                  .min_in = 2,
                  .max_in = 2,
                  .nout = 1,
                  .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
                  .plain = plain,
                  .backward = backward,
                  .elementwise = true,
                  .samples = qp_binary_samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5] x[3,5]"}, {.in = "i3[40] i3[40] i9[40]"}, {.in = "x[4,1,5] x[3,1] x[4,3,5]"}, {0}};

/* The part of dz that goes to x; with x and y exchanged it is minimum's. */
QP_OP(maximum_grad) = {.name = "maximum_grad",
                       .source = "backward of maximum and minimum",
                       .min_in = 3,
                       .max_in = 3,
                       .nout = 1,
                       .plain = grad_plain,
                       .elementwise = true,
                       .samples = grad_samples};

qp_tensor qp_maximum(qp_tensor x, qp_tensor y) { return QP_CALL(maximum, NULL, x, y); }
#endif
