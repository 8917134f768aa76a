/* What a state space answers to an impulse whose matrix is diagonal plus one of rank R, A = Lambda - P P* with P [N, R], R
 * 1 or 2, discretised bilinearly (S4, Gu et al. 2021, arXiv:2111.00396, theorem 3):
 *
 *   k[l] = C ((I - dt/2 A)^-1 (I + dt/2 A))^l (I - dt/2 A)^-1 dt B,   l < T
 *
 * Its generating function at z, with g = 2 (1 - z) / (1 + z), is by Woodbury's identity S = (1 + R)^2 sums over the
 * poles (Cauchy's kernel), a matrix r of 1 + R rows [C; P*] and columns [B, P]:
 *
 *   sum_l k[l] z^l = 2 / (1 + z) (r_CB - r_CP (1 + r_PP)^-1 r_PB),   r_j = sum_n (alpha_jn g + beta_jn) / (g^2 - a1_n g + a0_n)
 *
 * where each n stands for a pole a = dt lambda and its conjugate: a1 = 2 Re a, a0 = |a|^2, alpha = 2 Re v and
 * beta = -2 Re(v conj a) with v = dt times C B, C P, .. The input has these planes: [2 + 2 S, D, N], a1, a0, alpha_0,
 * beta_0, alpha_1, ..
 *
 * It is evaluated at M >= T/2 points on a circle whose radius is a little below 1, z^M = i rho^M (kernels/fft.h
 * says why these), and transformed back. What lies beyond 2M comes back, too, 2^-26 as large; in exchange nothing
 * is cut off, k does not depend on T, and z = -1 is far. All in double: poles lie close to the circle, and
 * rho^-l brings errors up. */
#include "ops/op.h"
#include "ops/shape.h"

typedef double vd __attribute__((vector_size(4 * VF_LANES)));
#define VD_LANES (VF_LANES / 2)

static inline vd vd_fma(vd a, vd b, vd c) {
#if defined(__AVX512F__)
    return __builtin_ia32_vfmaddpd512_mask(a, b, c, 0xff, SIMD_DIRECTION);
#elif defined(__FMA__)
    return __builtin_ia32_vfmaddpd256(a, b, c);
#else
    return a * b + c;
#endif
}

#define FFT_V vd
#define FFT_S double
#define FFT_FMA vd_fma
#define FFT(name) dft_##name
#include "kernels/fft.h"

typedef struct {
    int64_t T;
    int32_t wide; /* k is f32 though the planes are f64 */
} attr;

enum { A1, A0, ALPHA, BETA, LEAST = 16, MOST = 9 /* sums */ };
#define INLINE static inline __attribute__((always_inline))
#define LOST (26 * M_LN2) /* -log of rho^2M */

/* R of 2 + 2 (1 + R)^2 planes; 0: another number of them. */
static int rank_of(int64_t planes) { return planes == 10 ? 1 : planes == 20 ? 2 : 0; }

static int64_t points_of(int64_t T) {
    int64_t M = LEAST;
    while (2 * M < T) M *= 2;
    return M;
}

/* Point f of M: 1 / (1 + z) doubled, and g. */
typedef struct {
    double c[2], g[2];
} point;

static void fill_points(point *p, int64_t M) {
    double rho = exp(-LOST / (double)(2 * M));
    for (int64_t i = 0; i < M; i++) {
        int64_t f = 0;
        for (int64_t a = i, n = 1; n < M; n *= 2, a /= 2) f = 2 * f + (a & 1);
        double turn = M_PI / (double)(2 * M) - 2 * M_PI * (double)f / (double)M, re = rho * cos(turn),
               im = rho * sin(turn);
        double d = 2 / ((1 + re) * (1 + re) + im * im); /* 2 / (1 + z) = d conj(1 + z) */
        p[i].c[0] = d * (1 + re), p[i].c[1] = -d * im;
        p[i].g[0] = d * (1 - re * re - im * im), p[i].g[1] = -2 * d * im;
    }
}

typedef struct {
    const qp_call *c;
    int64_t        T, M, D, N;
    int            R, planes;
    point         *points;
    double        *table;
    char          *work; /* of each worker */
    size_t         per_worker;
} job;

