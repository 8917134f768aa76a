/* Hugging Face configs: what changes the mathematics is done or refused, never passed over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { T = 16, VOCABULARY = 64 };

static const char head[] =
    "{\"vocab_size\": 64, \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 4, \"max_position_embeddings\": 64, \"initializer_range\": 0.3, \"model_type\": ";

/* The last position's logits of a model with these further keys. */
static void logits_of(const char *keys, float out[VOCABULARY]) {
    char    text[1024];
    int32_t ids[T];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    snprintf(text, sizeof text, "%s%s}", head, keys);
    for (int i = 0; i < T; i++) ids[i] = i * 7 % VOCABULARY;
    qp_model *m = qp_model_new(ctx, "test", text);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    qp_tensor y = qp_logits(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, T}, ids));
    assert_int_equal(qp_read(qp_slice(y, 1, T - 1, T, 1), QP_F32, out, VOCABULARY), QP_OK);
    qp_close(ctx);
}

static bool equal(const char *a, const char *b) {
    float x[VOCABULARY], y[VOCABULARY];
    logits_of(a, x);
    logits_of(b, y);
    return !memcmp(x, y, sizeof x);
}

static void refused(const char *keys, const char *key) {
    char    text[1024];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    snprintf(text, sizeof text, "%s%s}", head, keys);
    assert_null(qp_model_new(ctx, "test", text));
    assert_int_equal(qp_error_code(ctx), QP_ERR_UNSUPPORTED);
    if (!strstr(qp_error(ctx), key)) fail_msg("\"%s\" does not name %s", qp_error(ctx), key);
    qp_close(ctx);
}

#define WINDOW "\"qwen2\", \"sliding_window\": 4, \"use_sliding_window\": true, "

static void qwen2_windows(void **state) {
    (void)state;
    assert_true(equal(WINDOW "\"max_window_layers\": 28", "\"qwen2\""));
    assert_true(equal(WINDOW "\"max_window_layers\": 2", "\"qwen2\""));
    assert_true(equal("\"qwen2\", \"sliding_window\": 4", "\"qwen2\""));
    assert_true(equal("\"qwen2\", \"sliding_window\": null, \"use_sliding_window\": true, "
                      "\"max_window_layers\": 0", "\"qwen2\""));
    assert_false(equal(WINDOW "\"max_window_layers\": 0", "\"qwen2\""));
    assert_true(equal(WINDOW "\"max_window_layers\": 1",
                      WINDOW "\"layer_types\": [\"full_attention\", \"sliding_attention\"]"));
    assert_false(equal(WINDOW "\"max_window_layers\": 1", WINDOW "\"max_window_layers\": 0"));
    assert_false(equal(WINDOW "\"max_window_layers\": 1", "\"qwen2\""));
    refused(WINDOW "\"layer_types\": [\"full_attention\", \"chunked_attention\"]", "layer_types[1]");
}

static void dropouts(void **state) {
    (void)state;
    assert_true(equal("\"llama\", \"attention_dropout\": 0.5", "\"llama\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(qwen2_windows), cmocka_unit_test(dropouts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
