/* Mixtures of experts: what test_parts does not ask.
 *
 *   golden      switch with a capacity against its formula (tests/golden/make_experts.py)
 *   rows        a token's result has the same bits alone and among others
 *   untouched   experts that nobody chose are not read
 *   bias        deepseek_moe's moves against the loads, at steps only
 *   statistics  loads and losses of each layer reach the caller, in training only */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "nn/experts.h"
#include "quipu/quipu.h"

/* A feed-forward by itself. */
typedef struct {
    const qp_branch_type *type;
    qp_module            *module;
    void                 *self;
} layer;

static layer layer_of(qp_ctx *ctx, const char *name, int64_t width, const char *const names[],
                      const double *values) {
    layer       l = {(const void *)qp_part_find(ctx, QP_PART_FFN, name), qp_module_new(ctx, NULL, "ffn"), NULL};
    qp_settings settings;
    qpi_settings_init(&settings, &l.type->part);
    for (int i = 0; names[i]; i++)
        assert_int_equal(qpi_settings_set(ctx, &settings, "test", names[i], values[i]), QP_OK);
    l.self = calloc(1, l.type->part.bytes);
    qp_build b = {.ctx = ctx,
                  .module = l.module,
                  .width = width,
                  .layers = 1,
                  .init = "normal:0.5",
                  .init_residual = "normal:0.5",
                  .settings = &settings};
    l.type->init(l.self, &b);
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    return l;
}

static qp_tensor param_of(layer l, const char *name) {
    qp_state_dict dict = qp_module_state(l.module);
    for (int i = 0; i < dict.count; i++)
        if (!strcmp(dict.entries[i].name, name)) return dict.entries[i].tensor;
    fail_msg("no parameter %s", name);
    return QP_NONE;
}

static void close_layer(qp_ctx *ctx, layer l) {
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
    free(l.self);
}

static double off(qp_tensor a, qp_tensor b) {
    float   x[4096], y[4096];
    double  worst = 0, scale = 0;
    int64_t n = qp_count(b);
    assert_true(n <= 4096 && qp_count(a) == n);
    assert_int_equal(qp_read(a, QP_F32, x, n), QP_OK);
    assert_int_equal(qp_read(b, QP_F32, y, n), QP_OK);
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, isfinite(x[i]) ? fabs((double)x[i] - y[i]) : INFINITY);
        scale = fmax(scale, fabs((double)y[i]));
    }
    return worst / scale;
}

static void golden(void **state) {
    (void)state;
    static const char *const options[] = {"experts", "width", "capacity", "balance", "z_loss", NULL};
    static const char *const names[][2] = {
        {"router.weight", "router"}, {"experts.up", "up"}, {"experts.down", "down"}};
    qp_ctx  *ctx = qp_open((qp_options){.threads = 2});
    layer    l = layer_of(ctx, "switch", 6, options, (double[]){4, 5, 1.2, 1, 0.5});
    qp_file *file =
        qp_file_open(ctx, SOURCE_DIR "/tests/golden/experts/switch.safetensors", (qp_file_options){0});
    qp_record out = {0};
    if (!file) fail_msg("%s", qp_error(ctx));
    for (int i = 0; i < 3; i++)
        assert_int_equal(
            qp_param_set(param_of(l, names[i][0]), qp_cast(qp_file_load(ctx, file, names[i][1], true), QP_F32)),
            QP_OK);
    qp_tensor x = qp_cast(qp_file_load(ctx, file, "x", true), QP_F32);
    qp_require_grad(x, true);
    qp_sequence s = {.out = &out};
    qp_tensor   y = l.type->forward(l.self, qp_reshape(x, 3, (int64_t[]){1, 23, 6}), QP_NONE, &s);
    qp_tensor   loss = qp_record_get(&out, "aux.balance"), z = qp_record_get(&out, "aux.z_loss");
    assert_true(
        off(qp_reshape(qp_affine(z, 2, 0), 1, (int64_t[]){1}), qp_file_load(ctx, file, "z_loss", true)) < 1e-5);
    assert_true(off(qp_reshape(y, 2, (int64_t[]){23, 6}), qp_file_load(ctx, file, "y", true)) < 1e-5);
    assert_true(off(qp_reshape(loss, 1, (int64_t[]){1}), qp_file_load(ctx, file, "loss", true)) < 1e-5);
    qp_tensor wave = qp_reshape(qp_cos(qp_cast(qp_arange(ctx, QP_I64, 138), QP_F32)), 3, (int64_t[]){1, 23, 6});
    qp_backward(qp_add(qp_sum(qp_mul(y, wave), 0, NULL, false), qp_add(loss, z)));
    assert_true(off(qp_grad_of(x), qp_file_load(ctx, file, "grad.x", true)) < 1e-4);
    for (int i = 0; i < 3; i++) {
        char name[40];
        snprintf(name, sizeof name, "grad.%s", names[i][1]);
        assert_true(off(qp_grad_of(param_of(l, names[i][0])), qp_file_load(ctx, file, name, true)) < 1e-4);
    }
    qp_file_close(file);
    close_layer(ctx, l);
}

