/* S4, S4D and the LRU: against their definitions (tests/golden/make_state_spaces.py), steps of any size against the
 * whole sequence, causality of long sequences; HiPPO's poles against its matrix. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../relative_error.h"
#include "models/model.h"
#include "nn/hippo.h"
#include "quipu/quipu.h"

enum { D = 4 };

static qp_ctx *ctx;

/* The mixer of a stack of one layer. */
static const qp_branch *make(const char *mixer, qp_model **m) {
    char config[600];
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 5, \"hidden_size\": %d, \"num_hidden_layers\": 1,"
             " \"max_position_embeddings\": 4096, \"position\": {\"type\": \"none\"}, \"mixer\": %s,"
             " \"ffn\": {\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}}",
             D, mixer);
    *m = qp_model_new(ctx, "config", config);
    if (!*m) fail_msg("%s", qp_error(ctx));
    return &(*m)->blocks[0].block.mixer;
}

static qp_tensor parameter(qp_model *m, const char *name) {
    qp_state_dict all = qp_module_state(m->module);
    for (int i = 0; i < all.count; i++) {
        const char *end = strstr(all.entries[i].name, "mixer.");
        if (end && !strcmp(end + 6, name)) return all.entries[i].tensor;
    }
    fail_msg("no parameter %s", name);
    return QP_NONE;
}

static qp_tensor weighed_sum(qp_tensor y) {
    int64_t   n = qp_count(y);
    qp_tensor w = qp_cast(qp_cos(qp_cast(qp_arange(ctx, QP_I64, n), QP_F64)), qp_dtype_of(y));
    return qp_sum(qp_mul(qp_reshape(y, 1, &n), w), 0, NULL, false);
}

static void check_golden(const char *name, double forward, double backward) {
    char path[300];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/state_spaces/%s.safetensors", name);
    qp_file         *f = qp_file_open(ctx, path, (qp_file_options){0});
    qp_model        *m;
    qp_sequence      s = {0};
    const qp_branch *mixer = make(qp_file_meta(f, "config"), &m);
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        const char *of = qp_file_at(f, i).name;
        if (strncmp(of, "in.", 3) && strncmp(of, "out.y", 5) && strncmp(of, "grad.", 5))
            assert_int_equal(qp_copy_to(parameter(m, of), qp_file_load(ctx, f, of, true)), QP_OK);
    }
    qp_tensor x = qp_cast(qp_file_load(ctx, f, "in.x", true), ctx->param_dtype);
    qp_require_grad(x, true);
    qp_tensor y = mixer->type->forward(mixer->self, x, QP_NONE, &s);
    double    e = relative_error(y, qp_file_load(ctx, f, "out.y", true));
    if (!(e <= forward)) fail_msg("%s: off by %.2e", name, e);
    qp_backward(weighed_sum(y));
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        const char *of = qp_file_at(f, i).name;
        if (strncmp(of, "grad.", 5)) continue;
        qp_tensor g = qp_grad_of(!strcmp(of, "grad.x") ? x : parameter(m, of + 5));
        e = relative_error(g, qp_file_load(ctx, f, of, true));
        if (!(e <= backward)) fail_msg("%s: %s is off by %.2e", name, of, e);
    }
    qp_file_close(f);
}

static const char *const goldens[] = {"s4", "s4-legt", "s4d", "s4d-bilinear", "lru"};

static void golden(void **state) {
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int i = 0; i < 5; i++) {
            ctx = qp_open((qp_options){.threads = 2});
            ctx->param_dtype = wide ? QP_F64 : QP_F32;
            check_golden(goldens[i], wide ? 1e-7 : 1e-5, wide ? 1e-6 : 1e-4);
            qp_close(ctx);
        }
}

static const char *const mixers[] = {"{\"type\": \"s4\"}",
                                     "{\"type\": \"s4\", \"hippo\": \"lagt\", \"glu\": false}",
                                     "{\"type\": \"s4\", \"hippo\": \"legt\"}",
                                     "{\"type\": \"s4d\"}",
                                     "{\"type\": \"s4d\", \"poles\": \"lin\"}",
                                     "{\"type\": \"s4d\", \"poles\": \"inv\", \"discrete\": \"bilinear\"}",
                                     "{\"type\": \"lru\"}",
                                     "{\"type\": \"lru\", \"r_min\": 0.9, \"r_max\": 0.999}"};
