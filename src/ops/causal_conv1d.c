/* A short causal convolution of each channel by itself (torch.nn.functional.conv1d, groups = channels, padded in
 * front):
 *
 *   y_t = bias + sum over k of w_k x_(t - K + 1 + k),   x before the first position is 0
 *   dx_t = sum over k of w_k dy_(t + K - 1 - k)   dw_k = sum over t of x_(t - K + 1 + k) dy_t   dbias = sum of dy_t
 */
#include "ops/op.h"

enum { X, W, BIAS }; /* inputs, and in this order their gradients */
enum { G_DY, G_X, G_W };

typedef struct {
    const qp_call *c;
    const qp_view *x, *w, *dy; /* dy NULL: forward */
    int64_t        T, D, K, grain;
    float         *sums; /* of the gradient: [pieces, K + 1, D] */
} job;

static const float *row(const qp_view *v, int64_t b, int64_t t) {
    return (const float *)v->data + b * v->stride[0] + t * v->stride[1];
}

/* m channels at d of rows first .. end - 1: y = bias + the sum of w_k times the row that stands `back` - k before,
 * or behind. */
static void combine(const job *j, const qp_view *from, float *to, int64_t first, int64_t end, int64_t d, int m,
                    bool ahead) {
    const qp_view *bias = !ahead && j->c->nin > BIAS && j->c->in[BIAS].ndim >= 0 ? &j->c->in[BIAS] : NULL;
    vf             start = bias ? vf_load_n((const float *)bias->data + d, m) : (vf){0};
    for (int64_t i = first; i < end; i++) {
        int64_t b = i / j->T, t = i % j->T;
        vf      sum = start;
        for (int64_t k = 0; k < j->K; k++) {
            int64_t at = ahead ? t + j->K - 1 - k : t - j->K + 1 + k;
            if (at < 0 || at >= j->T) continue;
            sum = vf_fma(vf_load_n((const float *)j->w->data + k * j->w->stride[0] + d, m),
                         vf_load_n(row(from, b, at) + d, m), sum);
        }
        vf_store_n(to + i * j->D + d, sum, m);
    }
}

/* The rows' part of dw_k, or of dbias (k = K). */
static vf share(const job *j, int64_t first, int64_t end, int64_t d, int m, int64_t k) {
    vf sum = {0};
    for (int64_t i = first; i < end; i++) {
        int64_t b = i / j->T, t = i % j->T, at = t - j->K + 1 + k;
        vf      dy = vf_load_n(row(j->dy, b, t) + d, m);
        if (k == j->K) sum += dy;
        else if (at >= 0) sum = vf_fma(vf_load_n(row(j->x, b, at) + d, m), dy, sum);
    }
    return sum;
}

static void piece(void *arg, int64_t first, int64_t end, int worker) {
    const job *j = arg;
    (void)worker;
    for (int64_t d = 0; d < j->D; d += VF_LANES) {
        int m = j->D - d < VF_LANES ? (int)(j->D - d) : VF_LANES;
        combine(j, j->dy ? j->dy : j->x, j->c->out[0].data, first, end, d, m, j->dy != NULL);
        for (int64_t k = 0; k <= j->K && j->dy; k++)
            vf_store_n(j->sums + (first / j->grain * (j->K + 1) + k) * j->D + d, share(j, first, end, d, m, k),
                       m);
    }
}

static void run(const qp_call *c) {
    const qp_view *x = &c->in[X];
    job j = {.c = c, .x = x, .w = &c->in[W], .T = x->shape[1], .D = x->shape[2], .K = c->in[W].shape[0]};
    if (j.T) qp_parallel(c->exec, x->shape[0] * j.T, 16384 / (j.D + 1) + 1, piece, &j);
}

QP_KERNEL(causal_conv1d) = {run, QP_ROWS, NULL};

/* Rows of a piece of the gradient: enough work, no more than 64 pieces. */
static int64_t grain_of(const qp_view *x) {
    int64_t rows = x->shape[0] * x->shape[1], work = 16384 / (x->shape[2] + 1) + 1, part = (rows + 63) / 64;
    return work > part ? work : part;
}
static int64_t pieces_of(const qp_view *x) {
    return (x->shape[0] * x->shape[1] + grain_of(x) - 1) / grain_of(x);
}

