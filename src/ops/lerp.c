/* In place, over a list: e = e + s (x - e), s one number for each (torch.lerp_). How running means
 * of weights are kept. Inputs, for each tensor: e, x, s. */
#include "kernels/elementwise.h"
#include "kernels/list.h"
#include "ops/list.h"
#include "ops/op.h"

enum { E, X, SHARE, GROUP };
#define MOST 20 /* tensors of a call */

typedef struct {
    const qp_call *c;
    qk_list        list;
} job;

static inline void lanes(float *e, const float *x, vf share, int64_t i, int n) {
    vf old = qk_get(e, 1, i, n);
    qk_put(e, 1, i, vf_fma(share, qk_get(x, 1, i, n) - old, old), n);
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    i, stop;
    (void)end;
    (void)worker;
    const qp_view *in = &j->c->in[qk_list_piece(&j->list, begin, &i, &stop) * GROUP];
    vf             share = vf_set1(*(const float *)in[SHARE].data);
    for (; i + VF_LANES <= stop; i += VF_LANES) lanes(in[E].data, in[X].data, share, i, VF_LANES);
    if (i < stop) lanes(in[E].data, in[X].data, share, i, (int)(stop - i));
}

static void run(const qp_call *c) {
    job j = {c, qk_list_of(c, E, GROUP)};
    qp_parallel(c->exec, j.list.first[j.list.n], 1, piece, &j);
}

QP_KERNEL(lerp) = {run, QP_FLAT, NULL};

#if QP_BODY
static void plain(const qp_call *c) {
    for (int k = 0; k < c->nin; k += GROUP) {
        const qp_view *in = &c->in[k];
        double         share = qp_load(&in[SHARE], 0);
        for (int64_t i = 0; i < qp_view_count(&in[E]); i++) {
            int64_t at = qp_view_offset(&in[E], i);
            double  e = qp_load(&in[E], at);
            qp_store(&in[E], at, e + share * (qp_load(&in[X], qp_view_offset(&in[X], i)) - e));
        }
    }
}

static void shape(qp_call *c) { qpo_list_shape(c, GROUP, 1); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5] u[1]"},
                                    {.in = "x[67] x[67] u[1]"},
                                    {.in = "x[0] x[0] u[1]"},
                                    {.in = "x[9] x[9] u[1] x[0] x[0] u[1] x[7,3] x[7,3] u[1]"},
                                    {.in = "x[66001] x[66001] u[1]"}, /* two pieces */
                                    {0}};

QP_OP(lerp) = {.name = "lerp",
               .source = "torch.Tensor.lerp_",
               .min_in = GROUP,
               .max_in = GROUP * MOST,
               .nout = 1,
               .shape = shape,
               .plain = plain,
               .mutates = QK_EACH_GROUP(UINT64_C(1) << E, GROUP, MOST),
               .samples = samples};
#endif
