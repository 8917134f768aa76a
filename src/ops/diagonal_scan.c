/* A linear recurrence with a complex diagonal, from h0 on (zeros where absent):
 *
 *   h_t = p h_{t-1} + u_t
 *   du_t = dh_t + conj(p) du_{t+1}     dp = sum_t conj(h_{t-1}) du_t     dh0 = conj(p) du_0
 *
 * u and h [B, T, 2, N], p [2, N], h0 [B, 2, N]: real parts, then imaginary ones. Lanes are features; the sums of a
 * feature are taken one after another, so pieces of a sequence give the bits of the whole. Orvieto et al. 2023,
 * arXiv:2303.06349. */
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    const float *u, *p, *h0;
    float       *h;
    int64_t      T, N, blocks; /* blocks of lanes in a row */
    bool         back;         /* du from dh */
} job;

static void lanes(void *arg, int64_t begin, int64_t end, int worker) {
    const job *a = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t      b = i / a->blocks, n = i % a->blocks * VF_LANES, step = a->back ? -2 * a->N : 2 * a->N;
        int64_t      at = (b * a->T + (a->back ? a->T - 1 : 0)) * 2 * a->N + n;
        int          m = a->N - n < VF_LANES ? (int)(a->N - n) : VF_LANES;
        const float *u = a->u + at;
        float       *h = a->h + at;
        vf           p0 = vf_load_n(a->p + n, m), p1 = vf_load_n(a->p + a->N + n, m), x0 = {0}, x1 = {0};
        if (a->back) p1 = -p1;
        if (a->h0)
            x0 = vf_load_n(a->h0 + b * 2 * a->N + n, m), x1 = vf_load_n(a->h0 + (b * 2 + 1) * a->N + n, m);
        for (int64_t t = 0; t < a->T; t++, u += step, h += step) {
            vf y0 = vf_fma(p0, x0, vf_fma(-p1, x1, vf_load_n(u, m)));
            x1 = vf_fma(p0, x1, vf_fma(p1, x0, vf_load_n(u + a->N, m)));
            x0 = y0;
            vf_store_n(h, x0, m);
            vf_store_n(h + a->N, x1, m);
        }
    }
}

static void run_job(const qp_call *c, bool back) {
    const qp_view *u = &c->in[0];
    job            a = {
        u->data, c->in[1].data, c->nin > 2 ? c->in[2].data : NULL, c->out[0].data, u->shape[1], u->shape[3],
        0,       back};
    a.blocks = (a.N + VF_LANES - 1) / VF_LANES;
    qp_parallel(c->exec, u->shape[0] * a.blocks, 1 + 512 / (a.T + 1), lanes, &a);
}
static void run(const qp_call *c) { run_job(c, false); }
static void grad_run(const qp_call *c) { run_job(c, true); }

