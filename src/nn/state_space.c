#include "nn/state_space.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* ---- Complex tensors ---------------------------------------------------------------------------------- */

typedef qpi_complex z;

qpi_complex qpi_complex_mul(qpi_complex a, qpi_complex b) {
    return (z){qp_sub(qp_mul(a.re, b.re), qp_mul(a.im, b.im)), qp_add(qp_mul(a.re, b.im), qp_mul(a.im, b.re))};
}

qpi_complex qpi_complex_inverse(qpi_complex a) {
    qp_tensor size = qp_add(qp_square(a.re), qp_square(a.im));
    return (z){qp_div(a.re, size), qp_neg(qp_div(a.im, size))};
}

static z conjugate(z a) { return (z){a.re, qp_neg(a.im)}; }
static z scale(z a, qp_tensor real) { return (z){qp_mul(a.re, real), qp_mul(a.im, real)}; }
static z affine(z a, double factor, double shift) {
    return (z){qp_affine(a.re, factor, shift), qp_affine(a.im, factor, 0)};
}
static z minus(z a, z b) { return (z){qp_sub(a.re, b.re), qp_sub(a.im, b.im)}; }

/* 2 Re of the sum over N of a b, [D, 1] */
static qp_tensor dot(z a, z b) {
    return qp_affine(qp_sum(qp_sub(qp_mul(a.re, b.re), qp_mul(a.im, b.im)), 1, (int[]){1}, true), 2, 0);
}

/* ---- Parameters ------------------------------------------------------------------------------------------ */

qp_tensor qpi_param_of(qp_build *b, const char *name, int ndim, const int64_t *shape, const double *v) {
    qp_scope  s = qp_enter(b->ctx);
    qp_tensor p = qp_param(b->module, name, NULL, ndim, shape),
              t = qp_empty(b->ctx, b->ctx->param_dtype, ndim, shape);
    if (!qp_failed(b->ctx) && qp_write(t, QP_F64, v, qp_count(t)) == QP_OK && qp_param_set(p, t) != QP_OK)
        p = QP_NONE;
    qp_leave(s);
    return p;
}

/* A parameter of the state space, which learns at a rate of its own. */
static qp_tensor slow_param(qp_build *b, const char *name, int ndim, const int64_t *shape, const double *v) {
    double    rate = qp_setting(b, "rate");
    qp_tensor p = qpi_param_of(b, name, ndim, shape, v);
    qp_param_rates(b->module, name, (qp_rates){rate, rate, true});
    return p;
}

static void init_poles(qpi_state_space *s, qp_build *b, double *v, const qpi_pole_values *first) {
    int64_t       N = s->poles, n = s->width * N, shape[] = {s->width, N};
    const double *from[] = {first->re,   first->im,   first->b_re,     first->b_im,
                            first->p_re, first->p_im, first->p_re + N, first->p_im + N};
    for (int k = 0; k < 8; k++)
        for (int64_t i = 0; i < n; i++)
            v[k * n + i] = k == 0 ? log(fmax(-from[k][i % N], 1e-4)) : from[k][i % N];
    s->log_real = slow_param(b, "log_real", 2, shape, v);
    s->imag = slow_param(b, "imag", 2, shape, v + n);
    if (!s->rank) return;
    s->b_re = slow_param(b, "b_re", 2, shape, v + 2 * n);
    s->b_im = slow_param(b, "b_im", 2, shape, v + 3 * n);
    for (int r = 0; r < s->rank; r++) {
        s->p_re[r] = slow_param(b, r ? "p2_re" : "p_re", 2, shape, v + (4 + 2 * r) * n);
        s->p_im[r] = slow_param(b, r ? "p2_im" : "p_im", 2, shape, v + (5 + 2 * r) * n);
    }
}

/* Steps from low to high, evenly on a logarithmic scale. */
static void init_steps(qpi_state_space *s, qp_build *b, double *v) {
    double   low = log(qp_setting(b, "dt_min")), high = fmax(log(qp_setting(b, "dt_max")), low);
    qp_scope scope = qp_enter(b->ctx);
    if (qp_read(qp_rand(b->ctx, QP_F64, 1, &s->width), QP_F64, v, s->width) != QP_OK)
        memset(v, 0, (size_t)s->width * sizeof *v);
    qp_leave(scope);
    for (int64_t d = 0; d < s->width; d++) v[d] = low + (high - low) * v[d];
    s->log_dt = slow_param(b, "log_dt", 1, &s->width, v);
}

/* Normal, of variance 1 together; of a diagonal matrix B goes into it. */
static void init_c(qpi_state_space *s, qp_build *b, double *v, const qpi_pole_values *first) {
    int64_t   n = s->width * s->poles, shape[] = {s->width, s->poles};
    qp_scope  scope = qp_enter(b->ctx);
    qp_tensor draw = qp_randn(b->ctx, QP_F64, 1, (int64_t[]){2 * n});
    if (qp_read(draw, QP_F64, v, 2 * n) != QP_OK) memset(v, 0, (size_t)(2 * n) * sizeof *v);
    qp_leave(scope);
    for (int64_t i = 0; i < n; i++) {
        double re = v[i] * M_SQRT1_2, im = v[n + i] * M_SQRT1_2, b0 = first->b_re[i % s->poles],
               b1 = first->b_im[i % s->poles];
        v[i] = s->rank ? re : re * b0 - im * b1;
        v[n + i] = s->rank ? im : re * b1 + im * b0;
    }
    s->c_re = qpi_param_of(b, "c_re", 2, shape, v);
    s->c_im = qpi_param_of(b, "c_im", 2, shape, v + n);
}

