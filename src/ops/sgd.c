/* In place: SGD with momentum (torch.optim.SGD).
 *
 *   g = clip g + wd w;  b = momentum b + g;  w = w - lr (nesterov ? g + momentum b : b)
 *
 * Inputs: w, b, g and the numbers of this step [lr, momentum, wd, nesterov, clip]. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    float       *w, *b;
    const float *g, *h;
} update;

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const update *u = arg;
    vf            rate = vf_set1(u->h[0]), momentum = vf_set1(u->h[1]), decay = vf_set1(u->h[2]), clip = vf_set1(u->h[4]);
    (void)worker;
    for (int64_t i = begin; i < end; i += VF_LANES) {
        int n = end - i < VF_LANES ? (int)(end - i) : VF_LANES;
        vf  w = vf_load_n(u->w + i, n), g = vf_fma(decay, w, vf_load_n(u->g + i, n) * clip);
        vf  b = vf_fma(momentum, vf_load_n(u->b + i, n), g);
        vf_store_n(u->b + i, b, n);
        vf_store_n(u->w + i, w - rate * (u->h[3] != 0 ? vf_fma(momentum, b, g) : b), n);
    }
}

static void run(const qp_call *c) {
    update u = {c->out[0].data, c->in[1].data, c->in[2].data, c->in[3].data};
    qp_parallel(c->exec, qp_view_count(&c->out[0]), QK_GRAIN, piece, &u);
}

QP_KERNEL(sgd) = {run, QP_FLAT, NULL};

#if QP_BODY
static void plain(const qp_call *c) {
    double h[5];
    for (int i = 0; i < 5; i++) h[i] = qp_load(&c->in[3], qp_view_offset(&c->in[3], i));
    for (int64_t i = 0; i < qp_view_count(&c->out[0]); i++) {
        int64_t at[3];
        double  x[3];
        for (int j = 0; j < 3; j++) x[j] = qp_load(&c->in[j], at[j] = qp_view_offset(&c->in[j], i));
        double g = x[2] * h[4] + h[2] * x[0], b = h[1] * x[1] + g;
        qp_store(&c->in[1], at[1], b);
        qp_store(&c->out[0], at[0], x[0] - h[0] * (h[3] != 0 ? g + h[1] * b : b));
    }
}

static void shape(qp_call *c) {
    for (int i = 1; i < 3; i++)
        if (qp_view_count(&c->in[i]) != qp_view_count(&c->in[0]))
            qp_call_fail(c, QP_ERR_SHAPE, "input %d has %lld elements, the parameter %lld", i,
                         (long long)qp_view_count(&c->in[i]), (long long)qp_view_count(&c->in[0]));
    if (qp_view_count(&c->in[3]) != 5) qp_call_fail(c, QP_ERR_SHAPE, "expected 5 numbers of the step");
    c->out[0] = c->in[0];
}

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5] x[3,5] p[5]"}, {.in = "x[67] x[67] x[67] p[5]"}, {.in = "x[0] x[0] x[0] p[5]"}, {0}};

QP_OP(sgd) = {.name = "sgd",
              .source = "torch.optim.SGD",
              .min_in = 4,
              .max_in = 4,
              .nout = 1,
              .shape = shape,
              .plain = plain,
              .mutates = QP_SAVE_IN(0) | QP_SAVE_IN(1),
              .samples = samples};
#endif