enum { ROWS = 64, WIDTH = 32 };

static void bits(layer l, qp_tensor x, int64_t from, int64_t to, float *out) {
    qp_sequence s = {0};
    qp_tensor   y = l.type->forward(l.self, qp_slice(x, 1, from, to, 1), QP_NONE, &s);
    if (qp_read(y, QP_F32, out, (to - from) * WIDTH) != QP_OK) fail_msg("%s", qp_error(x.ctx));
}

static void check_rows(const char *name, qp_dtype type) {
    static const char *const experts[] = {"gate", "up", "down"};
    static float             all[ROWS * WIDTH], one[WIDTH];
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 3, .seed = 8});
    layer                    l = layer_of(ctx, name, WIDTH, (const char *[]){"width", NULL}, (double[]){96});
    qp_no_grad(ctx, true);
    qp_module_fill(l.module);
    qp_set_training(l.module, false);
    for (int i = strcmp(name, "switch") ? 0 : 1; i < 3; i++) {
        char full[40];
        snprintf(full, sizeof full, "experts.%s", experts[i]);
        qp_tensor w = param_of(l, full);
        qp_require_grad(w, false);
        assert_int_equal(qp_param_set(w, qp_cast(w, type)), QP_OK);
    }
    qp_tensor x = qp_full(ctx, QP_F32, 3, (int64_t[]){1, ROWS, WIDTH}, 0);
    qp_init(x, "normal:1");
    bits(l, x, 0, ROWS, all);
    for (int64_t i = 0; i < ROWS; i += 7) {
        bits(l, x, i, i + 1, one);
        if (memcmp(one, all + i * WIDTH, sizeof one))
            fail_msg("%s with weights in %s: token %d", name, qp_dtype_name(type), (int)i);
    }
    close_layer(ctx, l);
}

static void rows(void **state) {
    (void)state;
    static const char *const names[] = {"switch", "mixtral", "deepseek_moe"};
    for (int i = 0; i < 3; i++) {
        check_rows(names[i], QP_F32);
        check_rows(names[i], QP_BF16);
        check_rows(names[i], QP_Q8_0);
    }
}

/* The router's rows are units: token t goes to experts t and t + 1. */
static void untouched(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 2});
    layer   l = layer_of(ctx, "mixtral", 8, (const char *[]){"experts", "width", NULL}, (double[]){8, 16});
    float   router[64] = {0}, x[8] = {0, 0, 3, 2, 0, 0, 0, 0}, y[8], good[8];
    for (int i = 0; i < 8; i++) router[9 * i] = 1;
    qp_no_grad(ctx, true);
    qp_module_fill(l.module);
    qp_write(param_of(l, "router.weight"), QP_F32, router, 64);
    qp_sequence s = {0};
    qp_tensor   t = qp_from(ctx, QP_F32, 3, (int64_t[]){1, 1, 8}, x);
    assert_int_equal(qp_read(l.type->forward(l.self, t, QP_NONE, &s), QP_F32, good, 8), QP_OK);
    for (int e = 0; e < 8; e++)
        if (e != 2 && e != 3)
            qp_copy_to(qp_slice(param_of(l, "experts.up"), 0, e, e + 1, 1),
                       qp_full(ctx, QP_F32, 3, (int64_t[]){1, 16, 8}, NAN));
    assert_int_equal(qp_read(l.type->forward(l.self, t, QP_NONE, &s), QP_F32, y, 8), QP_OK);
    assert_memory_equal(y, good, sizeof y);
    close_layer(ctx, l);
}

