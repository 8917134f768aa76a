/* A state space of S4's kind, position by position: for each channel, with complex vectors of N,
 *
 *   x_t = x_{t-1} + e x_{t-1} - sum_r g_r Re(q_r . x_{t-1}) + b u_t       y_t = Re(c . x_t),   r < R, 1 or 2
 *
 * What S4 and S4D carry from position to position; no gradient. The matrix's diagonal is 1 + e, so that slow modes
 * keep their digits. planes [D, 6 + 4 R, N]: real and imaginary parts of e, q_0, g_0, .., b and c; a state [B, D, 2, N]. */
#include "ops/op.h"
#include "ops/shape.h"

enum { E, Q = 2, G = 4, STEP = 4, IN = 2, OUT = 4, MOST = 2 }; /* IN and OUT: behind R steps of Q and G */

typedef struct {
    const float *u, *before, *planes;
    float       *y, *state;
    int64_t      T, D, N;
    int          R;
} job;

static void channel(const job *a, int64_t b, int64_t d) {
    int64_t      N = a->N;
    const int    R = a->R, planes = 6 + STEP * R, in_plane = IN + STEP * R, out_plane = OUT + STEP * R;
    const float *p = a->planes + d * planes * N, *u = a->u + b * a->T * a->D + d;
    float       *re = a->state + (b * a->D + d) * 2 * N, *im = re + N, *y = a->y + b * a->T * a->D + d;
    memcpy(re, a->before + (b * a->D + d) * 2 * N, (size_t)(2 * N) * sizeof *re);
#define PLANE(k) vf_load_n(p + (k) * N + n, m)
    for (int64_t t = 0; t < a->T; t++, u += a->D, y += a->D) {
        vf low[MOST], out = {0}, in = vf_set1(*u);
        for (int k = 0; k < R; k++) {
            vf sum = {0};
            for (int64_t n = 0; n < N; n += VF_LANES) {
                int m = N - n < VF_LANES ? (int)(N - n) : VF_LANES;
                sum = vf_fma(PLANE(Q + STEP * k), vf_load_n(re + n, m),
                             vf_fma(-PLANE(Q + STEP * k + 1), vf_load_n(im + n, m), sum));
            }
            low[k] = vf_set1(-vf_sum(sum));
        }
        for (int64_t n = 0; n < N; n += VF_LANES) {
            int m = N - n < VF_LANES ? (int)(N - n) : VF_LANES;
            vf  x0 = vf_load_n(re + n, m), x1 = vf_load_n(im + n, m), e0 = PLANE(E), e1 = PLANE(E + 1);
            vf  s0 = PLANE(in_plane) * in, s1 = PLANE(in_plane + 1) * in;
            for (int k = 0; k < R; k++) {
                s0 = vf_fma(PLANE(G + STEP * k), low[k], s0);
                s1 = vf_fma(PLANE(G + STEP * k + 1), low[k], s1);
            }
            s0 = x0 + vf_fma(e0, x0, vf_fma(-e1, x1, s0));
            s1 = x1 + vf_fma(e0, x1, vf_fma(e1, x0, s1));
            out = vf_fma(PLANE(out_plane), s0, vf_fma(-PLANE(out_plane + 1), s1, out));
            vf_store_n(re + n, s0, m);
            vf_store_n(im + n, s1, m);
        }
        *y = vf_sum(out);
    }
#undef PLANE
}

static void channels(void *arg, int64_t begin, int64_t end, int worker) {
    const job *a = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) channel(a, i / a->D, i % a->D);
}

static void run(const qp_call *c) {
    const qp_view *u = &c->in[0], *p = &c->in[2];
    job            a = {u->data,     c->in[1].data, p->data,     c->out[0].data,           c->out[1].data,
                        u->shape[1], u->shape[2],   p->shape[2], p->shape[1] == 10 ? 1 : 2};
    qp_parallel(c->exec, u->shape[0] * a.D, 32, channels, &a);
}

QP_KERNEL(dplr_scan) = {run, QP_FLAT, NULL};

