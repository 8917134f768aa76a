/* Every initialisation of the registry: what distribution it draws from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { OUT = 384, IN = 640, N = OUT * IN };

/* Variance and largest magnitude that a spec promises for a weight [OUT, IN]. */
typedef struct {
    const char *spec;
    double      variance, most;
} promise;

#define XAVIER (2.0 / (IN + OUT))
#define KAIMING (2.0 / IN)
#define LECUN (1.0 / IN)
#define CUT 0.87962566103423978 /* scipy.stats.truncnorm(-2, 2).std() */

static const promise promises[] = {
    {"zeros", 0, 0},
    {"ones", 0, 1},
    {"constant:-0.25", 0, 0.25},
    {"normal:0.3", 0.09, 0},
    {"uniform:0.5", 0.25 / 3, 0.5},
    {"truncated_normal:0.3", 0.09 * CUT * CUT, 0.6},
    {"xavier_uniform", XAVIER, -1},
    {"xavier_normal", XAVIER, 0},
    {"xavier_truncated:0.5", XAVIER / 4, -2},
    {"kaiming_uniform:2", KAIMING * 4, -1},
    {"kaiming_normal", KAIMING, 0},
    {"kaiming_truncated", KAIMING, -2},
    {"lecun_uniform", LECUN, -1},
    {"lecun_normal", LECUN, 0},
    {"lecun_truncated", LECUN, -2},
    {"orthogonal:3", 9.0 / IN, 0},
    {"log_range", -1, 0}, /* see scans */
    {"log_step", -1, 0},
    {"rwkv_share", -1, 0}, /* see ramps */
    {"rwkv_back", -1, 0},
    {"rwkv_decay", -1, 0},
    {"rwkv_first", -1, 0},
    {"rwkv_bonus", -1, 0},
};

/* Fourth moment over the squared variance: 3 for a normal distribution, 1.8 for a uniform one. */
static double kurtosis(const char *spec) {
    return strstr(spec, "uniform") ? 1.8 : strstr(spec, "trunc") ? 2.366 : 3;
}

static void check(qp_ctx *ctx, const promise *p) {
    static float x[N];
    double       sum = 0, squares = 0, fourth = 0, most = 0;
    qp_tensor    t = qp_zeros(ctx, QP_F32, 2, (int64_t[]){OUT, IN});
    qp_init(t, p->spec);
    if (qp_read(t, QP_F32, x, N) != QP_OK) fail_msg("%s: %s", p->spec, qp_error(ctx));
    for (int i = 0; i < N; i++) {
        sum += x[i];
        most = fmax(most, fabs(x[i]));
    }
    double mean = sum / N;
    for (int i = 0; i < N; i++) {
        squares += (x[i] - mean) * (x[i] - mean) / N;
        fourth += pow(x[i] - mean, 4) / N;
    }
    double limit = p->most == -1   ? sqrt(3 * p->variance)
                   : p->most == -2 ? 2 * sqrt(p->variance) / CUT
                                   : p->most;
    if (fabs(squares - p->variance) > 0.02 * p->variance + 1e-12)
        fail_msg("%s: variance %g, expected %g", p->spec, squares, p->variance);
    if (p->variance > 0 && fabs(mean) > 4 * sqrt(p->variance / N)) fail_msg("%s: mean %g", p->spec, mean);
    if (p->variance > 0 && fabs(fourth / squares / squares - kurtosis(p->spec)) > 0.08)
        fail_msg("%s: kurtosis %g", p->spec, fourth / squares / squares);
    if (limit > 0 && (most > limit * (1 + 1e-6) || most < limit * 0.999))
        fail_msg("%s: up to %g, expected %g", p->spec, most, limit);
}

static void distributions(void **state) {
    (void)state;
    const qp_part *part;
    qp_ctx        *ctx = qp_open((qp_options){.threads = 2, .seed = 7});
    for (int i = 0; (part = qp_part_at(NULL, QP_PART_INIT, i)); i++) {
        const promise *p = NULL;
        for (size_t k = 0; k < sizeof promises / sizeof promises[0]; k++)
            if (!strncmp(promises[k].spec, part->name, strlen(part->name)) &&
                strchr(":", promises[k].spec[strlen(part->name)]))
                p = &promises[k];
        if (!p) fail_msg("no test says what %s draws", part->name);
        if (p->variance >= 0) check(ctx, p);
    }
    qp_close(ctx);
}