static void bias(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 2});
    layer   l =
        layer_of(ctx, "deepseek_moe", 4, (const char *[]){"experts", "width", "per_token", "bias_rate", NULL},
                 (double[]){4, 3, 1, 0.25});
    float router[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, x[24] = {0}, b[4];
    for (int i = 0; i < 6; i++) x[4 * i + (i < 4 ? 0 : 1)] = 5; /* loads 4, 2, 0, 0: mean 1.5 */
    qp_module_fill(l.module);
    qp_write(param_of(l, "router.weight"), QP_F32, router, 16);
    qp_sequence s = {0};
    qp_tensor   t = qp_from(ctx, QP_F32, 3, (int64_t[]){2, 3, 4}, x);
    l.type->forward(l.self, t, QP_NONE, &s);
    assert_int_equal(qp_read(param_of(l, "bias"), QP_F32, b, 4), QP_OK);
    for (int i = 0; i < 4; i++) assert_true(b[i] == 0);
    for (int again = 0; again < 2; again++) { /* no tokens since: it stays */
        qp_no_grad(ctx, true);
        l.type->stepped(l.self, true);
        assert_int_equal(qp_read(param_of(l, "bias"), QP_F32, b, 4), QP_OK);
        for (int i = 0; i < 4; i++) assert_true(b[i] == (i < 2 ? -0.25f : 0.25f));
    }
    l.type->forward(l.self, t, QP_NONE, &s); /* without a record, and it counts nothing */
    l.type->stepped(l.self, true);
    qp_no_grad(ctx, false);
    l.type->forward(l.self, t, QP_NONE, &s); /* a step that was not taken */
    qp_no_grad(ctx, true);
    l.type->stepped(l.self, false);
    l.type->stepped(l.self, true);
    assert_int_equal(qp_read(param_of(l, "bias"), QP_F32, b, 4), QP_OK);
    assert_true(b[0] == -0.25f);
    close_layer(ctx, l);
}

static void statistics(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\": \"quipu\", \"vocab_size\": 9, \"hidden_size\": 8, \"num_hidden_layers\": 3, "
        "\"max_position_embeddings\": 16, \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": "
        "\"attention\", \"heads\": 2}, "
        "\"ffn\": {\"type\": \"switch\", \"experts\": 4, \"width\": 6, \"capacity\": 0.5, \"z_loss\": 0.5}, "
        "\"norm\": "
        "{\"type\": \"rms_norm\"}}";
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 6});
    qp_model *m = qp_model_new(ctx, "config", config);
    float     load[12], dropped[3];
    qp_record in = {0};
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_record_set(&in, "input_ids", qp_reshape(qp_arange(ctx, QP_I64, 8), 2, (int64_t[]){1, 8}));
    qp_record_set(&in, "labels", qp_reshape(qp_arange(ctx, QP_I64, 8), 2, (int64_t[]){1, 8}));
    qp_record out = qp_forward(m, in);
    assert_int_equal(qp_read(qp_record_get(&out, "stat.load"), QP_F32, load, 12), QP_OK);
    assert_int_equal(qp_read(qp_record_get(&out, "stat.dropped"), QP_F32, dropped, 3), QP_OK);
    for (int i = 0; i < 3; i++) {
        double sum = dropped[i];
        for (int e = 0; e < 4; e++) {
            assert_true(load[4 * i + e] <= 0.125f); /* one of eight */
            sum += load[4 * i + e];
        }
        assert_true(fabs(sum - 1) < 1e-6 && dropped[i] >= 0.5f);
    }
    double loss = qp_item(qp_record_get(&out, "aux.balance"));
    assert_true(fabs(loss / 0.01 - 1) <
                0.02); /* routers that are drawn small: all experts as likely, in each layer */
    assert_true(fabs(qp_item(qp_record_get(&out, "aux.z_loss")) / (0.5 * pow(log(4), 2)) - 1) < 0.02);
    qp_set_training(qp_model_module(m), false);
    out = qp_forward(m, in);
    assert_true(qp_is_none(qp_record_get(&out, "aux.balance")) && qp_is_none(qp_record_get(&out, "stat.load")));
    assert_false(qp_failed(ctx));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(rows),
                                       cmocka_unit_test(untouched), cmocka_unit_test(bias),
                                       cmocka_unit_test(statistics)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