QP_KERNEL(diagonal_scan) = {run, QP_FLAT, NULL};
QP_KERNEL(diagonal_scan_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
extern const qp_op qp_op_diagonal_scan_grad;

static void shape(qp_call *c) {
    const qp_view *u = &c->in[0], *p = &c->in[1], *h = c->nin > 2 && c->in[2].ndim >= 0 ? &c->in[2] : NULL;
    bool           fits = u->ndim == 4 && u->shape[2] == 2 && p->ndim == 2 && p->shape[0] == 2 &&
                          p->shape[1] == u->shape[3] && p->dtype == u->dtype;
    if (fits && h)
        fits = h->ndim == 3 && h->dtype == u->dtype && h->shape[0] == u->shape[0] && h->shape[1] == 2 &&
               h->shape[2] == u->shape[3];
    if (fits) shape_set(c, 0, u->dtype, 4, u->shape);
    else qp_call_fail(c, QP_ERR_SHAPE, "expected u [B, T, 2, N], p [2, N] and h0 [B, 2, N] of one type");
}

static double get(const qp_view *v, int64_t index) { return qp_load(v, qp_view_offset(v, index)); }

static void define(const qp_call *c, bool back) {
    const qp_view *u = &c->in[0], *h0 = c->nin > 2 && c->in[2].ndim >= 0 ? &c->in[2] : NULL, *h = &c->out[0];
    int64_t        T = u->shape[1], N = u->shape[3];
    for (int64_t i = 0; i < u->shape[0] * N; i++) {
        int64_t b = i / N, n = i % N;
        double  re = h0 ? get(h0, b * 2 * N + n) : 0, im = h0 ? get(h0, (b * 2 + 1) * N + n) : 0;
        double  p = get(&c->in[1], n), q = back ? -get(&c->in[1], N + n) : get(&c->in[1], N + n);
        for (int64_t t = 0; t < T; t++) {
            int64_t at = ((b * T + (back ? T - 1 - t : t)) * 2) * N + n;
            double  x = p * re - q * im + get(u, at);
            im = p * im + q * re + get(u, at + N);
            re = x;
            qp_store(h, qp_view_offset(h, at), re);
            qp_store(h, qp_view_offset(h, at + N), im);
        }
    }
}
static void plain(const qp_call *c) { define(c, false); }
static void grad_plain(const qp_call *c) { define(c, true); }

static qp_tensor part(qp_tensor x, int64_t i) { return qp_slice(x, -2, i, i + 1, 1); }

/* conj(a) b, summed over the first `axes` axes */
static qp_tensor product(qp_tensor a, qp_tensor b, int axes) {
    qp_tensor re = qp_add(qp_mul(part(a, 0), part(b, 0)), qp_mul(part(a, 1), part(b, 1)));
    qp_tensor im = qp_sub(qp_mul(part(a, 0), part(b, 1)), qp_mul(part(a, 1), part(b, 0)));
    qp_tensor all = qp_concat(2, (qp_tensor[]){re, im}, -2);
    return axes ? qp_sum(all, axes, (int[]){0, 1}, false) : all;
}

static void backward(qp_rule *r) {
    qp_tensor du = QP_CALL(diagonal_scan_grad, NULL, r->dout[0], r->in[1]), h = r->out[0];
    int64_t   T = qp_size(h, 1), first[] = {qp_size(h, 0), 1, 2, qp_size(h, 3)};
    bool      given = r->nin > 2 && !qp_is_none(r->in[2]);
    r->din[0] = du;
    if (T == 0) {
        if (given) r->din[2] = qp_zeros(r->ctx, qp_dtype_of(h), 3, (int64_t[]){first[0], 2, first[3]});
        return;
    }
    qp_tensor h0 = given ? qp_reshape(r->in[2], 4, first) : qp_zeros(r->ctx, qp_dtype_of(h), 4, first);
    if (r->need[1]) r->din[1] = product(qp_concat(2, (qp_tensor[]){h0, qp_slice(h, 1, 0, T - 1, 1)}, 1), du, 2);
    if (given && r->need[2]) {
        qp_tensor d =
            product(qp_reshape(r->in[1], 4, (int64_t[]){1, 1, 2, first[3]}), qp_slice(du, 1, 0, 1, 1), 0);
        r->din[2] = qp_reshape(d, 3, (int64_t[]){first[0], 2, first[3]});
    }
}

static double flops(const qp_call *c) { return 4.0 * (double)qp_view_count(&c->in[0]); }

static const qp_sample samples[] = {{.in = "x[3,2,2,5] u[2,5] x[3,2,5]"},
                                    {.in = "x[1,2,2,19] u[2,19]"},
                                    {.in = "x[3,0,2,4] u[2,4] x[3,2,4]"},
                                    {.in = "x[1,1,2,3] u[2,3] -"},
                                    {0}};

QP_OP(diagonal_scan) = {.name = "diagonal_scan",
                        .source = "arXiv:2303.06349",
                        .min_in = 2,
                        .max_in = 3,
                        .nout = 1,
                        .saves = QP_SAVE_IN(1) | QP_SAVE_IN(2) | QP_SAVE_OUT(0),
                        .shape = shape,
                        .plain = plain,
                        .backward = backward,
                        .flops = flops,
                        .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,2,2,5] u[2,5]"}, {.in = "x[1,2,2,19] u[2,19]"}, {.in = "x[3,0,2,4] u[2,4]"}, {0}};

QP_OP(diagonal_scan_grad) = {.name = "diagonal_scan_grad",
                             .source = "backward of diagonal_scan",
                             .min_in = 2,
                             .max_in = 2,
                             .nout = 1,
                             .shape = shape,
                             .plain = grad_plain,
                             .flops = flops,
                             .samples = grad_samples};

qp_tensor qp_diagonal_scan(qp_tensor u, qp_tensor p, qp_tensor h0) {
    return QP_CALL(diagonal_scan, NULL, u, p, h0);
}
#endif