/* What a worker has: a row of M, and of each n the planes, 1/q, and gradients. */
typedef struct {
    dft_z *row, *inverse;
    vd    *plane, *gradient; /* [N, planes] */
} room;

static size_t room_bytes(int64_t M, int64_t N, int planes) {
    return ((size_t)M + (size_t)N * (size_t)(1 + planes)) * 2 * 64;
}

static room room_of(const job *a, int worker) {
    room r = {.row = (dft_z *)(a->work + (size_t)worker * a->per_worker)};
    r.inverse = r.row + a->M;
    r.plane = (vd *)(r.inverse + a->N);
    r.gradient = r.plane + a->N * a->planes;
    return r;
}

static inline vd all(double x) { return x - (vd){0}; }

/* Planes of the channels from d on; lanes beyond m have a pole at -1 and no weight. */
static void load_planes(const job *a, int64_t d, int m, vd *plane) {
    for (int64_t n = 0; n < a->N; n++)
        for (int k = 0; k < a->planes; k++, plane++)
            for (int i = 0; i < VD_LANES; i++)
                (*plane)[i] = i < m     ? qp_load(&a->c->in[0], (k * a->D + d + i) * a->N + n)
                              : k == A1 ? -2
                                        : k == A0;
}

/* r_j at g; 1/q of each n goes to inverse. */
INLINE void cauchy(const room *o, int64_t N, const double *g, dft_z *r, const int S) {
    vd g0 = all(g[0]), g1 = all(g[1]), square0 = all(g[0] * g[0] - g[1] * g[1]), square1 = all(2 * g[0] * g[1]);
    dft_z high[MOST], low[MOST];
    for (int j = 0; j < S; j++) high[j] = low[j] = (dft_z){{0}, {0}};
    const vd *p = o->plane;
    for (int64_t n = 0; n < N; n++, p += 2 + 2 * S) {
        vd q0 = square0 - p[A1] * g0 + p[A0], q1 = square1 - p[A1] * g1, one = 1 / vd_fma(q0, q0, q1 * q1);
        vd re = q0 * one, im = -q1 * one;
        o->inverse[n] = (dft_z){re, im};
        for (int j = 0; j < S; j++) {
            high[j].re = vd_fma(p[ALPHA + 2 * j], re, high[j].re);
            high[j].im = vd_fma(p[ALPHA + 2 * j], im, high[j].im);
            low[j].re = vd_fma(p[BETA + 2 * j], re, low[j].re);
            low[j].im = vd_fma(p[BETA + 2 * j], im, low[j].im);
        }
    }
    for (int j = 0; j < S; j++) r[j] = dft_add(low[j], dft_mul(high[j], g0, g1));
}

static inline dft_z inverse_of(dft_z z) {
    vd one = 1 / (z.re * z.re + z.im * z.im);
    return (dft_z){z.re * one, -z.im * one};
}
static inline dft_z product(dft_z a, dft_z b) { return dft_mul(a, b.re, b.im); }

/* left = r_CP (1 + r_PP)^-1 and right = (1 + r_PP)^-1 r_PB. */
INLINE void solve(const dft_z *r, const int R, dft_z left[2], dft_z right[2]) {
    vd one = all(1);
    if (R == 1) {
        dft_z s = inverse_of((dft_z){r[3].re + one, r[3].im});
        left[0] = product(r[1], s);
        right[0] = product(s, r[2]);
        return;
    }
    dft_z a = {r[4].re + one, r[4].im}, b = r[5], c = r[7], d = {r[8].re + one, r[8].im};
    dft_z s = inverse_of(dft_sub(product(a, d), product(b, c)));
    left[0] = product(s, dft_sub(product(r[1], d), product(r[2], c)));
    left[1] = product(s, dft_sub(product(r[2], a), product(r[1], b)));
    right[0] = product(s, dft_sub(product(d, r[3]), product(b, r[6])));
    right[1] = product(s, dft_sub(product(a, r[6]), product(c, r[3])));
}

