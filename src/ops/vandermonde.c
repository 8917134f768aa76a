/* Sums of complex powers, real parts: what a diagonal state space answers to an impulse (S4D, Gu et al. 2022,
 * arXiv:2206.11893, eq. 4). For l < T, with c and p complex [D, N] in two tensors each:
 *
 *   k[l, d] = 2 Re sum_n c[d, n] p[d, n]^l
 *   dc = 2 conj(sum_l dk[l] p^l)     dp = 2 conj(c sum_l l dk[l] p^(l - 1))
 *
 * (a gradient's real and imaginary part are those by the part). A block of rows is a sum of c p^begin, kept in
 * double, times the powers 0, 1, .. from a table: nothing adds up along the sequence. c and p may be f64 where k
 * is f32, since an error of p grows with l. */
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int64_t T;
    int32_t wide; /* k is f32 whatever c and p are */
} attr;

#define BLOCK (VF_LANES == 16 ? 16 : 8) /* rows, as many as there are registers for */
#define LANES 16                        /* room for those of any instruction set */

/* Of one n, for each lane. */
typedef struct {
    vf     re[BLOCK], im[BLOCK];              /* p^0, p^1, .. */
    double w[2][LANES], jump[2][LANES];       /* (c) p^begin; p^BLOCK */
    double first[2][LANES], second[2][LANES]; /* backward: sum dk p^l, sum (l + 1) dk[l + 1] p^l */
} mode;

typedef struct {
    const qp_call *c;
    const qp_view *coefficient[2], *power[2]; /* real, imaginary */
    const float   *dk;
    float         *k;
    int64_t        T, D, N;
    mode          *modes; /* N for each worker */
} job;

static void times(double a[2][LANES], const double b[2][LANES]) {
    for (int i = 0; i < VF_LANES; i++) {
        double re = a[0][i] * b[0][i] - a[1][i] * b[1][i];
        a[1][i] = a[0][i] * b[1][i] + a[1][i] * b[0][i];
        a[0][i] = re;
    }
}

static void fill(const double x[2][LANES], vf *re, vf *im) {
    float r[VF_LANES], j[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) r[i] = (float)x[0][i], j[i] = (float)x[1][i];
    *re = vf_load(r), *im = vf_load(j);
}

/* with_c: w begins with c, otherwise with 1 */
static void begin_modes(const job *a, int64_t d, int m, mode *modes, bool with_c) {
    for (int64_t n = 0; n < a->N; n++) {
        mode  *o = &modes[n];
        double p[2][LANES] = {{0}};
        memset(o->w, 0, sizeof o->w);
        memset(o->first, 0, sizeof o->first);
        memset(o->second, 0, sizeof o->second);
        memset(o->jump, 0, sizeof o->jump);
        for (int i = 0; i < VF_LANES; i++) o->jump[0][i] = 1;
        for (int i = 0; i < m; i++)
            for (int part = 0; part < 2; part++) {
                int64_t at = (d + i) * a->N + n;
                p[part][i] = qp_load(a->power[part], at);
                o->w[part][i] = with_c ? qp_load(a->coefficient[part], at) : part == 0;
            }
        for (int j = 0; j < BLOCK; j++) {
            fill((const double (*)[LANES])o->jump, &o->re[j], &o->im[j]);
            times(o->jump, (const double (*)[LANES])p);
        }
    }
}

static void forward_block(const job *a, mode *modes, float *k, int64_t rows, int m) {
    vf sum[BLOCK] = {{0}};
    for (int64_t n = 0; n < a->N; n++) {
        mode *o = &modes[n];
        vf    re, im;
        fill((const double (*)[LANES])o->w, &re, &im);
        for (int j = 0; j < BLOCK; j++) sum[j] = vf_fma(re, o->re[j], vf_fma(-im, o->im[j], sum[j]));
        times(o->w, (const double (*)[LANES])o->jump);
    }
    for (int64_t j = 0; j < rows; j++) vf_store_n(k + j * a->D, sum[j] + sum[j], m);
}

/* dk of the block's rows, and of those one further times their number. */
static void backward_block(const job *a, mode *modes, int64_t begin, int64_t d, int m) {
    vf x[BLOCK], y[BLOCK];
    for (int j = 0; j < BLOCK; j++) {
        int64_t l = begin + j;
        x[j] = l < a->T ? vf_load_n(a->dk + l * a->D + d, m) : (vf){0};
        y[j] = l + 1 < a->T ? vf_load_n(a->dk + (l + 1) * a->D + d, m) * (float)(l + 1) : (vf){0};
    }
    for (int64_t n = 0; n < a->N; n++) {
        mode *o = &modes[n];
        vf    s[4] = {{0}};
        float part[4][VF_LANES];
        for (int j = 0; j < BLOCK; j++) {
            s[0] = vf_fma(x[j], o->re[j], s[0]);
            s[1] = vf_fma(x[j], o->im[j], s[1]);
            s[2] = vf_fma(y[j], o->re[j], s[2]);
            s[3] = vf_fma(y[j], o->im[j], s[3]);
        }
        for (int k = 0; k < 4; k++) vf_store(part[k], s[k]);
        for (int i = 0; i < VF_LANES; i++) {
            double re = o->w[0][i], im = o->w[1][i];
            o->first[0][i] += part[0][i] * re - part[1][i] * im;
            o->first[1][i] += part[0][i] * im + part[1][i] * re;
            o->second[0][i] += part[2][i] * re - part[3][i] * im;
            o->second[1][i] += part[2][i] * im + part[3][i] * re;
        }
        times(o->w, (const double (*)[LANES])o->jump);
    }
}