#if QP_BODY
static void shape(qp_call *c) {
    const qp_view *u = &c->in[0], *x = &c->in[1], *p = &c->in[2];
    bool           fits = u->ndim == 3 && x->ndim == 4 && p->ndim == 3 && x->shape[0] == u->shape[0] &&
                          x->shape[1] == u->shape[2] && x->shape[2] == 2 && p->shape[0] == u->shape[2] &&
                          (p->shape[1] == 10 || p->shape[1] == 14) && p->shape[2] == x->shape[3] &&
                          x->dtype == u->dtype && p->dtype == u->dtype;
    if (!fits)
        qp_call_fail(c, QP_ERR_SHAPE,
                     "expected u [B, T, D], a state [B, D, 2, N] and planes [D, 10 or 14, N] of one type");
    else if (shape_set(c, 0, u->dtype, 3, u->shape)) shape_set(c, 1, u->dtype, 4, x->shape);
}

/* Element n of plane k, or of a state's row k. */
static double part(const qp_view *v, int64_t row, int64_t k, int64_t n) {
    int64_t rows = v->shape[v->ndim - 2], N = v->shape[v->ndim - 1];
    return qp_load(v, qp_view_offset(v, (row * rows + k) * N + n));
}
static void put(const qp_view *v, int64_t row, int64_t k, int64_t n, double x) {
    qp_store(v, qp_view_offset(v, (row * 2 + k) * v->shape[3] + n), x);
}

static void plain(const qp_call *c) {
    const qp_view *u = &c->in[0], *p = &c->in[2], *y = &c->out[0], *x = &c->out[1];
    int64_t        T = u->shape[1], D = u->shape[2], N = p->shape[2], R = (p->shape[1] - 6) / STEP,
                   at_in = IN + STEP * R, at_out = OUT + STEP * R;
    for (int64_t i = 0; i < u->shape[0] * D; i++) {
        int64_t d = i % D;
        for (int64_t n = 0; n < 2 * N; n++) put(x, i, n / N, n % N, part(&c->in[1], i, n / N, n % N));
        for (int64_t t = 0; t < T; t++) {
            int64_t at = (i / D * T + t) * D + d;
            double  r[MOST] = {0}, sum = 0, in = qp_load(u, qp_view_offset(u, at));
            for (int64_t k = 0; k < R; k++)
                for (int64_t n = 0; n < N; n++)
                    r[k] += part(p, d, Q + STEP * k, n) * part(x, i, 0, n) -
                            part(p, d, Q + STEP * k + 1, n) * part(x, i, 1, n);
            for (int64_t n = 0; n < N; n++) {
                double a = part(x, i, 0, n), b = part(x, i, 1, n), e = part(p, d, E, n),
                       f = part(p, d, E + 1, n);
                double re = a + e * a - f * b + part(p, d, at_in, n) * in;
                double im = b + e * b + f * a + part(p, d, at_in + 1, n) * in;
                for (int64_t k = 0; k < R; k++) {
                    re -= part(p, d, G + STEP * k, n) * r[k];
                    im -= part(p, d, G + STEP * k + 1, n) * r[k];
                }
                sum += part(p, d, at_out, n) * re - part(p, d, at_out + 1, n) * im;
                put(x, i, 0, n, re);
                put(x, i, 1, n, im);
            }
            qp_store(y, qp_view_offset(y, at), sum);
        }
    }
}

static double flops(const qp_call *c) {
    return 22.0 * (double)qp_view_count(&c->in[1]) / 2 * (double)c->in[0].shape[1];
}

/* T is 2, as an axis of states must be, so that it is not enlarged: with any planes states grow beyond all. */
static const qp_sample samples[] = {{.in = "x[3,2,4] x[3,4,2,5] u[4,10,5]", .tolerance = 2e-5},
                                    {.in = "x[1,2,3] x[1,3,2,19] u[3,10,19]", .tolerance = 2e-5},
                                    {.in = "x[2,2,3] x[2,3,2,19] u[3,14,19]", .tolerance = 2e-5},
                                    {.in = "x[3,0,2] x[3,2,2,2] u[2,10,2]"},
                                    {.in = "x[1,2,3] x[1,3,2,0] u[3,10,0]"},
                                    {0}};

QP_OP(dplr_scan) = {.name = "dplr_scan",
                    .source = "arXiv:2111.00396, appendix C.2",
                    .min_in = 3,
                    .max_in = 3,
                    .nout = 2,
                    .shape = shape,
                    .plain = plain,
                    .flops = flops,
                    .samples = samples};

void qp_dplr_scan(qp_tensor u, qp_tensor state, qp_tensor planes, qp_tensor *y, qp_tensor *next) {
    qp_tensor out[2];
    QP_CALL_MANY(dplr_scan, NULL, out, u, state, planes);
    *y = out[0];
    *next = out[1];
}
#endif
