/* Each position mixed with the one before it (Peng et al. 2023, arXiv:2305.13048, "token shift"):
 *
 *   y_t = x_t + m_t (x_{t-1} - x_t),   x_{-1} = last, or 0
 *
 * m broadcasts to x [B, T, D]. Backward: dx_t = (1 - m_t) dy_t + m_{t+1} dy_{t+1}, dm = dy (x_{t-1} - x_t) summed
 * as m was broadcast. */
#include "core/core.h"
#include "ops/op.h"

enum { X, M, LAST };
enum { GRAIN = 8192 }; /* elements of one piece of work */

static const float *row_of(const qp_view *v, int64_t b, int64_t t) {
    return (const float *)v->data + (v->shape[0] > 1 ? b * v->stride[0] : 0) +
           (v->shape[1] > 1 ? t * v->stride[1] : 0);
}

/* x of the position before; NULL: zeros. */
static const float *row_before(const qp_view *x, const qp_view *last, int64_t b, int64_t t) {
    if (t) return row_of(x, b, t - 1);
    return last ? (const float *)last->data + b * last->stride[0] : NULL;
}

static const qp_view *last_of(const qp_call *c, int i) {
    return c->nin > i && c->in[i].ndim >= 0 ? &c->in[i] : NULL;
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *x = &c->in[X], *last = last_of(c, LAST);
    int64_t        T = x->shape[1], D = x->shape[2];
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        int64_t      b = row / T, t = row % T;
        const float *now = row_of(x, b, t), *before = row_before(x, last, b, t), *m = row_of(&c->in[M], b, t);
        float       *y = (float *)c->out[0].data + row * D;
        for (int64_t i = 0; i < D; i += VF_LANES) {
            int n = D - i < VF_LANES ? (int)(D - i) : VF_LANES;
            vf  a = vf_load_n(now + i, n), old = before ? vf_load_n(before + i, n) : (vf){0};
            vf_store_n(y + i, vf_fma(vf_load_n(m + i, n), old - a, a), n);
        }
    }
}

static void run(const qp_call *c) {
    int64_t D = c->in[X].shape[2];
    if (D) qp_parallel(c->exec, c->in[X].shape[0] * c->in[X].shape[1], (GRAIN + D - 1) / D, piece, (void *)c);
}

/* Inputs dy, x, m, last; outputs dx and what dm is the sum of. */
static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *dy = &c->in[0], *x = &c->in[1 + X], *m = &c->in[1 + M], *last = last_of(c, 1 + LAST);
    int64_t        T = x->shape[1], D = x->shape[2];
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        int64_t      b = row / T, t = row % T;
        bool         more = t + 1 < T;
        const float *now = row_of(x, b, t), *before = row_before(x, last, b, t), *g = row_of(dy, b, t),
                    *mix = row_of(m, b, t);
        const float *g_next = more ? row_of(dy, b, t + 1) : g, *mix_next = more ? row_of(m, b, t + 1) : mix;
        float       *dx = (float *)c->out[0].data + row * D, *dm = (float *)c->out[1].data + row * D;
        for (int64_t i = 0; i < D; i += VF_LANES) {
            int n = D - i < VF_LANES ? (int)(D - i) : VF_LANES;
            vf  d = vf_load_n(g + i, n), old = before ? vf_load_n(before + i, n) : (vf){0};
            vf  own = d - vf_load_n(mix + i, n) * d;
            vf_store_n(dx + i, more ? vf_fma(vf_load_n(mix_next + i, n), vf_load_n(g_next + i, n), own) : own,
                       n);
            vf_store_n(dm + i, d * (old - vf_load_n(now + i, n)), n);
        }
    }
}

static void run_grad(const qp_call *c) {
    int64_t D = c->in[1].shape[2];
    if (D)
        qp_parallel(c->exec, c->in[1].shape[0] * c->in[1].shape[1], (GRAIN + D - 1) / D, grad_piece, (void *)c);
}

QP_KERNEL(token_shift) = {run, QP_ROWS, NULL};
QP_KERNEL(token_shift_grad) = {run_grad, QP_ROWS, NULL};

#if QP_BODY
extern const qp_op qp_op_token_shift_grad;

static bool check(const qp_call *c, const qp_view *in, const qp_view *last) {
    const qp_view *x = &in[X], *m = &in[M];
    bool           fits = x->ndim == 3 && m->ndim == 3;
    for (int i = 0; i < 3 && fits; i++) fits = m->shape[i] == x->shape[i] || (i < 2 && m->shape[i] == 1);
    if (last) fits = fits && last->ndim == 2 && last->shape[0] == x->shape[0] && last->shape[1] == x->shape[2];
    if (!fits) qp_call_fail(c, QP_ERR_SHAPE, "expected x [B, T, D], m [B or 1, T or 1, D] and last [B, D]");
    else if (x->dtype != m->dtype) qp_call_fail(c, QP_ERR_TYPE, "inputs of different types");
    return fits;
}

