/* In place, one pass over memory: AdamW (arXiv:1711.05101).
 *
 *   g = clip g;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   w = w - lr wd w - (lr / c1) m / (sqrt(v) / sqrt(c2) + eps),   c1 = 1 - b1^t, c2 = 1 - b2^t
 *
 * Inputs: w, m, v, g and the numbers of this step, which are data, not attributes:
 * [lr, b1, b2, eps, wd, c1, sqrt(c2), clip]. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    float       *w, *m, *v;
    const float *g, *h;
} update;

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const update *u = arg;
    const float  *h = u->h;
    vf            b1 = vf_set1(h[1]), b2 = vf_set1(h[2]), a1 = vf_set1(1 - h[1]), a2 = vf_set1(1 - h[2]);
    vf            eps = vf_set1(h[3]), keep = vf_set1(1 - h[0] * h[4]), rate = vf_set1(h[0] / h[5]), clip = vf_set1(h[7]);
    vf            root = vf_set1(1 / h[6]);
    (void)worker;
    for (int64_t i = begin; i < end; i += VF_LANES) {
        int n = end - i < VF_LANES ? (int)(end - i) : VF_LANES;
        vf  g = vf_load_n(u->g + i, n) * clip;
        vf  m = vf_fma(b1, vf_load_n(u->m + i, n), a1 * g);
        vf  v = vf_fma(b2, vf_load_n(u->v + i, n), a2 * g * g);
        vf  w = vf_load_n(u->w + i, n) * keep - rate * m / vf_fma(vf_sqrt(v), root, eps);
        vf_store_n(u->m + i, m, n);
        vf_store_n(u->v + i, v, n);
        vf_store_n(u->w + i, w, n);
    }
}

static void run(const qp_call *c) {
    update u = {c->out[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data};
    qp_parallel(c->exec, qp_view_count(&c->out[0]), QK_GRAIN, piece, &u);
}

QP_KERNEL(adamw) = {run, QP_FLAT, NULL};

#if QP_BODY
static void plain(const qp_call *c) {
    double h[8];
    for (int i = 0; i < 8; i++) h[i] = qp_load(&c->in[4], qp_view_offset(&c->in[4], i));
    for (int64_t i = 0; i < qp_view_count(&c->out[0]); i++) {
        int64_t at[4];
        double  x[4];
        for (int j = 0; j < 4; j++) x[j] = qp_load(&c->in[j], at[j] = qp_view_offset(&c->in[j], i));
        double g = x[3] * h[7], m = h[1] * x[1] + (1 - h[1]) * g, v = h[2] * x[2] + (1 - h[2]) * g * g;
        qp_store(&c->in[1], at[1], m);
        qp_store(&c->in[2], at[2], v);
        qp_store(&c->out[0], at[0], x[0] * (1 - h[0] * h[4]) - h[0] / h[5] * m / (sqrt(v) / h[6] + h[3]));
    }
}

static void shape(qp_call *c) {
    for (int i = 1; i < 4; i++)
        if (qp_view_count(&c->in[i]) != qp_view_count(&c->in[0]))
            qp_call_fail(c, QP_ERR_SHAPE, "input %d has %lld elements, the parameter %lld", i,
                         (long long)qp_view_count(&c->in[i]), (long long)qp_view_count(&c->in[0]));
    if (qp_view_count(&c->in[4]) != 8) qp_call_fail(c, QP_ERR_SHAPE, "expected 8 numbers of the step");
    c->out[0] = c->in[0];
}

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5] p[3,5] x[3,5] p[8]"}, {.in = "x[67] x[67] p[67] x[67] p[8]"}, {.in = "x[0] x[0] p[0] x[0] p[8]"}, {0}};

QP_OP(adamw) = {.name = "adamw",
                .source = "arXiv:1711.05101",
                .min_in = 5,
                .max_in = 5,
                .nout = 1,
                .shape = shape,
                .plain = plain,
                .mutates = QP_SAVE_IN(0) | QP_SAVE_IN(1) | QP_SAVE_IN(2),
                .samples = samples};
#endif
