/* A causal convolution as long as the sequence, each channel with a filter of its own:
 *
 *   y[b, t, d] = sum_{s <= t} k[t - s, d] x[b, s, d]
 *   dx[b, s, d] = sum_{t >= s} k[t - s, d] dy[b, t, d]     dk[j, d] = sum_b sum_t dy[b, t, d] x[b, t - j, d]
 *
 * By Fourier transforms (kernels/fft.h) over rows of a power of two, from which y, dx and dk come back without
 * padding: dx and dk are products with a conjugate, whose coefficients of negative powers are imaginary. Each
 * transform goes down to a quarter of a quarter, multiplies there and comes back, so that most of it happens in
 * the nearest caches. Short rows are summed as they stand. */
#include "ops/op.h"
#include "ops/shape.h"

#define FFT_V vf
#define FFT_S float
#define FFT_FMA vf_fma
#define FFT(name) fft_##name
#include "kernels/fft.h"

#define SHORT 64 /* positions that are summed as they stand */

typedef struct {
    const float *x, *dy, *k; /* [B, T, D], [L, D] */
    float       *y, *dx, *dk;
    int64_t      B, T, L, D, n; /* n: of a row, a power of two >= T */
    float       *table;
    fft_z       *rows; /* of each worker */
    int          per_worker;
} job;

static int64_t row_of(int64_t T) {
    int64_t n = SHORT;
    while (n < T) n *= 2;
    return n;
}

/* ---- Short rows: of one group of m channels from d on ----------------------------------------------------- */

/* y[t] = sum_s x[s] k[t - s], or from the end: y[s] = sum_t x[t] k[t - s]. */
static void sum_rows(const float *x, const float *k, float *y, int64_t T, int64_t L, int64_t D, int m,
                     bool reverse) {
    for (int64_t t = 0; t < T; t++) {
        int64_t end = reverse ? T - t : t + 1;
        vf      sum = {0};
        for (int64_t j = 0; j < end && j < L; j++)
            sum = vf_fma(vf_load_n(x + (reverse ? t + j : t - j) * D, m), vf_load_n(k + j * D, m), sum);
        vf_store_n(y + t * D, sum, m);
    }
}

static void sum_taps(const job *a, int64_t d, int m) {
    for (int64_t j = 0; j < a->L; j++) {
        vf sum = {0};
        for (int64_t b = 0; b < a->B; b++)
            for (int64_t t = j; t < a->T; t++)
                sum = vf_fma(vf_load_n(a->dy + (b * a->T + t) * a->D + d, m),
                             vf_load_n(a->x + (b * a->T + t - j) * a->D + d, m), sum);
        vf_store_n(a->dk + j * a->D + d, sum, m);
    }
}

/* ---- Long rows ------------------------------------------------------------------------------------------------ */

static void enter(const job *a, const float *x, int64_t T, int m, fft_z *z) {
    int64_t q = a->n / 4;
    for (int64_t j = 0; j < q; j++) {
        vf v[4];
        for (int k = 0; k < 4; k++) v[k] = j + k * q < T ? vf_load_n(x + (j + k * q) * a->D, m) : (vf){0};
        fft_enter(v, z + j, q, a->table + 8 * j);
    }
}

static void leave(const job *a, float *x, int64_t T, int m, const fft_z *z) {
    int64_t q = a->n / 4;
    float   scale = 1 / (float)a->n;
    for (int64_t j = 0; j < q; j++) {
        vf v[4];
        fft_leave(v, z + j, q, a->table + 8 * j);
        for (int k = 0; k < 4; k++)
            if (j + k * q < T) vf_store_n(x + (j + k * q) * a->D, v[k] * scale, m);
    }
}