static void add_pieces(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const qp_view *to = &j->c->out[i < j->K * j->D ? W : BIAS];
        float          sum = 0;
        for (int64_t p = 0; p < pieces_of(j->x); p++) sum += j->sums[p * (j->K + 1) * j->D + i];
        if (i < j->K * j->D || qp_view_count(to)) ((float *)to->data)[i % (j->K * j->D)] = sum;
    }
}

static void grad_run(const qp_call *c) {
    const qp_view *x = &c->in[G_X];
    job            j = {c,
                        x,
                        &c->in[G_W],
                        &c->in[G_DY],
                        x->shape[1],
                        x->shape[2],
                        c->in[G_W].shape[0],
                        grain_of(x),
                        c->exec->scratch};
    if (j.T) qp_parallel(c->exec, x->shape[0] * j.T, j.grain, piece, &j);
    qp_parallel(c->exec, (j.K + 1) * j.D, 1024, add_pieces, &j);
}

QP_KERNEL(causal_conv1d_grad) = {grad_run, QP_ROWS, NULL};

#if QP_BODY
#include "ops/shape.h"

static bool fit(const qp_call *c, const qp_view *x, const qp_view *w, const qp_view *bias) {
    bool ok = x->ndim == 3 && w->ndim == 2 && w->shape[1] == x->shape[2] && w->shape[0] > 0 &&
              qp_dtype_is_float(x->dtype) && w->dtype == x->dtype;
    ok = ok && (!bias || (bias->ndim == 1 && bias->shape[0] == x->shape[2] && bias->dtype == x->dtype));
    if (!ok) {
        char xt[96], wt[96];
        qpi_view_describe(x, xt, sizeof xt);
        qpi_view_describe(w, wt, sizeof wt);
        qp_call_fail(c, QP_ERR_SHAPE,
                     "x is %s, w is %s: expected [B, T, D], [K, D] and a bias [D], one floating type", xt, wt);
    }
    return ok;
}

static const qp_view *bias_of(const qp_call *c) {
    return c->nin > BIAS && c->in[BIAS].ndim >= 0 ? &c->in[BIAS] : NULL;
}

static void shape(qp_call *c) {
    if (fit(c, &c->in[X], &c->in[W], bias_of(c))) shape_set(c, 0, c->in[X].dtype, 3, c->in[X].shape);
}

static double at3(const qp_view *v, int64_t b, int64_t t, int64_t d) {
    return qp_load(v, b * v->stride[0] + t * v->stride[1] + d * v->stride[2]);
}
static double weight(const qp_view *w, int64_t k, int64_t d) {
    return qp_load(w, k * w->stride[0] + d * w->stride[1]);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *bias = bias_of(c);
    int64_t        T = x->shape[1], D = x->shape[2], K = w->shape[0];
    for (int64_t i = 0; i < qp_view_count(x); i++) {
        int64_t d = i % D, t = i / D % T;
        double  sum = bias ? qp_load(bias, d * bias->stride[0]) : 0;
        for (int64_t k = K - 1; k >= 0 && t - K + 1 + k >= 0; k--)
            sum += weight(w, k, d) * at3(x, i / D / T, t - K + 1 + k, d);
        qp_store(&c->out[0], i, sum);
    }
}

/* bias: is its gradient wanted? */
typedef struct {
    bool bias;
} grad_attr;

static void grad_shape(qp_call *c) {
    const qp_view *dy = &c->in[G_DY], *x = &c->in[G_X], *w = &c->in[G_W];
    if (!fit(c, x, w, NULL)) return;
    if (!fit(c, dy, w, NULL)) return;
    if (dy->shape[0] != x->shape[0] || dy->shape[1] != x->shape[1] || dy->dtype != x->dtype) {
        qp_call_fail(c, QP_ERR_SHAPE, "dy is not as x");
        return;
    }
    shape_set(c, X, x->dtype, 3, x->shape);
    shape_set(c, W, x->dtype, 2, w->shape);
    shape_set(c, BIAS, x->dtype, 1, (int64_t[]){((const grad_attr *)c->attr)->bias ? w->shape[1] : 0});
}