/* The weight rho^-n e^(-i pi n / 2M) / M of row element n; of the second half besides rho^-M. */
static void weight(const job *a, int64_t n, double out[2]) {
    double size = exp(LOST * (double)n / (double)(2 * a->M)) / (double)a->M,
           turn = -M_PI * (double)n / (double)(2 * a->M);
    out[0] = size * cos(turn), out[1] = size * sin(turn);
}

INLINE void group_forward(const job *a, int64_t d, int m, room *o, const int R) {
    float *k = a->c->out[0].data;
    for (int64_t f = 0; f < a->M; f++) {
        dft_z r[MOST], left[2], right[2];
        cauchy(o, a->N, a->points[f].g, r, (1 + R) * (1 + R));
        solve(r, R, left, right);
        for (int i = 0; i < R; i++) r[0] = dft_sub(r[0], product(left[i], r[(i + 1) * (R + 1)]));
        o->row[f] = dft_mul(r[0], all(a->points[f].c[0]), all(a->points[f].c[1]));
    }
    dft_inverse(o->row, a->M, a->table);
    for (int64_t n = 0; n < a->M && n < a->T; n++) {
        double w[2], beyond = exp(LOST / 2);
        weight(a, n, w);
        dft_z x = dft_mul(o->row[n], all(w[0]), all(w[1]));
        for (int i = 0; i < m; i++) {
            k[n * a->D + d + i] = (float)x.re[i];
            if (n + a->M < a->T) k[(n + a->M) * a->D + d + i] = (float)(beyond * x.im[i]);
        }
    }
}

/* Gradients of one point; e: that of the generating function without its factor, conjugate. */
INLINE void spread(const room *o, int64_t N, const double *g, dft_z e, const dft_z *r, const int R) {
    const int S = (1 + R) * (1 + R);
    dft_z     left[2], right[2], x[MOST], xg[MOST];
    solve(r, R, left, right);
    x[0] = e;
    for (int i = 0; i < R; i++) {
        dft_z el = product(e, left[i]), er = product(e, right[i]);
        x[(i + 1) * (R + 1)] = (dft_z){-el.re, -el.im};
        x[i + 1] = (dft_z){-er.re, -er.im};
        for (int k = 0; k < R; k++) x[(i + 1) * (R + 1) + k + 1] = product(el, right[k]);
    }
    vd g0 = all(g[0]), g1 = all(g[1]);
    for (int j = 0; j < S; j++) xg[j] = dft_mul(x[j], g0, g1);
    const vd *p = o->plane;
    vd       *out = o->gradient;
    for (int64_t n = 0; n < N; n++, p += 2 + 2 * S, out += 2 + 2 * S) {
        dft_z q = o->inverse[n], sum = {{0}, {0}};
        for (int j = 0; j < S; j++) {
            out[ALPHA + 2 * j] = vd_fma(xg[j].re, q.re, vd_fma(-xg[j].im, q.im, out[ALPHA + 2 * j]));
            out[BETA + 2 * j] = vd_fma(x[j].re, q.re, vd_fma(-x[j].im, q.im, out[BETA + 2 * j]));
            sum.re = vd_fma(xg[j].re, p[ALPHA + 2 * j], vd_fma(x[j].re, p[BETA + 2 * j], sum.re));
            sum.im = vd_fma(xg[j].im, p[ALPHA + 2 * j], vd_fma(x[j].im, p[BETA + 2 * j], sum.im));
        }
        sum = product(sum, product(q, q));
        out[A0] -= sum.re;
        out[A1] = vd_fma(sum.re, g0, vd_fma(-sum.im, g1, out[A1]));
    }
}