/* z becomes the inverse transform of its transform times k's. */
static void multiply(fft_z *z, const fft_z *k, int64_t n, const float *w) {
    if (n <= FFT_LEAF) {
        fft_leaf_apart(z, n);
        for (int64_t i = 0; i < n; i++) z[i] = fft_mul(z[i], k[i].re, k[i].im);
        fft_leaf_together(z, n);
        return;
    }
    fft_apart(z, n, w);
    for (int64_t i = 0; i < n; i += n / 4) multiply(z + i, k + i, n / 4, w + 6 * (n / 4));
    fft_together(z, n, w);
}

/* z and x become their transforms; dk gains z conj(x); z comes back times conj(k). */
static void correlate(fft_z *z, fft_z *x, const fft_z *k, fft_z *dk, int64_t n, const float *w) {
    if (n <= FFT_LEAF) {
        fft_leaf_apart(z, n);
        fft_leaf_apart(x, n);
        for (int64_t i = 0; i < n; i++) {
            dk[i] = fft_mul_add(z[i], fft_conj(x[i]), dk[i]);
            z[i] = fft_mul(z[i], k[i].re, -k[i].im);
        }
        fft_leaf_together(z, n);
        return;
    }
    fft_apart(z, n, w);
    fft_apart(x, n, w);
    for (int64_t i = 0; i < n; i += n / 4) correlate(z + i, x + i, k + i, dk + i, n / 4, w + 6 * (n / 4));
    fft_together(z, n, w);
}

/* A row's four parts, between the first pass and the last. */
#define QUARTERS(a, i) for (int64_t i = 0; i < (a)->n; i += (a)->n / 4)
static const float *inner(const job *a) { return a->table + FFT_FIRST(a->n); }

static void transform(const job *a, const float *x, int64_t T, int m, fft_z *z) {
    enter(a, x, T, m, z);
    QUARTERS(a, i) fft_forward(z + i, a->n / 4, inner(a));
}

static void group_forward(const job *a, int64_t d, int m, fft_z *z) {
    fft_z *k = z + a->n;
    transform(a, a->k + d, a->L, m, k);
    for (int64_t b = 0; b < a->B; b++) {
        enter(a, a->x + b * a->T * a->D + d, a->T, m, z);
        QUARTERS(a, i) multiply(z + i, k + i, a->n / 4, inner(a));
        leave(a, a->y + b * a->T * a->D + d, a->T, m, z);
    }
}

static void group_backward(const job *a, int64_t d, int m, fft_z *z) {
    fft_z *x = z + a->n, *k = z + 2 * a->n, *dk = z + 3 * a->n;
    transform(a, a->k + d, a->L, m, k);
    memset(dk, 0, (size_t)a->n * sizeof *dk);
    for (int64_t b = 0; b < a->B; b++) {
        enter(a, a->dy + b * a->T * a->D + d, a->T, m, z);
        enter(a, a->x + b * a->T * a->D + d, a->T, m, x);
        QUARTERS(a, i) correlate(z + i, x + i, k + i, dk + i, a->n / 4, inner(a));
        leave(a, a->dx + b * a->T * a->D + d, a->T, m, z);
    }
    QUARTERS(a, i) fft_inverse(dk + i, a->n / 4, inner(a));
    leave(a, a->dk + d, a->L, m, dk);
}

/* ---- Groups of channels ------------------------------------------------------------------------------------- */

static void groups(void *arg, int64_t begin, int64_t end, int worker) {
    const job *a = arg;
    fft_z     *rows = a->rows + (int64_t)(worker * a->per_worker) * a->n;
    for (int64_t g = begin; g < end; g++) {
        int64_t d = g * VF_LANES, plane = a->T * a->D;
        int     m = a->D - d < VF_LANES ? (int)(a->D - d) : VF_LANES;
        if (a->T > SHORT) {
            (a->dk ? group_backward : group_forward)(a, d, m, rows);
            continue;
        }
        for (int64_t b = 0; b < a->B; b++)
            if (a->dk)
                sum_rows(a->dy + b * plane + d, a->k + d, a->dx + b * plane + d, a->T, a->L, a->D, m, true);
            else sum_rows(a->x + b * plane + d, a->k + d, a->y + b * plane + d, a->T, a->L, a->D, m, false);
        if (a->dk) sum_taps(a, d, m);
    }
}

