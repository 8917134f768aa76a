/* In place, one pass over the memory of a list of parameters: SGD with momentum (torch.optim.SGD).
 *
 *   g = clip g + wd w;  b = momentum b + g;  w = w - lr (nesterov ? g + momentum b : b)
 *
 * Inputs, for each parameter: w, b, g and the numbers of this step [lr, momentum, wd, nesterov,
 * clip]. */
#include "kernels/elementwise.h"
#include "kernels/list.h"
#include "ops/list.h"
#include "ops/op.h"

enum { W, B, G, NUMBERS, GROUP };
#define MOST 15 /* parameters of a call */

typedef struct {
    const qp_call *c;
    qk_list        list;
} job;

typedef struct {
    float       *w, *b;
    const float *g;
    vf           rate, momentum, decay, clip;
    bool         nesterov;
} update;

static inline void lanes(const update *u, int64_t i, int n) {
    vf w = qk_get(u->w, 1, i, n), g = vf_fma(u->decay, w, qk_get(u->g, 1, i, n) * u->clip);
    vf b = vf_fma(u->momentum, qk_get(u->b, 1, i, n), g);
    qk_put(u->b, 1, i, b, n);
    qk_put(u->w, 1, i, w - u->rate * (u->nesterov ? vf_fma(u->momentum, b, g) : b), n);
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    i, stop;
    (void)end;
    (void)worker;
    const qp_view *in = &j->c->in[qk_list_piece(&j->list, begin, &i, &stop) * GROUP];
    const float   *h = in[NUMBERS].data;
    update         u = {in[W].data,    in[B].data,    in[G].data,    vf_set1(h[0]),
                        vf_set1(h[1]), vf_set1(h[2]), vf_set1(h[4]), h[3] != 0};
    for (; i + VF_LANES <= stop; i += VF_LANES) lanes(&u, i, VF_LANES);
    if (i < stop) lanes(&u, i, (int)(stop - i));
}

static void run(const qp_call *c) {
    job j = {c, qk_list_of(c, W, GROUP)};
    qp_parallel(c->exec, j.list.first[j.list.n], 1, piece, &j);
}

QP_KERNEL(sgd) = {run, QP_FLAT, NULL};

#if QP_BODY
static void plain_one(const qp_view *in) {
    double h[5];
    for (int i = 0; i < 5; i++) h[i] = qp_load(&in[NUMBERS], qp_view_offset(&in[NUMBERS], i));
    for (int64_t i = 0; i < qp_view_count(&in[W]); i++) {
        int64_t at[3];
        double  x[3];
        for (int j = 0; j < 3; j++) x[j] = qp_load(&in[j], at[j] = qp_view_offset(&in[j], i));
        double g = x[G] * h[4] + h[2] * x[W], b = h[1] * x[B] + g;
        qp_store(&in[B], at[B], b);
        qp_store(&in[W], at[W], x[W] - h[0] * (h[3] != 0 ? g + h[1] * b : b));
    }
}

static void plain(const qp_call *c) {
    for (int i = 0; i < c->nin; i += GROUP) plain_one(&c->in[i]);
}

static void shape(qp_call *c) { qpo_list_shape(c, GROUP, 5); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5] x[3,5] p[5]"},
                                    {.in = "x[67] x[67] x[67] p[5]"},
                                    {.in = "x[0] x[0] x[0] p[5]"},
                                    {.in = "x[9] x[9] x[9] p[5] x[0] x[0] x[0] p[5] x[7,3] x[7,3] x[7,3] p[5]"},
                                    {.in = "x[66001] x[66001] x[66001] p[5]"}, /* two pieces */
                                    {0}};

QP_OP(sgd) = {.name = "sgd",
              .source = "torch.optim.SGD",
              .min_in = GROUP,
              .max_in = GROUP * MOST,
              .nout = 1,
              .shape = shape,
              .plain = plain,
              .mutates = QK_EACH_GROUP(1u << W | 1u << B, GROUP, MOST),
              .samples = samples};
#endif
