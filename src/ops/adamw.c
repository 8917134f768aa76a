/* In place, one pass over the memory of a list of parameters: AdamW (arXiv:1711.05101).
 *
 *   g = clip g;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   w = w - lr wd w - (lr / c1) m / (sqrt(v) / sqrt(c2) + eps),   c1 = 1 - b1^t, c2 = 1 - b2^t
 *
 * Inputs, for each parameter: w, m, v, g and the numbers of this step, which are data, not
 * attributes: [lr, b1, b2, eps, wd, c1, sqrt(c2), clip]. */
#include "kernels/elementwise.h"
#include "kernels/list.h"
#include "ops/list.h"
#include "ops/op.h"

enum { W, M, V, G, NUMBERS, GROUP };
#define MOST 12 /* parameters of a call */

typedef struct {
    const qp_call *c;
    qk_list        list;
} job;

typedef struct {
    float       *w, *m, *v;
    const float *g;
    vf           b1, b2, a1, a2, eps, keep, rate, clip, root;
} update;

static inline void lanes(const update *u, int64_t i, int n) {
    vf g = qk_get(u->g, 1, i, n) * u->clip;
    vf m = vf_fma(u->b1, qk_get(u->m, 1, i, n), u->a1 * g);
    vf v = vf_fma(u->b2, qk_get(u->v, 1, i, n), u->a2 * g * g);
    vf w = qk_get(u->w, 1, i, n) * u->keep - u->rate * m / vf_fma(vf_sqrt(v), u->root, u->eps);
    qk_put(u->m, 1, i, m, n);
    qk_put(u->v, 1, i, v, n);
    qk_put(u->w, 1, i, w, n);
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    i, stop;
    (void)end;
    (void)worker;
    const qp_view *in = &j->c->in[qk_list_piece(&j->list, begin, &i, &stop) * GROUP];
    const float   *h = in[NUMBERS].data;
    update         u = {
        in[W].data,           in[M].data,        in[V].data,        in[G].data,    vf_set1(h[1]),
        vf_set1(h[2]),        vf_set1(1 - h[1]), vf_set1(1 - h[2]), vf_set1(h[3]), vf_set1(1 - h[0] * h[4]),
        vf_set1(h[0] / h[5]), vf_set1(h[7]),     vf_set1(1 / h[6])};
    for (; i + VF_LANES <= stop; i += VF_LANES) lanes(&u, i, VF_LANES);
    if (i < stop) lanes(&u, i, (int)(stop - i));
}

static void run(const qp_call *c) {
    job j = {c, qk_list_of(c, W, GROUP)};
    qp_parallel(c->exec, j.list.first[j.list.n], 1, piece, &j);
}

QP_KERNEL(adamw) = {run, QP_FLAT, NULL};

#if QP_BODY
static void plain_one(const qp_view *in) {
    double h[8];
    for (int i = 0; i < 8; i++) h[i] = qp_load(&in[NUMBERS], qp_view_offset(&in[NUMBERS], i));
    for (int64_t i = 0; i < qp_view_count(&in[W]); i++) {
        int64_t at[4];
        double  x[4];
        for (int j = 0; j < 4; j++) x[j] = qp_load(&in[j], at[j] = qp_view_offset(&in[j], i));
        double g = x[G] * h[7], m = h[1] * x[M] + (1 - h[1]) * g, v = h[2] * x[V] + (1 - h[2]) * g * g;
        qp_store(&in[M], at[M], m);
        qp_store(&in[V], at[V], v);
        qp_store(&in[W], at[W], x[W] * (1 - h[0] * h[4]) - h[0] / h[5] * m / (sqrt(v) / h[6] + h[3]));
    }
}

static void plain(const qp_call *c) {
    for (int i = 0; i < c->nin; i += GROUP) plain_one(&c->in[i]);
}

static void shape(qp_call *c) { qpo_list_shape(c, GROUP, 8); }

static const qp_sample samples[] = {
    {.in = "x[3,5] x[3,5] p[3,5] x[3,5] p[8]"},
    {.in = "x[67] x[67] p[67] x[67] p[8]"},
    {.in = "x[0] x[0] p[0] x[0] p[8]"},
    {.in = "x[9] x[9] p[9] x[9] p[8] x[0] x[0] p[0] x[0] p[8] x[7,3] x[7,3] p[7,3] x[7,3] p[8]"},
    {.in = "x[66001] x[66001] p[66001] x[66001] p[8]"}, /* two pieces */
    {0}};

QP_OP(adamw) = {.name = "adamw",
                .source = "arXiv:1711.05101",
                .min_in = GROUP,
                .max_in = GROUP * MOST,
                .nout = 1,
                .shape = shape,
                .plain = plain,
                .mutates = QK_EACH_GROUP(UINT64_C(7), GROUP, MOST),
                .samples = samples};
#endif