/* Taps beyond the sequence have nothing to multiply. */
static int64_t taps(const qp_view *k, int64_t T) { return k->shape[0] < T ? k->shape[0] : T; }

static void run_job(const qp_call *c, job *a, const qp_view *x, const qp_view *k) {
    a->B = x->shape[0], a->T = x->shape[1], a->D = x->shape[2], a->L = taps(k, a->T);
    a->x = x->data, a->k = k->data, a->n = row_of(a->T), a->table = c->exec->scratch;
    a->rows = (fft_z *)(a->table + FFT_FIRST(a->n) + FFT_REST(a->n / 4));
    a->per_worker = a->dk ? 4 : 2;
    if (a->T > SHORT) {
        fft_fill_first(a->table, a->n);
        fft_fill_rest(a->table + FFT_FIRST(a->n), a->n / 4);
    }
    qp_parallel(c->exec, (a->D + VF_LANES - 1) / VF_LANES, 1, groups, a);
}

static void run(const qp_call *c) {
    job a = {.y = c->out[0].data};
    run_job(c, &a, &c->in[0], &c->in[1]);
}

static void grad_run(const qp_call *c) {
    job            a = {.dy = c->in[0].data, .dx = c->out[0].data, .dk = c->out[1].data};
    const qp_view *x = &c->in[1], *dk = &c->out[1];
    int64_t        L = taps(dk, x->shape[1]);
    memset(a.dk + L * dk->shape[1], 0, (size_t)((dk->shape[0] - L) * dk->shape[1]) * sizeof *a.dk);
    run_job(c, &a, x, &c->in[2]);
}

QP_KERNEL(long_conv) = {run, QP_FLAT, NULL};
QP_KERNEL(long_conv_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
extern const qp_op qp_op_long_conv_grad;

static bool check(qp_call *c, const qp_view *x, const qp_view *k) {
    if (x->ndim == 3 && k->ndim == 2 && x->shape[2] == k->shape[1] && x->dtype == k->dtype) return true;
    qp_call_fail(c, QP_ERR_SHAPE, "expected x [B, T, D] and a filter [L, D] of one type");
    return false;
}

static void shape(qp_call *c) {
    if (check(c, &c->in[0], &c->in[1])) shape_set(c, 0, c->in[0].dtype, 3, c->in[0].shape);
}

static void grad_shape(qp_call *c) {
    const qp_view *dy = &c->in[0], *x = &c->in[1], *k = &c->in[2];
    if (!check(c, x, k)) return;
    if (dy->dtype != x->dtype || dy->ndim != 3 || memcmp(dy->shape, x->shape, 3 * sizeof *x->shape) != 0)
        qp_call_fail(c, QP_ERR_SHAPE, "dy has another shape or type than x");
    else if (shape_set(c, 0, x->dtype, 3, x->shape)) shape_set(c, 1, k->dtype, 2, k->shape);
}

static double at3(const qp_view *v, int64_t b, int64_t t, int64_t d) {
    return qp_load(v, b * v->stride[0] + t * v->stride[1] + d * v->stride[2]);
}
static double at2(const qp_view *v, int64_t j, int64_t d) {
    return qp_load(v, j * v->stride[0] + d * v->stride[1]);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *k = &c->in[1], *y = &c->out[0];
    int64_t        T = x->shape[1], D = x->shape[2], L = k->shape[0];
    for (int64_t i = 0; i < x->shape[0] * T * D; i++) {
        int64_t b = i / D / T, t = i / D % T, d = i % D;
        double  sum = 0;
        for (int64_t j = 0; j <= t && j < L; j++) sum += at2(k, j, d) * at3(x, b, t - j, d);
        qp_store(y, qp_view_offset(y, i), sum);
    }
}

static void grad_plain(const qp_call *c) {
    const qp_view *dy = &c->in[0], *x = &c->in[1], *k = &c->in[2], *dx = &c->out[0], *dk = &c->out[1];
    int64_t        B = x->shape[0], T = x->shape[1], D = x->shape[2], L = k->shape[0];
    for (int64_t i = 0; i < B * T * D; i++) {
        int64_t b = i / D / T, s = i / D % T, d = i % D;
        double  sum = 0;
        for (int64_t j = 0; j < T - s && j < L; j++) sum += at2(k, j, d) * at3(dy, b, s + j, d);
        qp_store(dx, qp_view_offset(dx, i), sum);
    }
    for (int64_t i = 0; i < L * D; i++) {
        double sum = 0;
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = i / D; t < T; t++) sum += at3(dy, b, t, i % D) * at3(x, b, t - i / D, i % D);
        qp_store(dk, qp_view_offset(dk, i), sum);
    }
}