INLINE void group_backward(const job *a, int64_t d, int m, room *o, const int R) {
    const float *dk = a->c->in[1].data;
    double       beyond = exp(LOST / 2);
    for (int64_t n = 0; n < a->M; n++) {
        double w[2];
        dft_z  x = {{0}, {0}};
        for (int i = 0; i < m; i++) {
            if (n < a->T) x.re[i] = dk[n * a->D + d + i];
            if (n + a->M < a->T) x.im[i] = beyond * dk[(n + a->M) * a->D + d + i];
        }
        weight(a, n, w);
        o->row[n] = dft_mul(x, all(w[0]), all(-w[1]));
    }
    dft_forward(o->row, a->M, a->table);
    memset(o->gradient, 0, (size_t)(a->N * a->planes) * sizeof(vd));
    for (int64_t f = 0; f < a->M; f++) {
        const point *p = &a->points[f];
        dft_z        r[MOST], e = dft_mul(dft_conj(o->row[f]), all(p->c[0]), all(p->c[1]));
        cauchy(o, a->N, p->g, r, (1 + R) * (1 + R));
        spread(o, a->N, p->g, e, r, R);
    }
    const vd *g = o->gradient;
    for (int64_t n = 0; n < a->N; n++)
        for (int k = 0; k < a->planes; k++, g++)
            for (int i = 0; i < m; i++) qp_store(&a->c->out[0], (k * a->D + d + i) * a->N + n, (*g)[i]);
}

static void groups(void *arg, int64_t begin, int64_t end, int worker) {
    const job *a = arg;
    room       o = room_of(a, worker);
    for (int64_t g = begin; g < end; g++) {
        int64_t d = g * VD_LANES;
        int     m = a->D - d < VD_LANES ? (int)(a->D - d) : VD_LANES;
        load_planes(a, d, m, o.plane);
        bool back = a->c->nin > 1;
        if (back && a->R == 1) group_backward(a, d, m, &o, 1);
        else if (back) group_backward(a, d, m, &o, 2);
        else if (a->R == 1) group_forward(a, d, m, &o, 1);
        else group_forward(a, d, m, &o, 2);
    }
}

static void run(const qp_call *c) {
    job a = {.c = c,
             .T = ((const attr *)c->attr)->T,
             .D = c->in[0].shape[1],
             .N = c->in[0].shape[2],
             .points = c->exec->scratch};
    a.planes = (int)c->in[0].shape[0];
    a.R = rank_of(a.planes);
    a.M = points_of(a.T);
    a.table = (double *)(a.points + a.M);
    a.work = (char *)(a.table + FFT_REST(a.M));
    a.per_worker = room_bytes(a.M, a.N, a.planes);
    fill_points(a.points, a.M);
    dft_fill_rest(a.table, a.M);
    qp_parallel(c->exec, (a.D + VD_LANES - 1) / VD_LANES, 1, groups, &a);
}
static bool takes(const qp_call *c) {
    return c->in[0].dtype <= QP_F64 && (c->nin > 1 ? &c->in[1] : &c->out[0])->dtype == QP_F32;
}

QP_KERNEL(dplr_kernel) = {run, QP_FLAT, takes};
QP_KERNEL(dplr_kernel_grad) = {run, QP_FLAT, takes};

#if QP_BODY
#include <complex.h>

extern const qp_op qp_op_dplr_kernel_grad;

static bool check(qp_call *c) {
    const qp_view *p = &c->in[0];
    if (p->ndim == 3 && rank_of(p->shape[0]) && qp_dtype_is_float(p->dtype) && ((const attr *)c->attr)->T >= 0)
        return true;
    qp_call_fail(c, QP_ERR_SHAPE, "expected planes [10, D, N] or [20, D, N] and T of 0 at least");
    return false;
}

static void shape(qp_call *c) {
    const attr *a = c->attr;
    if (check(c)) shape_set(c, 0, a->wide ? QP_F32 : c->in[0].dtype, 2, (int64_t[]){a->T, c->in[0].shape[1]});
}

static void grad_shape(qp_call *c) {
    const qp_view *dk = &c->in[1];
    if (!check(c)) return;
    if (dk->ndim != 2 || dk->shape[0] != ((const attr *)c->attr)->T || dk->shape[1] != c->in[0].shape[1])
        qp_call_fail(c, QP_ERR_SHAPE, "expected dk [T, D]");
    shape_set(c, 0, c->in[0].dtype, 3, c->in[0].shape);
}

/* The same with sums in place of transforms. */
typedef struct {
    const qp_view *planes;
    int64_t        d, M;
} definition;