static void shape(qp_call *c) {
    if (check(c, c->in, last_of(c, LAST))) qpi_view_init(&c->out[0], c->in[X].dtype, 3, c->in[X].shape);
}

static void grad_shape(qp_call *c) {
    if (!check(c, c->in + 1, last_of(c, 1 + LAST))) return;
    if (c->in[0].ndim != 3 || memcmp(c->in[0].shape, c->in[1].shape, 3 * sizeof(int64_t)) != 0)
        qp_call_fail(c, QP_ERR_SHAPE, "expected dy of x's shape");
    for (int i = 0; i < 2; i++) qpi_view_init(&c->out[i], c->in[1].dtype, 3, c->in[1].shape);
}

static double at(const qp_view *v, int64_t b, int64_t t, int64_t i) {
    return qp_load(v, (v->shape[0] > 1 ? b * v->stride[0] : 0) + (v->shape[1] > 1 ? t * v->stride[1] : 0) +
                          i * v->stride[2]);
}
static double before(const qp_view *x, const qp_view *last, int64_t b, int64_t t, int64_t i) {
    if (t) return at(x, b, t - 1, i);
    return last ? qp_load(last, b * last->stride[0] + i * last->stride[1]) : 0;
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X];
    int64_t        T = x->shape[1], D = x->shape[2];
    for (int64_t k = 0; k < qp_view_count(x); k++) {
        int64_t b = k / D / T, t = k / D % T, i = k % D;
        double  now = at(x, b, t, i);
        qp_store(&c->out[0], qp_view_offset(&c->out[0], k),
                 now + at(&c->in[M], b, t, i) * (before(x, last_of(c, LAST), b, t, i) - now));
    }
}

static void plain_grad(const qp_call *c) {
    const qp_view *dy = &c->in[0], *x = &c->in[1 + X], *m = &c->in[1 + M];
    int64_t        T = x->shape[1], D = x->shape[2];
    for (int64_t k = 0; k < qp_view_count(x); k++) {
        int64_t b = k / D / T, t = k / D % T, i = k % D;
        double  d = at(dy, b, t, i), dx = d - at(m, b, t, i) * d;
        if (t + 1 < T) dx += at(m, b, t + 1, i) * at(dy, b, t + 1, i);
        qp_store(&c->out[0], qp_view_offset(&c->out[0], k), dx);
        qp_store(&c->out[1], qp_view_offset(&c->out[1], k),
                 d * (before(x, last_of(c, 1 + LAST), b, t, i) - at(x, b, t, i)));
    }
}

static void backward(qp_rule *r) {
    qp_tensor out[2];
    QP_CALL_MANY(token_shift_grad, NULL, out, r->dout[0], r->in[X], r->in[M],
                 r->nin > LAST ? r->in[LAST] : QP_NONE);
    r->din[X] = out[0];
    if (r->need[M]) r->din[M] = qp_sum_to(out[1], r->in[M]);
}

static double flops(const qp_call *c) { return 3.0 * (double)qp_view_count(&c->in[X]); }
static double grad_flops(const qp_call *c) { return 6.0 * (double)qp_view_count(&c->in[1]); }

static const qp_sample samples[] = {{.in = "x[2,5,3] x[1,1,3]"},
                                    {.in = "x[2,4,3] x[2,4,3] !x[2,3]"},
                                    {.in = "x[3,1,35] x[1,1,35] !x[3,35]"},
                                    {.in = "x[2,3,70] x[2,1,70]"},
                                    {.in = "x[1,130,67] x[1,130,67]", .no_grad = true},
                                    {.in = "x[2,0,3] x[1,1,3]", .no_grad = true},
                                    {0}};

QP_OP(token_shift) = {.name = "token_shift",
                      .source = "arXiv:2305.13048",
                      .min_in = 2,
                      .max_in = 3,
                      .nout = 1,
                      .saves = QP_SAVE_ALL_IN,
                      .shape = shape,
                      .plain = plain,
                      .backward = backward,
                      .flops = flops,
                      .samples = samples};

static const qp_sample grad_samples[] = {{.in = "x[2,5,3] x[2,5,3] x[1,1,3]", .no_grad = true},
                                         {.in = "x[2,4,67] x[2,4,67] x[2,4,67] x[2,67]", .no_grad = true},
                                         {.in = "x[1,0,3] x[1,0,3] x[1,1,3]", .no_grad = true},
                                         {0}};

QP_OP(token_shift_grad) = {.name = "token_shift_grad",
                           .source = "backward of token_shift",
                           .min_in = 3,
                           .max_in = 4,
                           .nout = 2,
                           .shape = grad_shape,
                           .plain = plain_grad,
                           .flops = grad_flops,
                           .samples = grad_samples};

qp_tensor qp_token_shift(qp_tensor x, qp_tensor m, qp_tensor last) {
    return QP_CALL(token_shift, NULL, x, m, last);
}
#endif