/* RWKV's ramps: shares from 0 to 1, what is left of them, rates that grow along the channels, and bounds of the rest. */
static void ramps(void **state) {
    (void)state;
    enum { D = 64 };
    static const char *const names[] = {"rwkv_share", "rwkv_back", "rwkv_decay", "rwkv_first", "rwkv_bonus"};
    float                    x[5][D];
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1});
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 5; i++) {
            char spec[32];
            snprintf(spec, sizeof spec, "%s:%g", names[i], 0.5 * layer);
            qp_tensor t = qp_zeros(ctx, QP_F32, 1, (int64_t[]){D});
            qp_init(t, spec);
            assert_int_equal(qp_read(t, QP_F32, x[i], D), QP_OK);
        }
        for (int c = 0; c < D; c++) {
            if (fabsf(x[0][c] + x[1][c] - 1) > 1e-6f || x[0][c] < 0 || x[0][c] > 1)
                fail_msg("shares %g, %g", x[0][c], x[1][c]);
            if (c && (x[0][c] <= x[0][c - 1] || x[2][c] <= x[2][c - 1])) fail_msg("channel %d: no ramp", c);
            if (fabs(x[3][c] - log(0.3)) > 0.5001 || fabsf(x[4][c]) > 1.1001f)
                fail_msg("channel %d: %g, %g", c, x[3][c], x[4][c]);
        }
        assert_true(x[2][0] == -6 && fabsf(x[2][D - 1] + 1) < 1e-5f);
    }
    qp_close(ctx);
}

/* What state spaces begin with: the rates 1, 2, .. in each row; steps whose logarithm is uniform on a range. */
static void scans(void **state) {
    (void)state;
    static float x[N];
    qp_ctx      *ctx = qp_open((qp_options){.threads = 1, .seed = 7});
    qp_tensor    t = qp_zeros(ctx, QP_F32, 2, (int64_t[]){OUT, IN});
    double       low = log(0.001), high = log(0.1), sum = 0, squares = 0;
    qp_init(t, "log_range");
    assert_int_equal(qp_read(t, QP_F32, x, N), QP_OK);
    for (int i = 0; i < N; i++) assert_true(fabs(x[i] - log(i % IN + 1)) < 1e-6);
    qp_init(t, "log_step");
    assert_int_equal(qp_read(t, QP_F32, x, N), QP_OK);
    for (int i = 0; i < N; i++) {
        double y = log(log1p(exp(x[i])));
        assert_true(y > low - 1e-3 && y < high + 1e-3);
        sum += y / N;
        squares += y * y / N;
    }
    assert_true(fabs(sum - (low + high) / 2) < 0.02);
    assert_true(fabs((squares - sum * sum) / ((high - low) * (high - low) / 12) - 1) < 0.02);
    qp_close(ctx);
}

/* A fresh mamba forgets slowly: softplus of its steps' bias is 0.001 to 0.1 (and was 0.69, a memory of one position). */
static void mamba_steps(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 7});
    qp_model *m = qp_model_new(
        ctx, "config",
        "{\"model_type\": \"quipu\", \"vocab_size\": 8, \"hidden_size\": 32, \"num_hidden_layers\": 2, "
        "\"max_position_embeddings\": 8, \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": \"mamba\"}, "
        "\"ffn\": "
        "{\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}}");
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_state_dict all = qp_module_state(qp_model_module(m));
    int           found = 0;
    for (int i = 0; i < all.count; i++) {
        float x[64];
        if (!strstr(all.entries[i].name, "dt.bias")) continue;
        assert_int_equal(qp_read(all.entries[i].tensor, QP_F32, x, 64), QP_OK);
        for (int c = 0; c < 64; c++) assert_true(log1p(exp(x[c])) > 0.00099 && log1p(exp(x[c])) < 0.101);
        found++;
    }
    assert_int_equal(found, 2);
    qp_close(ctx);
}

/* An initialisation that needs fans serves whatever position and mixer a config names. */
static void fans_everywhere(void **state) {
    (void)state;
    static const struct {
        const char  *role;
        qp_part_kind kind;
    } roles[] = {{"position", QP_PART_POSITION}, {"mixer", QP_PART_MIXER}, {"ffn", QP_PART_FFN}};
    for (int r = 0; r < 3; r++) {
        const qp_part *part;
        for (int i = 0; (part = qp_part_at(NULL, roles[r].kind, i)); i++) {
            char    config[700];
            qp_ctx *ctx = qp_open((qp_options){.threads = 1});
            snprintf(
                config, sizeof config,
                "{\"model_type\": \"quipu\", \"vocab_size\": 8, \"hidden_size\": 64, \"num_hidden_layers\": 2, "
                "\"max_position_embeddings\": 64, \"init\": \"lecun_normal\", \"norm\": {\"type\": "
                "\"rms_norm\"}, "
                "\"position\": {\"type\": \"%s\"}, \"mixer\": {\"type\": \"%s\"}, \"ffn\": {\"type\": \"%s\"}}",
                r == 0 ? part->name : "none", r == 1 ? part->name : "attention", r == 2 ? part->name : "mlp");
            if (!qp_model_new(ctx, "config", config))
                fail_msg("%s %s: %s", roles[r].role, part->name, qp_error(ctx));
            qp_close(ctx);
        }
    }
}

