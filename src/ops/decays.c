/* From the logarithms of factors x [.., Q] what is left of position s at position t, [.., Q, Q] (Dao and Gu 2024,
 * arXiv:2405.21060, listing 1: exp of the segment sums):
 *
 *   y_ts = exp(x_(s + 1) + .. + x_t) for s <= t, 0 above   dx_r = sum over t >= r, s < r of dy_ts y_ts
 *
 * Sums are taken from s on, never as a difference of two. */
#include "ops/op.h"

#define MOST 1024 /* Q */

typedef struct {
    const float *x, *y, *dy;
    float       *to; /* y, or dx */
    int64_t      n;
} job;

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    n = j->n;
    float      sum[MOST];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int64_t t = 0; t < n; t++) {
            vf     x = vf_set1(j->x[i * n + t]);
            float *y = j->to + (i * n + t) * n;
            for (int64_t s = 0; s < n; s += VF_LANES) {
                int m = n - s < VF_LANES ? (int)(n - s) : VF_LANES, before = t < s       ? 0
                                                                             : t - s < m ? (int)(t - s)
                                                                                         : m;
                int upto = before < m && t >= s ? before + 1 : before; /* t itself, too */
                vf  at = vf_load_n(sum + s, m);
                at = vf_select(vm_first(before), at + x, at);
                vf_store_n(sum + s, at, m);
                vf_store_n(y + s, vf_select(vm_first(upto), vf_exp(at), (vf){0}), m);
            }
        }
    }
}

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    n = j->n;
    float      column[MOST];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        memset(column, 0, (size_t)n * sizeof *column);
        for (int64_t t = n - 1; t >= 0; t--) {
            int64_t row = (i * n + t) * n;
            vf      all = {0};
            for (int64_t s = 0; s < t; s += VF_LANES) {
                int m = t - s < VF_LANES ? (int)(t - s) : VF_LANES;
                vf  c = vf_fma(vf_load_n(j->dy + row + s, m), vf_load_n(j->y + row + s, m),
                               vf_load_n(column + s, m));
                vf_store_n(column + s, c, m);
                all += c;
            }
            j->to[i * n + t] = vf_sum(all);
        }
    }
}

static bool takes(const qp_call *c) {
    bool f32 = c->out[0].dtype == QP_F32 && c->in[0].shape[c->in[0].ndim - 1] <= MOST;
    for (int i = 0; i < c->nin; i++) f32 &= c->in[i].dtype == QP_F32;
    return f32;
}

static void start(const qp_call *c, job j, int64_t count, void (*fn)(void *, int64_t, int64_t, int)) {
    if (j.n) qp_parallel(c->exec, count / j.n, 1 + 8192 / (j.n * j.n), fn, &j);
}

static void run(const qp_call *c) {
    const qp_view *x = &c->in[0];
    start(c, (job){.x = x->data, .to = c->out[0].data, .n = x->shape[x->ndim - 1]}, qp_view_count(x), piece);
}

QP_KERNEL(decays) = {run, QP_FLAT, takes};

static void grad_run(const qp_call *c) {
    const qp_view *dx = &c->out[0];
    start(c, (job){.dy = c->in[0].data, .y = c->in[1].data, .to = dx->data, .n = dx->shape[dx->ndim - 1]},
          qp_view_count(dx), grad_piece);
}

QP_KERNEL(decays_grad) = {grad_run, QP_FLAT, takes};

#if QP_BODY
#include "ops/shape.h"

static void shape(qp_call *c) {
    const qp_view *x = &c->in[0];
    int64_t        size[QP_MAX_DIMS];
    if (x->ndim < 1 || x->ndim >= QP_MAX_DIMS || !qp_dtype_is_float(x->dtype)) {
        qp_call_fail(c, QP_ERR_SHAPE, "x has %d axes: expected floats [.., Q]", x->ndim);
        return;
    }
    memcpy(size, x->shape, sizeof size);
    size[x->ndim] = x->shape[x->ndim - 1];
    shape_set(c, 0, x->dtype, x->ndim + 1, size);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    int64_t        n = x->shape[x->ndim - 1];
    for (int64_t i = 0; i < qp_view_count(x); i++) { /* a column */
        int64_t row = i / n * n, s = i % n;
        double  sum = 0;
        for (int64_t t = 0; t < n; t++) {
            if (t > s) sum += qp_load(x, qp_view_offset(x, row + t));
            qp_store(&c->out[0], (row + t) * n + s, t < s ? 0 : exp(sum));
        }
    }
}

static void backward(qp_rule *r) {
    extern const qp_op qp_op_decays_grad;
    r->din[0] = QP_CALL(decays_grad, NULL, r->dout[0], r->out[0]);
}

static const qp_sample samples[] = {{.in = "x[3,5]", .tolerance = 1e-5},
                                    {.in = "x[2,3,37]", .tolerance = 1e-5},
                                    {.in = "x[1]"},
                                    {.in = "x[2,0]"},
                                    {.in = "x[0,4]"},
                                    {0}};

QP_OP(decays) = {.name = "decays",
                 .source = "arXiv:2405.21060, listing 1",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .saves = QP_SAVE_OUT(0),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .samples = samples};

static void grad_shape(qp_call *c) {
    const qp_view *dy = &c->in[0], *y = &c->in[1];
    bool           ok = dy->ndim > 1 && dy->ndim == y->ndim && dy->dtype == y->dtype &&
                        dy->shape[dy->ndim - 1] == dy->shape[dy->ndim - 2];
    for (int i = 0; i < dy->ndim && ok; i++) ok = dy->shape[i] == y->shape[i];
    if (ok) shape_set(c, 0, dy->dtype, dy->ndim - 1, dy->shape);
    else qp_call_fail(c, QP_ERR_SHAPE, "dy and y: expected two of [.., Q, Q]");
}

static void grad_plain(const qp_call *c) {
    const qp_view *dy = &c->in[0], *y = &c->in[1];
    int64_t        n = dy->shape[dy->ndim - 1];
    for (int64_t row = 0; row < qp_view_count(&c->out[0]); row += n) {
        double sum = 0; /* of t >= r, s < r: from r to r + 1 row r goes, column r comes */
        for (int64_t r = 0; r < n; r++) {
            qp_store(&c->out[0], row + r, sum);
            for (int64_t k = 0; k < n; k++) {
                int64_t at = k < r ? (row + r) * n + k : (row + k) * n + r;
                double p = k == r ? 0 : qp_load(dy, qp_view_offset(dy, at)) * qp_load(y, qp_view_offset(y, at));
                sum += k < r ? -p : p;
            }
        }
    }
}

static const qp_sample grad_samples[] = {{.in = "x[3,5,5] x[3,5,5]"},
                                         {.in = "x[2,37,37] x[2,37,37]", .tolerance = 1e-5},
                                         {.in = "x[1,1] x[1,1]"},
                                         {0}};

QP_OP(decays_grad) = {.name = "decays_grad",
                      .source = "backward of decays",
                      .min_in = 2,
                      .max_in = 2,
                      .nout = 1,
                      .shape = grad_shape,
                      .plain = grad_plain,
                      .samples = grad_samples};

qp_tensor qp_decays(qp_tensor x) { return QP_CALL(decays, NULL, x); }
#endif