enum { MIXERS = sizeof mixers / sizeof *mixers, T = 1500 };

/* A kernel and its state space are one: pieces of 1, 30, 400, .. positions with the state between them. */
static void steps(void **state) {
    static const int64_t cuts[] = {0, 1, 2, 32, 432, T};
    (void)state;
    for (int i = 0; i < MIXERS; i++) {
        qp_model *m;
        ctx = qp_open((qp_options){.threads = 2, .seed = 3});
        const qp_branch *mixer = make(mixers[i], &m);
        qp_no_grad(ctx, true);
        qp_state    carried = {0};
        qp_sequence s = {0};
        qp_tensor   x = qp_randn(ctx, QP_F32, 3, (int64_t[]){2, T, D}),
                    y = mixer->type->forward(mixer->self, x, QP_NONE, &s), parts[5];
        mixer->type->reserve(mixer->self, ctx, 2, T, &carried);
        for (int k = 0; k < 5; k++) {
            parts[k] =
                mixer->type->step(mixer->self, qp_slice(x, 1, cuts[k], cuts[k + 1], 1), QP_NONE, &s, &carried);
            for (int j = 0; j < carried.count; j++) carried.tensors[j] = carried.next[j];
        }
        double e = relative_error(qp_concat(5, parts, 1), y);
        if (!(e <= 2e-5)) fail_msg("%s: steps are off by %.2e", mixers[i], e);
        qp_close(ctx);
    }
}

/* Weights that change while a session lives are seen by its next step. */
static void changes(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        float     y[3][D];
        qp_model *m;
        ctx = qp_open((qp_options){.threads = 1, .seed = 3});
        const qp_branch *mixer = make(mixers[i], &m);
        qp_no_grad(ctx, true);
        qp_sequence s = {0};
        qp_tensor   x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, 1, D}), dt = parameter(m, "log_dt");
        for (int k = 0; k < 3; k++) {
            qp_state carried = {0};
            if (k == 2) qp_copy_to(dt, qp_affine(dt, 1, 0.7));
            if (k != 1) mixer->type->reserve(mixer->self, ctx, 1, 4, &carried);
            if (k == 1)
                mixer->type->reserve(mixer->self, ctx, 1, 4, &carried), qp_copy_to(dt, qp_affine(dt, 1, 0.7));
            assert_int_equal(qp_read(mixer->type->step(mixer->self, x, QP_NONE, &s, &carried), QP_F32, y[k], D),
                             QP_OK);
            if (k == 1) qp_copy_to(dt, qp_affine(dt, 1, -0.7));
        }
        assert_memory_not_equal(y[0], y[1], sizeof *y);
        assert_memory_equal(y[1], y[2], sizeof *y);
        qp_close(ctx);
    }
}

/* What comes later changes earlier positions by rounding at most. */
static void causality(void **state) {
    (void)state;
    for (int i = 0; i < MIXERS; i++) {
        qp_model *m;
        ctx = qp_open((qp_options){.threads = 2, .seed = 3});
        const qp_branch *mixer = make(mixers[i], &m);
        qp_no_grad(ctx, true);
        qp_sequence s = {0};
        qp_tensor   x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D}),
                    other = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D});
        qp_tensor   mixed =
            qp_concat(2, (qp_tensor[]){qp_slice(x, 1, 0, 700, 1), qp_slice(other, 1, 700, T, 1)}, 1);
        qp_tensor a = mixer->type->forward(mixer->self, x, QP_NONE, &s),
                  b = mixer->type->forward(mixer->self, mixed, QP_NONE, &s);
        double    e = relative_error(qp_slice(a, 1, 0, 700, 1), qp_slice(b, 1, 0, 700, 1));
        if (!(e <= 5e-6)) fail_msg("%s: the future is seen: %.2e", mixers[i], e);
        qp_close(ctx);
    }
}

/* Whatever the eigenvectors' phases, 2 Re sum conj(p) lambda^k b = P^T S^k B, S = A + P P^T, for each column of P; S's
 * poles come in pairs. */
