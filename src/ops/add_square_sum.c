/* In place: acc += sum of x^2 over a list of x, acc f64 [1]: how a global gradient norm is
 * gathered. Squares are summed in double, piece by piece in order. */
#include "kernels/elementwise.h"
#include "kernels/list.h"
#include "ops/op.h"

#define CHAIN (64 * VF_LANES) /* elements that are summed in single precision */

typedef struct {
    const qp_call *c;
    qk_list        list;
    double        *partial;
} job;

static inline vf squares(const float *x, int64_t begin, int64_t end) {
    vf s[4] = {0};
    for (int64_t i = begin; i + 4 * VF_LANES <= end; i += 4 * VF_LANES)
        for (int k = 0; k < 4; k++) {
            vf y = vf_load(x + i + k * VF_LANES);
            s[k] = vf_fma(y, y, s[k]);
        }
    for (int64_t i = end - (end - begin) % (4 * VF_LANES); i < end; i += VF_LANES) {
        vf y = vf_load_n(x + i, end - i < VF_LANES ? (int)(end - i) : VF_LANES);
        s[0] = vf_fma(y, y, s[0]);
    }
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    i, stop;
    double     sum = 0;
    (void)end;
    (void)worker;
    const float *x = j->c->in[1 + qk_list_piece(&j->list, begin, &i, &stop)].data;
    for (; i < stop; i += CHAIN) sum += vf_sum(squares(x, i, i + CHAIN < stop ? i + CHAIN : stop));
    j->partial[begin] = sum;
}

static void run(const qp_call *c) {
    job     j = {c, qk_list_of(c, 1, 1), c->exec->scratch};
    double *acc = c->out[0].data;
    qp_parallel(c->exec, j.list.first[j.list.n], 1, piece, &j);
    for (int64_t i = 0; i < j.list.first[j.list.n]; i++) *acc += j.partial[i];
}

static bool takes(const qp_call *c) {
    for (int i = 1; i < c->nin; i++)
        if (c->in[i].dtype != QP_F32) return false;
    return c->in[0].dtype == QP_F64;
}

QP_KERNEL(add_square_sum) = {run, QP_FLAT, takes};

#if QP_BODY
static void plain(const qp_call *c) {
    double sum = qp_load(&c->out[0], 0);
    for (int k = 1; k < c->nin; k++)
        for (int64_t i = 0; i < qp_view_count(&c->in[k]); i++) {
            double x = qp_load(&c->in[k], qp_view_offset(&c->in[k], i));
            sum += x * x;
        }
    qp_store(&c->out[0], 0, sum);
}

static void shape(qp_call *c) {
    if (qp_view_count(&c->in[0]) != 1) qp_call_fail(c, QP_ERR_SHAPE, "the sum must have one element");
    for (int i = 1; i < c->nin; i++)
        if (c->in[i].ndim < 0) qp_call_fail(c, QP_ERR_ARGUMENT, "input %d is missing", i);
    c->out[0] = c->in[0];
}

static size_t scratch(const qp_call *c, int threads) {
    (void)threads;
    qk_list l = qk_list_of(c, 1, 1);
    return sizeof(double) * (size_t)l.first[l.n];
}

static const qp_sample samples[] = {{.in = "^x[1] x[3,5]"},
                                    {.in = "^x[1] x[1037]"},
                                    {.in = "x[1] x[0]"},
                                    {.in = "^x[1] x[9] x[0] x[7,3] x[1037]"},
                                    {.in = "^x[1] x[140001] x[66001]"}, /* five pieces */
                                    {0}};

QP_OP(add_square_sum) = {.name = "add_square_sum",
                         .source = "torch.nn.utils.clip_grad_norm_",
                         .min_in = 2,
                         .max_in = QP_MAX_IN,
                         .nout = 1,
                         .shape = shape,
                         .plain = plain,
                         .scratch = scratch,
                         .mutates = QP_SAVE_IN(0),
                         .samples = samples};
#endif