static double plane(const definition *e, int k, int64_t n) {
    return qp_load(e->planes,
                   k * e->planes->stride[0] + e->d * e->planes->stride[1] + n * e->planes->stride[2]);
}

static double complex point_at(const definition *e, int64_t f) {
    double M = (double)e->M;
    return exp(-LOST / (2 * M)) * cexp(I * (M_PI / (2 * M) - 2 * M_PI * (double)f / M));
}

static double complex pole(const definition *e, double complex g, int64_t n) {
    return g * g - plane(e, A1, n) * g + plane(e, A0, n);
}

static void sums(const definition *e, double complex g, double complex r[MOST]) {
    for (int j = 0; 2 + 2 * j < e->planes->shape[0]; j++) {
        r[j] = 0;
        for (int64_t n = 0; n < e->planes->shape[2]; n++)
            r[j] += (plane(e, ALPHA + 2 * j, n) * g + plane(e, BETA + 2 * j, n)) / pole(e, g, n);
    }
}

static void solved(const double complex *r, int R, double complex left[2], double complex right[2]) {
    double complex a = 1 + (R == 1 ? r[3] : r[4]), b = R == 1 ? 0 : r[5], c = R == 1 ? 0 : r[7],
                   d = R == 1 ? 1 : 1 + r[8], s = a * d - b * c;
    double complex l1 = R == 1 ? 0 : r[2], r0 = R == 1 ? r[2] : r[3], r1 = R == 1 ? 0 : r[6];
    left[0] = (r[1] * d - l1 * c) / s, left[1] = (l1 * a - r[1] * b) / s;
    right[0] = (d * r0 - b * r1) / s, right[1] = (a * r1 - c * r0) / s;
}

/* k[l] = Re(w value) for a point's value */
static double complex back(const definition *e, int64_t f, int64_t l) {
    int64_t        n = l % e->M;
    double complex w = cpow(point_at(e, f), -(double)n) / (double)e->M;
    return l < e->M ? w : -I * exp(LOST / 2) * w;
}

static void plain(const qp_call *c) {
    const qp_view *k = &c->out[0];
    definition     e = {.planes = &c->in[0], .M = points_of(k->shape[0])};
    int64_t        T = k->shape[0], D = k->shape[1];
    int            R = rank_of(c->in[0].shape[0]);
    double        *sum = c->exec->scratch;
    for (; e.d < D; e.d++) {
        memset(sum, 0, (size_t)T * sizeof *sum);
        for (int64_t f = 0; f < e.M; f++) {
            double complex z = point_at(&e, f), r[MOST], left[2], right[2];
            sums(&e, 2 * (1 - z) / (1 + z), r);
            solved(r, R, left, right);
            for (int i = 0; i < R; i++) r[0] -= left[i] * r[(i + 1) * (R + 1)];
            r[0] *= 2 / (1 + z);
            for (int64_t l = 0; l < T; l++) sum[l] += creal(back(&e, f, l) * r[0]);
        }
        for (int64_t l = 0; l < T; l++) qp_store(k, qp_view_offset(k, l * D + e.d), sum[l]);
    }
}

/* Adds what the gradients x[j] of r_j at g make of the planes of n. */
static void add_gradients(const definition *e, double complex g, const double complex *x, int64_t n,
                          double *out) {
    double complex q = pole(e, g, n), sum = 0;
    for (int j = 0; 2 + 2 * j < e->planes->shape[0]; j++) {
        out[ALPHA + 2 * j] += creal(x[j] * g / q);
        out[BETA + 2 * j] += creal(x[j] / q);
        sum += x[j] * (plane(e, ALPHA + 2 * j, n) * g + plane(e, BETA + 2 * j, n)) / q / q;
    }
    out[A1] += creal(sum * g);
    out[A0] -= creal(sum);
}