static void check_hippo(qpi_hippo kind, int64_t n) {
    int     rank = qpi_hippo_rank(kind);
    double *A = calloc((size_t)(n * n + 5 * n), sizeof *A), *B = A + n * n, *P = B + n, *x = P + 2 * n,
           *next = x + n;
    double    v[6][64];
    qpi_poles p = {v[0], v[1], v[2], v[3], v[4], v[5]};
    qpi_hippo_fill(kind, n, A, B, P);
    assert_true(qpi_hippo_poles(kind, n, p));
    for (int r = 0; r < rank; r++)
        for (int64_t i = 0; i < n * n; i++) A[i] += P[r * n + i / n] * P[r * n + i % n];
    for (int64_t i = 0; i < n * n; i++) /* a multiple of I plus a skew matrix */
        assert_true(fabs(i / n == i % n ? A[i] - A[0] : A[i] + A[i % n * n + i / n]) < 1e-12 * (double)n);
    for (int r = 0; r < rank; r++) {
        double size = 1, largest = v[1][n / 2 - 1] + 1;
        memcpy(x, B, (size_t)n * sizeof *x);
        for (int power = 0; power < 5; power++, size /= largest) {
            double expected = 0, got = 0, *p_re = v[4] + r * n / 2, *p_im = v[5] + r * n / 2;
            for (int64_t i = 0; i < n; i++) expected += P[r * n + i] * x[i] * size;
            for (int64_t i = 0; i < n / 2; i++) {
                double re = p_re[i] * v[2][i] + p_im[i] * v[3][i],
                       im = p_re[i] * v[3][i] - p_im[i] * v[2][i]; /* conj(p) b */
                for (int k = 0; k < power; k++) {
                    double keep = re * v[0][i] - im * v[1][i];
                    im = re * v[1][i] + im * v[0][i];
                    re = keep;
                }
                got += 2 * re * size;
            }
            if (fabs(got - expected) > 1e-9 * (double)(n * n))
                fail_msg("kind %d, %d: %g, expected %g", kind, (int)n, got, expected);
            memset(next, 0, (size_t)n * sizeof *next);
            for (int64_t i = 0; i < n * n; i++) next[i / n] += A[i] * x[i % n];
            memcpy(x, next, (size_t)n * sizeof *x);
        }
    }
    for (int64_t i = 1; i < n / 2; i++) assert_true(v[1][i] > v[1][i - 1]);
    free(A);
}

/* The matrices of arXiv:2111.00396, appendix C.1, for three polynomials; LegT at half the pace, as its authors' code. */
static void matrices(void **state) {
    double r3 = sqrt(3), r5 = sqrt(5), r15 = sqrt(15), A[9], B[3], P[6];
    (void)state;
    const double legs[] = {-1, 0, 0, -r3, -2, 0, -r5, -r15, -3}, legs_b[] = {1, r3, r5},
                 lagt[] = {-0.5, 0, 0, -1, -0.5, 0, -1, -1, -0.5}, lagt_b[] = {1, 1, 1},
                 legt[] = {-0.5, r3 / 2, -r5 / 2, -r3 / 2, -1.5, r15 / 2, -r5 / 2, -r15 / 2, -2.5},
                 legt_b[] = {0.5, r3 / 2, r5 / 2};
    const struct {
        qpi_hippo     kind;
        const double *A, *B;
    } cases[] = {{QPI_LEGS, legs, legs_b}, {QPI_LAGT, lagt, lagt_b}, {QPI_LEGT, legt, legt_b}};
    for (int i = 0; i < 3; i++) {
        qpi_hippo_fill(cases[i].kind, 3, A, B, P);
        for (int k = 0; k < 9; k++) assert_true(fabs(A[k] - cases[i].A[k]) < 1e-14);
        for (int k = 0; k < 3; k++) assert_true(fabs(B[k] - cases[i].B[k]) < 1e-14);
    }
}

static void hippo(void **state) {
    (void)state;
    for (int kind = QPI_LEGS; kind <= QPI_LEGT; kind++)
        for (int64_t n = 2; n <= 64; n *= 2) check_hippo((qpi_hippo)kind, n);
}

/* Poles, B, P and steps learn at their own rate, without weight decay; C and what follows like everything else. */
static void rates(void **state) {
    (void)state;
    qp_model *m;
    ctx = qp_open((qp_options){.threads = 1});
    make("{\"type\": \"s4\", \"hippo\": \"legt\", \"rate\": 0.25}", &m);
    qp_state_dict all = qp_module_state(m->module);
    int           slow = 0;
    for (int i = 0; i < all.count; i++) {
        const char *end = strstr(all.entries[i].name, "mixer.");
        bool own = end && strspn(end + 6, "blip") && strncmp(end + 6, "in", 2); /* log_, imag, b_, p_, p2_ */
        assert_true(all.entries[i].rates.steady == own && all.entries[i].rates.adam == (own ? 0.25 : 0));
        slow += own;
    }
    assert_int_equal(slow, 9);
    qp_close(ctx);
}