static void store_gradients(const job *a, const mode *modes, int64_t d, int m) {
    const qp_view *out = a->c->out;
    for (int i = 0; i < m; i++)
        for (int64_t n = 0; n < a->N; n++) {
            const mode *o = &modes[n];
            int64_t     at = (d + i) * a->N + n;
            double      re = qp_load(a->coefficient[0], at), im = qp_load(a->coefficient[1], at);
            qp_store(&out[0], at, 2 * o->first[0][i]);
            qp_store(&out[1], at, -2 * o->first[1][i]);
            qp_store(&out[2], at, 2 * (re * o->second[0][i] - im * o->second[1][i]));
            qp_store(&out[3], at, -2 * (re * o->second[1][i] + im * o->second[0][i]));
        }
}

static void groups(void *arg, int64_t begin, int64_t end, int worker) {
    const job *a = arg;
    mode      *modes = a->modes + worker * a->N;
    for (int64_t g = begin; g < end; g++) {
        int64_t d = g * VF_LANES;
        int     m = a->D - d < VF_LANES ? (int)(a->D - d) : VF_LANES;
        begin_modes(a, d, m, modes, !a->dk);
        for (int64_t l = 0; l < a->T; l += BLOCK)
            if (a->dk) backward_block(a, modes, l, d, m);
            else forward_block(a, modes, a->k + l * a->D + d, a->T - l < BLOCK ? a->T - l : BLOCK, m);
        if (a->dk) store_gradients(a, modes, d, m);
    }
}

static void run_job(job *a, const qp_view *in) {
    a->coefficient[0] = &in[0], a->coefficient[1] = &in[1], a->power[0] = &in[2], a->power[1] = &in[3];
    a->T = ((const attr *)a->c->attr)->T, a->D = in->shape[0], a->N = in->shape[1],
    a->modes = a->c->exec->scratch;
    qp_parallel(a->c->exec, (a->D + VF_LANES - 1) / VF_LANES, 1, groups, a);
}

static void run(const qp_call *c) {
    job a = {.c = c, .k = c->out[0].data};
    run_job(&a, c->in);
}
static void grad_run(const qp_call *c) {
    job a = {.c = c, .dk = c->in[4].data};
    run_job(&a, c->in);
}
static bool floats(const qp_call *c) { return c->in[0].dtype == QP_F32 || c->in[0].dtype == QP_F64; }
static bool takes(const qp_call *c) { return floats(c) && c->out[0].dtype == QP_F32; }
static bool grad_takes(const qp_call *c) { return floats(c) && c->in[4].dtype == QP_F32; }

QP_KERNEL(vandermonde) = {run, QP_FLAT, takes};
QP_KERNEL(vandermonde_grad) = {grad_run, QP_FLAT, grad_takes};

#if QP_BODY
#include <complex.h>

extern const qp_op qp_op_vandermonde_grad;

static bool check(qp_call *c) {
    bool same = c->in[0].ndim == 2 && qp_dtype_is_float(c->in[0].dtype) && ((const attr *)c->attr)->T >= 0;
    for (int i = 1; i < 4; i++)
        same = same && c->in[i].dtype == c->in[0].dtype && c->in[i].ndim == 2 &&
               !memcmp(c->in[i].shape, c->in[0].shape, 2 * sizeof(int64_t));
    if (!same) qp_call_fail(c, QP_ERR_SHAPE, "expected four tensors [D, N] of one type and T of 0 at least");
    return same;
}

static void shape(qp_call *c) {
    const attr *a = c->attr;
    if (check(c)) shape_set(c, 0, a->wide ? QP_F32 : c->in[0].dtype, 2, (int64_t[]){a->T, c->in[0].shape[0]});
}

static void grad_shape(qp_call *c) {
    const qp_view *dk = &c->in[4];
    if (!check(c)) return;
    if (dk->ndim != 2 || dk->shape[0] != ((const attr *)c->attr)->T || dk->shape[1] != c->in[0].shape[0])
        qp_call_fail(c, QP_ERR_SHAPE, "expected dk [T, D]");
    for (int i = 0; i < 4; i++) shape_set(c, i, c->in[0].dtype, 2, c->in[0].shape);
}