void qpi_state_space_init(qpi_state_space *s, qp_build                               *b,
                          bool (*fill)(int64_t N, int choice, qpi_pole_values v), int choice) {
    s->width = b->width;
    s->poles = qp_setting_int(b, "state") / 2;
    int64_t         N = s->poles, n = s->width * N;
    double         *v = malloc((size_t)(8 * n + 8 * N + 1) * sizeof *v), *first = v + 8 * n;
    qpi_pole_values p = {first, first + N, first + 2 * N, first + 3 * N, first + 4 * N, first + 6 * N};
    if (v) memset(first, 0, (size_t)(8 * N) * sizeof *first);
    if (!v || !fill(N, choice, p)) {
        qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: state space");
    } else {
        init_steps(s, b, v);
        init_c(s, b, v, &p);
        init_poles(s, b, v, &p);
    }
    free(v);
    qpi_kept_init(&s->planes, b, 3, (int64_t[]){s->width, s->rank == 2 ? 14 : 10, N});
    qpi_gate_init(&s->gate, b);
}

/* ---- In discrete time ---------------------------------------------------------------------------------------- */

/* In f64: what a pole is off by grows with the length. a = dt times the poles; half = 1 / (1 - a/2). */
typedef struct {
    qp_tensor dt; /* [D, 1] */
    z         a, b, c, p[2], half;
} discrete;

static qp_tensor wide(qp_tensor x) { return qp_cast(x, QP_F64); }

static discrete make_discrete(const qpi_state_space *s) {
    discrete d = {.dt = qp_exp(qp_reshape(wide(s->log_dt), 2, (int64_t[]){s->width, 1})),
                  .c = {wide(s->c_re), wide(s->c_im)}};
    d.a = scale((z){qp_neg(qp_exp(wide(s->log_real))), wide(s->imag)}, d.dt);
    d.half = qpi_complex_inverse(affine(d.a, -0.5, 1));
    if (s->rank) d.b = (z){wide(s->b_re), wide(s->b_im)};
    for (int r = 0; r < s->rank; r++) d.p[r] = (z){wide(s->p_re[r]), wide(s->p_im[r])};
    return d;
}

/* Of a diagonal matrix: less_one = e^a - 1, or (1 + a/2) / (1 - a/2) - 1; gain: what B = 1 becomes. */
static void diagonal(const qpi_state_space *s, const discrete *d, z *less_one, z *gain) {
    if (s->bilinear) {
        *less_one = qpi_complex_mul(d->a, d->half);
        *gain = scale(d->half, d->dt);
        return;
    }
    qp_tensor size = qp_exp(d->a.re);
    *less_one = (z){qp_affine(qp_mul(size, qp_cos(d->a.im)), 1, -1), qp_mul(size, qp_sin(d->a.im))};
    *gain = scale(qpi_complex_mul(*less_one, qpi_complex_inverse(d->a)), d->dt);
}

/* dt v of one of the products, as alpha and beta of dplr_kernel. */
static void put_sum(const discrete *d, z v, qp_tensor *planes) {
    v = scale(v, d->dt);
    planes[0] = qp_affine(v.re, 2, 0);
    planes[1] = qp_affine(qp_add(qp_mul(v.re, d->a.re), qp_mul(v.im, d->a.im)), -2, 0);
}

static qp_tensor kernel(const qpi_state_space *s, int64_t T, qp_dtype dtype) {
    discrete d = make_discrete(s);
    if (!s->rank) {
        z less_one, gain;
        diagonal(s, &d, &less_one, &gain);
        z c = qpi_complex_mul(d.c, gain);
        return qp_vandermonde(c.re, c.im, qp_affine(less_one.re, 1, 1), less_one.im, T, dtype);
    }
    qp_tensor planes[20] = {qp_affine(d.a.re, 2, 0), qp_add(qp_square(d.a.re), qp_square(d.a.im))};
    int       count = 2;
    for (int i = 0; i <= s->rank; i++)
        for (int k = 0; k <= s->rank; k++, count += 2)
            put_sum(&d, qpi_complex_mul(i ? conjugate(d.p[i - 1]) : d.c, k ? d.p[k - 1] : d.b), planes + count);
    for (int i = 0; i < count; i++) planes[i] = qp_reshape(planes[i], 3, (int64_t[]){1, s->width, s->poles});
    return qp_dplr_kernel(qp_concat(count, planes, 0), T, dtype);
}