static void grad_plain(const qp_call *c) {
    const qp_view *dk = &c->in[1], *out = &c->out[0];
    int64_t        T = dk->shape[0], D = out->shape[1], N = out->shape[2];
    definition     e = {.planes = &c->in[0], .M = points_of(T)};
    int64_t        planes = c->in[0].shape[0];
    int            R = rank_of(planes);
    double        *sum = c->exec->scratch; /* [N, planes] */
    for (; e.d < D; e.d++) {
        memset(sum, 0, (size_t)(N * planes) * sizeof *sum);
        for (int64_t f = 0; f < e.M; f++) {
            double complex z = point_at(&e, f), g = 2 * (1 - z) / (1 + z), r[MOST], x[MOST], left[2], right[2],
                           s = 0;
            for (int64_t l = 0; l < T; l++) s += back(&e, f, l) * qp_load(dk, qp_view_offset(dk, l * D + e.d));
            sums(&e, g, r);
            s *= 2 / (1 + z);
            solved(r, R, left, right);
            for (int i = 0; i <= R; i++)
                for (int k = 0; k <= R; k++)
                    x[i * (R + 1) + k] = s * (i ? -left[i - 1] : 1) * (k ? -right[k - 1] : 1);
            for (int64_t n = 0; n < N; n++) add_gradients(&e, g, x, n, sum + n * planes);
        }
        for (int64_t i = 0; i < N * planes; i++)
            qp_store(out, qp_view_offset(out, (i % planes * D + e.d) * N + i / planes), sum[i]);
    }
}

static void backward(qp_rule *r) { r->din[0] = QP_CALL(dplr_kernel_grad, r->attr, r->in[0], r->dout[0]); }

static size_t scratch(const qp_call *c, int threads) {
    const qp_view *p = &c->in[0];
    int64_t        M = points_of(((const attr *)c->attr)->T);
    size_t room = p->ndim == 3 && rank_of(p->shape[0]) ? room_bytes(M, p->shape[2], (int)p->shape[0]) : 0;
    return (size_t)M * (sizeof(point) + 2 * sizeof(double)) + (size_t)threads * room;
}
static double flops(const qp_call *c) {
    return 4.3 * (double)qp_view_count(&c->in[0]) * (double)points_of(((const attr *)c->attr)->T);
}
static double grad_flops(const qp_call *c) { return 2.5 * flops(c); }

static const qp_sample samples[] = {{.in = "u[10,3,2]", .attr = &(attr){5, 0}},
                                    {.in = "u[10,17,3]", .attr = &(attr){18, 0}},
                                    {.in = "u[20,3,4]", .attr = &(attr){5, 0}},
                                    {.in = "u[20,17,4]", .attr = &(attr){18, 0}},
                                    {.in = "u[10,2,0]", .attr = &(attr){3, 0}},
                                    {.in = "u[10,2,3]"},
                                    {0}};

QP_OP(dplr_kernel) = {.name = "dplr_kernel",
                      .source = "arXiv:2111.00396, theorem 3",
                      .min_in = 1,
                      .max_in = 1,
                      .nout = 1,
                      .attr_bytes = sizeof(attr),
                      .saves = QP_SAVE_IN(0),
                      .shape = shape,
                      .plain = plain,
                      .backward = backward,
                      .scratch = scratch,
                      .flops = flops,
                      .samples = samples};

static const qp_sample grad_samples[] = {{.in = "u[10,3,2] x[5,3]", .attr = &(attr){5, 0}},
                                         {.in = "u[10,17,3] x[7,17]", .attr = &(attr){7, 0}},
                                         {.in = "u[10,1,1] x[20,1]", .attr = &(attr){20, 0}},
                                         {.in = "u[20,3,2] x[5,3]", .attr = &(attr){5, 0}},
                                         {.in = "u[10,2,3] x[0,2]"},
                                         {0}};

QP_OP(dplr_kernel_grad) = {.name = "dplr_kernel_grad",
                           .source = "backward of dplr_kernel",
                           .min_in = 2,
                           .max_in = 2,
                           .nout = 1,
                           .attr_bytes = sizeof(attr),
                           .shape = grad_shape,
                           .plain = grad_plain,
                           .scratch = scratch,
                           .flops = grad_flops,
                           .samples = grad_samples};

qp_tensor qp_dplr_kernel(qp_tensor planes, int64_t T, qp_dtype dtype) {
    attr a = {T, dtype == QP_F32};
    return QP_CALL(dplr_kernel, &a, planes);
}
#endif