static double complex at(const qp_view *in, int64_t i) {
    return qp_load(&in[0], qp_view_offset(&in[0], i)) + I * qp_load(&in[1], qp_view_offset(&in[1], i));
}

static void plain(const qp_call *c) {
    int64_t D = c->in[0].shape[0], N = c->in[0].shape[1], T = c->out[0].shape[0];
    for (int64_t l = 0; l < T; l++)
        for (int64_t d = 0; d < D; d++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++) {
                double complex p = 1, base = at(c->in + 2, d * N + n);
                for (int64_t e = l; e; e >>= 1, base *= base)
                    if (e & 1) p *= base;
                sum += 2 * creal(at(c->in, d * N + n) * p);
            }
            qp_store(&c->out[0], qp_view_offset(&c->out[0], l * D + d), sum);
        }
}

static void put(const qp_view *out, int64_t i, double complex z) {
    qp_store(&out[0], qp_view_offset(&out[0], i), 2 * creal(z));
    qp_store(&out[1], qp_view_offset(&out[1], i), -2 * cimag(z));
}

static void grad_plain(const qp_call *c) {
    const qp_view *dk = &c->in[4];
    int64_t        D = c->in[0].shape[0], N = c->in[0].shape[1], T = dk->shape[0];
    for (int64_t i = 0; i < D * N; i++) {
        double complex first = 0, second = 0, p = 1, base = at(c->in + 2, i);
        for (int64_t l = 0; l < T; l++, p *= base) {
            first += p * qp_load(dk, qp_view_offset(dk, l * D + i / N));
            if (l + 1 < T) second += p * (double)(l + 1) * qp_load(dk, qp_view_offset(dk, (l + 1) * D + i / N));
        }
        put(c->out, i, first);
        put(c->out + 2, i, at(c->in, i) * second);
    }
}

static void backward(qp_rule *r) {
    QP_CALL_MANY(vandermonde_grad, r->attr, r->din, r->in[0], r->in[1], r->in[2], r->in[3], r->dout[0]);
}

static size_t scratch(const qp_call *c, int threads) {
    return (size_t)threads * (size_t)c->in[0].shape[1] * (32 * 64 + 8 * LANES * 8);
}
static double flops(const qp_call *c) {
    return 4.0 * (double)qp_view_count(&c->in[0]) * (double)((const attr *)c->attr)->T;
}
static double grad_flops(const qp_call *c) { return 2 * flops(c); }

static const qp_sample samples[] = {{.in = "x[3,2] x[3,2] u[3,2] u[3,2]", .attr = &(attr){5, 0}},
                                    {.in = "x[17,3] x[17,3] u[17,3] u[17,3]", .attr = &(attr){20, 0}},
                                    {.in = "x[2,0] x[2,0] u[2,0] u[2,0]", .attr = &(attr){3, 0}},
                                    {.in = "x[2,3] x[2,3] u[2,3] u[2,3]"},
                                    {0}};

QP_OP(vandermonde) = {.name = "vandermonde",
                      .source = "arXiv:2206.11893, eq. 4",
                      .min_in = 4,
                      .max_in = 4,
                      .nout = 1,
                      .attr_bytes = sizeof(attr),
                      .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1) | QP_SAVE_IN(2) | QP_SAVE_IN(3),
                      .shape = shape,
                      .plain = plain,
                      .backward = backward,
                      .scratch = scratch,
                      .flops = flops,
                      .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,2] x[3,2] u[3,2] u[3,2] x[5,3]", .attr = &(attr){5, 0}},
    {.in = "x[17,3] x[17,3] u[17,3] u[17,3] x[20,17]", .attr = &(attr){20, 0}},
    {.in = "^x[5,3] ^x[5,3] ^u[5,3] ^u[5,3] x[18,5]", .attr = &(attr){18, 1}},
    {.in = "x[2,3] x[2,3] u[2,3] u[2,3] x[0,2]"},
    {0}};

QP_OP(vandermonde_grad) = {.name = "vandermonde_grad",
                           .source = "backward of vandermonde",
                           .min_in = 5,
                           .max_in = 5,
                           .nout = 4,
                           .attr_bytes = sizeof(attr),
                           .shape = grad_shape,
                           .plain = grad_plain,
                           .scratch = scratch,
                           .flops = grad_flops,
                           .samples = grad_samples};

qp_tensor qp_vandermonde(qp_tensor c_re, qp_tensor c_im, qp_tensor p_re, qp_tensor p_im, int64_t T,
                         qp_dtype dtype) {
    attr a = {T, dtype == QP_F32};
    return QP_CALL(vandermonde, &a, c_re, c_im, p_re, p_im);
}
#endif