static size_t grad_scratch(const qp_call *c, int threads) {
    (void)threads;
    return sizeof(float) * (size_t)(pieces_of(&c->in[G_X]) * (c->in[G_W].shape[0] + 1) * c->in[G_W].shape[1]);
}

static void grad_plain(const qp_call *c) {
    const qp_view *dy = &c->in[G_DY], *x = &c->in[G_X], *w = &c->in[G_W];
    int64_t        B = x->shape[0], T = x->shape[1], D = x->shape[2], K = w->shape[0];
    for (int64_t i = 0; i < qp_view_count(x); i++) {
        int64_t d = i % D, t = i / D % T;
        double  sum = 0;
        for (int64_t k = K - 1; k >= 0 && t + K - 1 - k < T; k--)
            sum += weight(w, k, d) * at3(dy, i / D / T, t + K - 1 - k, d);
        qp_store(&c->out[X], i, sum);
    }
    for (int64_t i = 0; i < (K + 1) * D; i++) {
        int64_t k = i / D, d = i % D;
        double  sum = 0;
        for (int64_t r = 0; r < B * T; r++) {
            int64_t at = r % T - K + 1 + k;
            if (k == K) sum += at3(dy, r / T, r % T, d);
            else if (at >= 0) sum += at3(dy, r / T, r % T, d) * at3(x, r / T, at, d);
        }
        if (k < K) qp_store(&c->out[W], i, sum);
        else if (qp_view_count(&c->out[BIAS])) qp_store(&c->out[BIAS], d, sum);
    }
}

static double flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->in[X]) * (double)c->in[W].shape[0];
}
static double grad_flops(const qp_call *c) {
    return 4.0 * (double)qp_view_count(&c->in[G_X]) * (double)c->in[G_W].shape[0];
}

static const qp_sample grad_samples[] = {{.in = "x[2,5,3] x[2,5,3] x[4,3]", .attr = &(grad_attr){true}},
                                         {.in = "x[3,40,37] x[3,40,37] x[2,37]"},
                                         {.in = "x[2,600,40] x[2,600,40] x[3,40]", .attr = &(grad_attr){true}},
                                         {.in = "x[2,0,5] x[2,0,5] x[4,5]", .attr = &(grad_attr){true}},
                                         {0}};

QP_OP(causal_conv1d_grad) = {.name = "causal_conv1d_grad",
                             .source = "backward of causal_conv1d",
                             .min_in = 3,
                             .max_in = 3,
                             .nout = 3,
                             .attr_bytes = sizeof(grad_attr),
                             .shape = grad_shape,
                             .plain = grad_plain,
                             .scratch = grad_scratch,
                             .flops = grad_flops,
                             .samples = grad_samples};

static void backward(qp_rule *r) {
    qp_tensor out[3];
    bool      bias = r->nin > BIAS && r->need[BIAS];
    QP_CALL_MANY(causal_conv1d_grad, &(grad_attr){bias}, out, r->dout[0], r->in[X], r->in[W]);
    for (int i = 0; i < r->nin; i++)
        if (r->need[i]) r->din[i] = out[i];
}

static const qp_sample samples[] = {{.in = "x[2,5,3] x[4,3] x[3]"},
                                    {.in = "x[3,40,37] x[2,37]"},
                                    {.in = "x[1,300,130] x[4,130] x[130]"},
                                    {.in = "x[2,2,5] x[4,5] x[5]"},
                                    {.in = "x[2,0,5] x[4,5] x[5]"},
                                    {.in = "x[1,7,1] x[1,1]"},
                                    {0}};

QP_OP(causal_conv1d) = {.name = "causal_conv1d",
                        .source = "torch.nn.functional.conv1d",
                        .min_in = 2,
                        .max_in = 3,
                        .nout = 1,
                        .saves = QP_SAVE_IN(X) | QP_SAVE_IN(W),
                        .shape = shape,
                        .plain = plain,
                        .backward = backward,
                        .flops = flops,
                        .samples = samples};

qp_tensor qp_causal_conv1d(qp_tensor x, qp_tensor w, qp_tensor bias) {
    return QP_CALL(causal_conv1d, NULL, x, w, bias);
}
#endif