/* ---- Where training begins -------------------------------------------------------------------------- */

enum { WIDE = 512 };

static void values(const char *mixer, const char *name, int64_t n, double *out) {
    char config[500];
    ctx = qp_open((qp_options){.threads = 1, .seed = 2});
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 2, \"hidden_size\": %d, \"num_hidden_layers\": 1,"
             " \"max_position_embeddings\": 8, \"position\": {\"type\": \"none\"}, \"mixer\": %s,"
             " \"ffn\": {\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}}",
             WIDE, mixer);
    qp_model *m = qp_model_new(ctx, "config", config);
    if (!m) fail_msg("%s", qp_error(ctx));
    if (qp_read(parameter(m, name), QP_F64, out, n) != QP_OK) fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
}

/* Evenly between low and high, within five deviations of the mean. */
static void expect_even(const double *x, double low, double high) {
    double sum = 0;
    for (int i = 0; i < WIDE; i++) {
        assert_true(x[i] > low - 1e-6 && x[i] < high + 1e-6);
        sum += x[i] / WIDE;
    }
    assert_true(fabs(sum - (low + high) / 2) < 5 * (high - low) / sqrt(12.0 * WIDE));
}

static void steps_begin(void **state) {
    static const char *const mixers[] = {
        "{\"type\": \"s4\", \"state\": 4, \"dt_min\": 0.002, \"dt_max\": 0.05}",
        "{\"type\": \"s4d\", \"state\": 4, \"dt_min\": 0.002, \"dt_max\": 0.05}"};
    double x[WIDE];
    (void)state;
    for (int i = 0; i < 2; i++) {
        values(mixers[i], "log_dt", WIDE, x);
        expect_even(x, log(0.002), log(0.05));
    }
}

/* arXiv:2206.11893, section 4.2: -1/2 + i pi n, and -1/2 + i N / pi (N / (2n + 1) - 1), N = 8. */
static void poles_begin(void **state) {
    static double x[4 * WIDE];
    (void)state;
    values("{\"type\": \"s4d\", \"state\": 8, \"poles\": \"lin\"}", "imag", 4 * WIDE, x);
    for (int i = 0; i < 4 * WIDE; i++) assert_float_equal(x[i], acos(-1) * (i % 4), 1e-5);
    values("{\"type\": \"s4d\", \"state\": 8, \"poles\": \"inv\"}", "imag", 4 * WIDE, x);
    for (int i = 0; i < 4 * WIDE; i++)
        assert_float_equal(x[i], 8 / acos(-1) * (8.0 / (2 * (i % 4) + 1) - 1), 1e-5);
    values("{\"type\": \"s4d\", \"state\": 8, \"poles\": \"inv\"}", "log_real", 4 * WIDE, x);
    for (int i = 0; i < 4 * WIDE; i++) assert_float_equal(x[i], log(0.5), 1e-6);
}

/* arXiv:2303.06349, lemma 3.2: a ring that is filled evenly has squares of radii that are even; gamma makes states as
 * large as inputs. */
static void ring_begins(void **state) {
    static const char mixer[] =
        "{\"type\": \"lru\", \"state\": 512, \"r_min\": 0.1, \"r_max\": 0.9, \"max_phase\": 1}";
    double square[WIDE], theta[WIDE], gamma[WIDE];
    (void)state;
    values(mixer, "nu_log", WIDE, square);
    values(mixer, "theta_log", WIDE, theta);
    values(mixer, "gamma_log", WIDE, gamma);
    for (int i = 0; i < WIDE; i++) {
        square[i] = exp(-2 * exp(square[i]));
        theta[i] = exp(theta[i]);
        assert_float_equal(exp(2 * gamma[i]), 1 - square[i], 1e-5);
    }
    expect_even(square, 0.01, 0.81);
    expect_even(theta, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden),      cmocka_unit_test(steps),
                                       cmocka_unit_test(changes),     cmocka_unit_test(causality),
                                       cmocka_unit_test(matrices),    cmocka_unit_test(hippo),
                                       cmocka_unit_test(rates),       cmocka_unit_test(steps_begin),
                                       cmocka_unit_test(poles_begin), cmocka_unit_test(ring_begins)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
