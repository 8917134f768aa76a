/* In place: acc += sum of x^2, acc f64 [1]: how a global gradient norm is gathered. Squares are
 * summed in double, piece by piece in order. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    const float *x;
    double      *partial;
} job;

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    (void)worker;
    for (int64_t start = begin / QK_GRAIN * QK_GRAIN; start < end; start += QK_GRAIN) {
        int64_t stop = start + QK_GRAIN < end ? start + QK_GRAIN : end;
        double  sum = 0;
        for (int64_t i = start; i < stop; i += 64 * VF_LANES) {
            int64_t block = i + 64 * VF_LANES < stop ? i + 64 * VF_LANES : stop;
            vf      s = vf_set1(0);
            for (int64_t k = i; k < block; k += VF_LANES) {
                vf x = vf_load_n(j->x + k, block - k < VF_LANES ? (int)(block - k) : VF_LANES);
                s = vf_fma(x, x, s);
            }
            sum += vf_sum(s);
        }
        j->partial[start / QK_GRAIN] = sum;
    }
}

static void run(const qp_call *c) {
    int64_t n = qp_view_count(&c->in[1]);
    job     j = {c->in[1].data, c->exec->scratch};
    double  sum = 0;
    qp_parallel(c->exec, n, QK_GRAIN, piece, &j);
    for (int64_t i = 0; i * QK_GRAIN < n; i++) sum += j.partial[i];
    *(double *)c->out[0].data += sum;
}

static bool takes(const qp_call *c) { return c->in[0].dtype == QP_F64 && c->in[1].dtype == QP_F32; }

QP_KERNEL(add_square_sum) = {run, QP_FLAT, takes};

#if QP_BODY
static void plain(const qp_call *c) {
    double sum = 0;
    for (int64_t i = 0; i < qp_view_count(&c->in[1]); i++) {
        double x = qp_load(&c->in[1], qp_view_offset(&c->in[1], i));
        sum += x * x;
    }
    qp_store(&c->out[0], 0, qp_load(&c->out[0], 0) + sum);
}

static void shape(qp_call *c) {
    if (qp_view_count(&c->in[0]) != 1) qp_call_fail(c, QP_ERR_SHAPE, "the sum must have one element");
    c->out[0] = c->in[0];
}

static size_t scratch(const qp_call *c, int threads) {
    (void)threads;
    return sizeof(double) * (size_t)(qp_view_count(&c->in[1]) / QK_GRAIN + 1);
}

static const qp_sample samples[] = {{.in = "^x[1] x[3,5]"}, {.in = "^x[1] x[1037]"}, {.in = "x[1] x[0]"}, {0}};

QP_OP(add_square_sum) = {.name = "add_square_sum",
                         .source = "torch.nn.utils.clip_grad_norm_",
                         .min_in = 2,
                         .max_in = 2,
                         .nout = 1,
                         .shape = shape,
                         .plain = plain,
                         .scratch = scratch,
                         .mutates = QP_SAVE_IN(0),
                         .samples = samples};
#endif