/* DeepNorm: values, outputs and feed-forwards begin (8 N)^(-1/4) as large, 1/2 of 2 layers; queries and keys do not. */
static void deep_norm_gain(void **state) {
    (void)state;
    static float x[64 * 256];
    qp_ctx      *ctx = qp_open((qp_options){.threads = 1, .seed = 7});
    qp_model    *m = qp_model_new(
        ctx, "config",
        "{\"model_type\": \"quipu\", \"vocab_size\": 8, \"hidden_size\": 64, \"num_hidden_layers\": 2, "
        "\"max_position_embeddings\": 8, \"initializer_range\": 1, \"position\": {\"type\": \"none\"}, "
        "\"mixer\": {\"type\": \"attention\"}, \"ffn\": {\"type\": \"mlp\"}, "
        "\"norm\": {\"type\": \"rms_norm\"}, \"block\": {\"type\": \"deep_norm\"}}");
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_state_dict all = qp_module_state(qp_model_module(m));
    int           small = 0, large = 0;
    for (int i = 0; i < all.count; i++) {
        const char *name = all.entries[i].name;
        int64_t     n = qp_count(all.entries[i].tensor);
        double      squares = 0;
        if (qp_ndim(all.entries[i].tensor) < 2) continue;
        assert_int_equal(qp_read(all.entries[i].tensor, QP_F32, x, n), QP_OK);
        for (int64_t k = 0; k < n; k++) squares += x[k] * x[k] / (double)n;
        bool whole = !strstr(name, ".v.") && !strstr(name, ".out.") && !strstr(name, ".ffn.");
        if (fabs(sqrt(squares) - (whole ? 1 : 0.5)) > 0.1) fail_msg("%s: %g", name, sqrt(squares));
        *(whole ? &large : &small) += 1;
    }
    assert_int_equal(small, 8);
    assert_int_equal(large, 6); /* with the table and the output */
    qp_close(ctx);
}

static void check_orthogonal(qp_ctx *ctx, int ndim, const int64_t *shape, int64_t rows, int64_t columns) {
    qp_scope  s = qp_enter(ctx);
    qp_tensor t = qp_zeros(ctx, QP_F32, ndim, shape);
    qp_init(t, "orthogonal");
    t = qp_cast(qp_reshape(t, 2, (int64_t[]){rows, columns}), QP_F64);
    qp_tensor turned = qp_transpose(t, 0, 1),
              gram = rows <= columns ? qp_matmul(t, turned) : qp_matmul(turned, t);
    int64_t   n = rows < columns ? rows : columns;
    double   *g = calloc((size_t)(n * n), sizeof *g);
    assert_int_equal(qp_read(gram, QP_F64, g, n * n), QP_OK);
    for (int64_t i = 0; i < n * n; i++) assert_true(fabs(g[i] - (i / n == i % n)) < 1e-5);
    free(g);
    qp_leave(s);
}

static void orthogonal(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 3});
    check_orthogonal(ctx, 2, (int64_t[]){16, 40}, 16, 40);
    check_orthogonal(ctx, 2, (int64_t[]){65, 12}, 65, 12);
    check_orthogonal(ctx, 2, (int64_t[]){96, 96}, 96, 96);
    check_orthogonal(ctx, 2, (int64_t[]){1, 1}, 1, 1);
    check_orthogonal(ctx, 3, (int64_t[]){8, 3, 5}, 8, 15);
    qp_close(ctx);
}

static void wrong(void **state) {
    (void)state;
    static const struct {
        const char *spec, *says;
        int         ndim;
    } cases[] = {{"kaiming_normal", "1 axes has no fans", 1},
                 {"orthogonal", "expected at least 2", 1},
                 {"nosuch", "no such", 2},
                 {"normal:x", "expected a number", 2}};
    for (int i = 0; i < 4; i++) {
        qp_ctx *ctx = qp_open((qp_options){.threads = 1});
        qp_init(qp_zeros(ctx, QP_F32, cases[i].ndim, (int64_t[]){4, 4}), cases[i].spec);
        assert_non_null(strstr(qp_error(ctx), cases[i].says));
        qp_close(ctx);
    }
}

/* ---- Gains of parts ------------------------------------------------------------------------------ */

