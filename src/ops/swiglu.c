/* y = silu(gate) up, elementwise.
 * dgate = dy up silu'(gate), dup = dy silu(gate). arXiv:2002.05202 */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

QK_BINARY(run, qk_silu(x) * y)

QP_KERNEL(swiglu) = {run, QP_ELEMENTWISE, NULL};

static inline void slopes(vf gate, vf up, vf dy, vf *dgate, vf *dup) {
    vf s = qk_sigmoid(gate);
    *dgate = dy * up * (s * vf_fma(gate, 1.0f - s, vf_set1(1.0f)));
    *dup = dy * (gate * s);
}

/* Both gradients in one pass. */
static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *c = arg;
    const float   *gate = c->in[0].data, *up = c->in[1].data, *dy = c->in[2].data;
    float         *dgate = c->out[0].data, *dup = c->out[1].data;
    int64_t        i = begin;
    vf             a, b;
    for (; i + VF_LANES <= end; i += VF_LANES) {
        slopes(vf_load(gate + i), vf_load(up + i), vf_load(dy + i), &a, &b);
        vf_store(dgate + i, a);
        vf_store(dup + i, b);
    }
    int n = (int)(end - i);
    if (n == 0) return;
    slopes(vf_load_n(gate + i, n), vf_load_n(up + i, n), vf_load_n(dy + i, n), &a, &b);
    vf_store_n(dgate + i, a, n);
    vf_store_n(dup + i, b, n);
}

static void grad_run(const qp_call *c) {
    qp_parallel(c->exec, qp_view_count(&c->out[0]), QK_GRAIN, grad_piece, (void *)c);
}

QP_KERNEL(swiglu_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
#include "ops/shape.h"

extern const qp_op qp_op_swiglu_grad;

static bool same(const qp_view *a, const qp_view *b) {
    if (a->dtype != b->dtype || a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

/* Every output has the shape of gate, and so has every input. */
static void shape(qp_call *c) {
    char a[96], b[96];
    for (int i = 1; i < c->nin; i++)
        if (!same(&c->in[0], &c->in[i])) {
            qpi_view_describe(&c->in[0], a, sizeof a);
            qpi_view_describe(&c->in[i], b, sizeof b);
            qp_call_fail(c, QP_ERR_SHAPE, "gate is %s, %s is %s: expected the same", a, i == 1 ? "up" : "dy",
                         b);
            return;
        }
    for (int i = 0; i < c->nout; i++) shape_set(c, i, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
}

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[1] * x[0] / (1 + exp(-x[0]));
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void grad_plain(const qp_call *c) {
    int64_t count = qp_view_count(&c->out[0]);
    for (int64_t i = 0; i < count; i++) {
        double x[3];
        for (int j = 0; j < 3; j++) x[j] = qp_load(&c->in[j], qp_view_offset(&c->in[j], i));
        double s = 1 / (1 + exp(-x[0]));
        qp_store(&c->out[0], i, x[2] * x[1] * s * (1 + x[0] * (1 - s)));
        qp_store(&c->out[1], i, x[2] * x[0] * s);
    }
}

static void backward(qp_rule *r) { QP_CALL_MANY(swiglu_grad, NULL, r->din, r->in[0], r->in[1], r->dout[0]); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5]"},       {.in = "x[] x[]"},
                                    {.in = "x[2,3,70] x[2,3,70]"}, {.in = "x[0,4] x[0,4]"},
                                    {.in = "x[37,67] x[37,67]"},   {0}};

QP_OP(swiglu) = {.name = "swiglu",
                 .source = "arXiv:2002.05202, equation 5 without the products",
                 .min_in = 2,
                 .max_in = 2,
                 .nout = 1,
                 .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .elementwise = true,
                 .samples = samples};

static const qp_sample grad_samples[] = {{.in = "x[3,5] x[3,5] x[3,5]"},
                                         {.in = "x[2,3,70] x[2,3,70] x[2,3,70]"},
                                         {.in = "x[0,4] x[0,4] x[0,4]"},
                                         {0}};

QP_OP(swiglu_grad) = {.name = "swiglu_grad",
                      .source = "backward of swiglu",
                      .min_in = 3,
                      .max_in = 3,
                      .nout = 2,
                      .shape = shape,
                      .plain = grad_plain,
                      .samples = grad_samples};

qp_tensor qp_swiglu(qp_tensor gate, qp_tensor up) { return QP_CALL(swiglu, NULL, gate, up); }
#endif