/* The columns of G (1 + P^* G)^-1 with G = dt/2 half P (half: of above; sums over a pole are over its conjugate, too). */
static void corrections(const qpi_state_space *s, const discrete *d, z g[2]) {
    z         G[2], next[2];
    qp_tensor m[2][2];
    for (int r = 0; r < s->rank; r++) G[r] = affine(scale(qpi_complex_mul(d->half, d->p[r]), d->dt), 0.5, 0);
    for (int i = 0; i < s->rank; i++)
        for (int k = 0; k < s->rank; k++) m[i][k] = qp_affine(dot(conjugate(d->p[i]), G[k]), 1, i == k);
    if (s->rank == 1) {
        g[0] = (z){qp_div(G[0].re, m[0][0]), qp_div(G[0].im, m[0][0])};
        return;
    }
    qp_tensor determinant = qp_sub(qp_mul(m[0][0], m[1][1]), qp_mul(m[0][1], m[1][0]));
    next[0] = minus(scale(G[0], m[1][1]), scale(G[1], m[1][0]));
    next[1] = minus(scale(G[1], m[0][0]), scale(G[0], m[0][1]));
    for (int r = 0; r < 2; r++) g[r] = (z){qp_div(next[r].re, determinant), qp_div(next[r].im, determinant)};
}

/* The step's matrices: with g of above and H = dt half B
 *
 *   h = h + a half h - sum_r g_r 2 Re(P_r^* 2 half h) + (H - sum_r g_r 2 Re(P_r^* H)) x
 */
static qp_tensor step_planes(const void *self) {
    const qpi_state_space *s = self;

    discrete  d = make_discrete(s);
    z         e, g[2], in, out, H;
    qp_tensor parts[14];
    int       n = 2;
    if (s->rank) {
        corrections(s, &d, g);
        e = qpi_complex_mul(d.a, d.half);
        in = H = scale(qpi_complex_mul(d.half, d.b), d.dt);
        out = affine(d.c, 2, 0);
    } else {
        diagonal(s, &d, &e, &out);
        out = affine(qpi_complex_mul(d.c, out), 2, 0);
        in = affine(d.a, 0, 1);
        for (int i = 0; i < 4; i++) parts[n++] = qp_affine(d.a.re, 0, 0);
    }
    for (int r = 0; r < s->rank; r++) {
        z bar = conjugate(d.p[r]), q = affine(qpi_complex_mul(bar, d.half), 4, 0);
        in = minus(in, scale(g[r], dot(bar, H)));
        parts[n++] = q.re, parts[n++] = q.im, parts[n++] = g[r].re, parts[n++] = g[r].im;
    }
    parts[0] = e.re, parts[1] = e.im;
    parts[n++] = in.re, parts[n++] = in.im, parts[n++] = out.re, parts[n++] = out.im;
    for (int i = 0; i < n; i++) parts[i] = qp_reshape(parts[i], 3, (int64_t[]){s->width, 1, s->poles});
    return qp_concat(n, parts, 1);
}

/* ---- What follows ------------------------------------------------------------------------------------------- */

void qpi_gate_init(qpi_gate *g, qp_build *b) {
    g->width = b->width;
    g->glu = qp_setting(b, "glu") != 0;
    g->skip = qp_param(b->module, "skip", "normal:1", 1, &g->width);
    qp_linear_options out = {.bias = true, .init = g->glu ? b->init : b->init_residual};
    g->out = qp_nn_linear_new(b->module, "out", g->width, (g->glu ? 2 : 1) * g->width, out);
}

qp_tensor qpi_gate_forward(const qpi_gate *g, qp_tensor y, qp_tensor x, qp_tensor residual) {
    y = qp_gelu(qp_add(y, qp_mul(x, g->skip)));
    if (!g->glu) return qp_nn_linear_forward(g->out, y, QP_ACT_NONE, residual);
    y = qp_nn_linear_forward(g->out, y, QP_ACT_NONE, QP_NONE);
    y = qp_mul(qp_slice(y, 2, 0, g->width, 1), qp_sigmoid(qp_slice(y, 2, g->width, 2 * g->width, 1)));
    return qp_is_none(residual) ? y : qp_add(y, residual);
}

/* ---- The mixer ------------------------------------------------------------------------------------------------- */

qp_tensor qpi_state_space_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_state_space *m = self;
    qpi_one_segment(s, m->rank ? "s4" : "s4d");
    return qpi_gate_forward(&m->gate, qp_long_conv(x, kernel(m, qp_size(x, 1), qp_dtype_of(x))), x, residual);
}

void qpi_state_space_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    qpi_state_space *m = self;
    (void)positions;
    qpi_kept_value(&m->planes, step_planes, m);
    qp_state_add(state, ctx, false, 4, (int64_t[]){rows, m->width, 2, m->poles});
}

qp_tensor qpi_state_space_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                               qp_state *state) {
    qpi_state_space *m = self;
    qp_tensor        y, next;
    (void)s;
    qp_dplr_scan(x, state->tensors[0], qpi_kept_value(&m->planes, step_planes, m), &y, &next);
    qp_state_set(state, 0, next);
    return qpi_gate_forward(&m->gate, y, x, residual);
}

bool qpi_state_space_causal(const void *self) {
    (void)self;
    return true;
}