/* A stack's weights by name, as f32; the logits of a few ids where name is NULL. */
static void drawn(int layers, const char *rest, const char *name, float *out, int n) {
    char    config[900];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 7});
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 9, \"hidden_size\": 16, \"num_hidden_layers\": %d,"
             " \"max_position_embeddings\": 8, \"init\": \"xavier_normal\", \"position\": {\"type\": \"rope\"},"
             " \"norm\": {\"type\": \"layer_norm\"}, \"ffn\": {\"type\": \"mlp\"}, %s}",
             layers, rest);
    qp_model *m = qp_model_new(ctx, "config", config);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_state_dict all = qp_module_state(qp_model_module(m));
    qp_tensor t = name ? QP_NONE : qp_logits(m, qp_reshape(qp_arange(ctx, QP_I64, 8), 2, (int64_t[]){1, 8}));
    for (int i = 0; i < all.count; i++)
        if (name && !strcmp(all.entries[i].name, name)) t = all.entries[i].tensor;
    assert_int_equal(qp_count(t), n);
    assert_int_equal(qp_read(t, QP_F32, out, n), QP_OK);
    qp_close(ctx);
}

/* Table 2 of arXiv:2203.00555, decoders: alpha = (2 N)^(1/4) and beta = (8 N)^(-1/4), here for N of 6 and 18; beta
 * for values, output and feed-forward, none for queries and keys. */
static void deep_norm_table(void **state) {
    static const struct {
        const char *name;
        int         n;
        bool        scaled;
    } cases[] = {{"blocks.1.mixer.q.weight", 256, false}, {"blocks.1.mixer.k.weight", 256, false},
                 {"blocks.1.mixer.v.weight", 256, true},  {"blocks.1.mixer.out.weight", 256, true},
                 {"blocks.1.ffn.up.weight", 1024, true},  {"blocks.1.ffn.down.weight", 1024, true},
                 {"blocks.1.norm1.weight", 16, false},    {"embed.weight", 144, false}};
    static const double table[2][3] = {{6, 1.8612097182041991, 0.3799178428257963},
                                       {18, 2.449489742783178, 0.28867513459481287}};
    static float        with[1024], without[1024];
    char                given[200];
    (void)state;
    for (int k = 0; k < 2; k++) {
        int N = (int)table[k][0];
        for (int i = 0; i < 8; i++) {
            drawn(N, "\"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"block\": {\"type\": \"deep_norm\"}",
                  cases[i].name, with, cases[i].n);
            drawn(N,
                  "\"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"block\": {\"type\": \"deep_norm\", "
                  "\"beta\": 1}",
                  cases[i].name, without, cases[i].n);
            for (int j = 0; j < cases[i].n; j++) {
                double expected = without[j] * (cases[i].scaled ? table[k][2] : 1);
                if (fabs(with[j] - expected) > 1e-6)
                    fail_msg("%s: %g, expected %g", cases[i].name, with[j], expected);
            }
        }
        snprintf(given, sizeof given,
                 "\"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"block\": {\"type\": \"deep_norm\", "
                 "\"alpha\": %.16g, \"beta\": %.16g}",
                 table[k][1], table[k][2]);
        drawn(N, "\"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"block\": {\"type\": \"deep_norm\"}",
              NULL, with, 72);
        drawn(N, given, NULL, without, 72);
        for (int j = 0; j < 72; j++) assert_true(fabsf(with[j] - without[j]) < 1e-5f);
    }
}

/* T5's attention: what stands before the softmax is at first as it is with the division. */
static void unscaled(void **state) {
    static float with[256], without[256];
    (void)state;
    drawn(1, "\"mixer\": {\"type\": \"attention\", \"heads\": 4, \"unscaled\": true}",
          "blocks.0.mixer.q.weight", with, 256);
    drawn(1, "\"mixer\": {\"type\": \"attention\", \"heads\": 4}", "blocks.0.mixer.q.weight", without, 256);
    for (int j = 0; j < 256; j++) assert_true(fabsf(with[j] - without[j] / 2) < 1e-7f);
    drawn(1, "\"mixer\": {\"type\": \"attention\", \"heads\": 4, \"unscaled\": true}", NULL, with, 72);
    drawn(1, "\"mixer\": {\"type\": \"attention\", \"heads\": 4}", NULL, without, 72);
    for (int j = 0; j < 72; j++) assert_true(fabsf(with[j] - without[j]) < 1e-5f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(distributions),   cmocka_unit_test(scans),
                                       cmocka_unit_test(mamba_steps),     cmocka_unit_test(deep_norm_gain),
                                       cmocka_unit_test(fans_everywhere), cmocka_unit_test(ramps),
                                       cmocka_unit_test(orthogonal),      cmocka_unit_test(wrong),
                                       cmocka_unit_test(deep_norm_table), cmocka_unit_test(unscaled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