static void backward(qp_rule *r) {
    qp_tensor out[2];
    QP_CALL_MANY(long_conv_grad, NULL, out, r->dout[0], r->in[0], r->in[1]);
    r->din[0] = out[0];
    r->din[1] = out[1];
}

static size_t room(const qp_view *x, int threads, size_t rows) {
    size_t n = x->shape[1] > SHORT ? (size_t)row_of(x->shape[1]) : 0;
    return n * (3 * sizeof(float) + (size_t)threads * rows * 2 * 64 /* bytes of the widest vector */);
}
static size_t scratch(const qp_call *c, int threads) { return room(&c->in[0], threads, 2); }
static size_t grad_scratch(const qp_call *c, int threads) { return room(&c->in[1], threads, 4); }

/* Three transforms, or five, of length n: 4.25 n log2 n each, for each row. */
static double transforms(const qp_view *x, double of_filter, double of_row) {
    double T = (double)x->shape[1], n = T > SHORT ? (double)row_of(x->shape[1]) : 1;
    double one = n > 1 ? 4.25 * n * log2(n) : T * T / 2;
    return (double)x->shape[2] * one * (of_filter + of_row * (double)x->shape[0]);
}
static double flops(const qp_call *c) { return transforms(&c->in[0], 1, 2); }
static double grad_flops(const qp_call *c) { return transforms(&c->in[1], 2, 3); }

static const qp_sample samples[] = {{.in = "x[2,5,3] x[5,3]"},
                                    {.in = "x[2,130,3] x[130,3]"},
                                    {.in = "x[1,70,17] x[9,17]"},
                                    {.in = "x[1,300,2] x[400,2]"},
                                    {.in = "x[3,0,2] x[4,2]"},
                                    {.in = "x[2,7,2] x[0,2]"},
                                    {0}};

QP_OP(long_conv) = {.name = "long_conv",
                    .source = "irfft(rfft(x, 2T) rfft(k, 2T)), its first T",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
                    .shape = shape,
                    .plain = plain,
                    .backward = backward,
                    .scratch = scratch,
                    .flops = flops,
                    .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[2,5,3] x[2,5,3] x[5,3]"},      {.in = "x[2,130,3] x[2,130,3] x[130,3]"},
    {.in = "x[1,70,17] x[1,70,17] x[9,17]"}, {.in = "x[1,300,2] x[1,300,2] x[400,2]"},
    {.in = "x[3,0,2] x[3,0,2] x[4,2]"},      {0}};

QP_OP(long_conv_grad) = {.name = "long_conv_grad",
                         .source = "backward of long_conv",
                         .min_in = 3,
                         .max_in = 3,
                         .nout = 2,
                         .shape = grad_shape,
                         .plain = grad_plain,
                         .scratch = grad_scratch,
                         .flops = grad_flops,
                         .samples = grad_samples};

qp_tensor qp_long_conv(qp_tensor x, qp_tensor k) { return QP_CALL(long_conv, NULL, x, k); }
#endif
