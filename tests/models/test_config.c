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

#define LAYERS "\"layer_types\": "

static void layers_differ(void **state) {
    (void)state;
    assert_true(equal("\"qwen3\"", "\"qwen3\", \"use_sliding_window\": false, \"sliding_window\": 4, \"max_window_layers\": 0"));
    assert_false(equal("\"qwen3\"", "\"qwen3\", \"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0"));
    assert_true(equal("\"gemma2\", \"sliding_window\": 4",
                      "\"gemma2\", \"sliding_window\": 4, " LAYERS "[\"sliding_attention\", \"full_attention\"]"));
    assert_false(equal("\"gemma2\", \"sliding_window\": 4", "\"gemma2\", \"sliding_window\": null"));
    assert_true(equal("\"gemma3_text\", \"sliding_window\": 4, \"sliding_window_pattern\": 2",
                      "\"gemma3_text\", \"sliding_window\": 4, " LAYERS "[\"sliding_attention\", \"full_attention\"]"));
    assert_false(equal("\"gemma3_text\"", "\"gemma3_text\", \"rope_local_base_freq\": 100"));
    assert_true(equal("\"smollm3\", \"no_rope_layer_interval\": 2", "\"smollm3\", \"no_rope_layers\": [1, 0]"));
    assert_false(equal("\"smollm3\", \"no_rope_layers\": [1, 1]", "\"smollm3\", \"no_rope_layers\": [1, 0]"));
    assert_true(equal("\"smollm3\", \"rope_theta\": 2000000.0", "\"smollm3\""));
    assert_true(equal("\"phi3\", \"sliding_window\": null", "\"phi3\""));
}

/* What a key without the key means. */
static void caps_have_fallbacks(void **state) {
    (void)state;
    assert_true(equal("\"gemma2\"", "\"gemma2\", \"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0"));
    assert_false(equal("\"gemma2\"", "\"gemma2\", \"final_logit_softcapping\": null"));
    assert_false(equal("\"gemma2\"", "\"gemma2\", \"attn_logit_softcapping\": 0.5"));
    assert_true(equal("\"gemma3_text\"", "\"gemma3_text\", \"final_logit_softcapping\": null"));
    assert_true(equal("\"gemma\", \"hidden_act\": \"gelu\"", "\"gemma\""));
    assert_false(equal("\"granite\"", "\"granite\", \"residual_multiplier\": 0.5"));
}

static void what_cannot_be_done(void **state) {
    (void)state;
    refused("\"gemma3_text\", \"attn_logit_softcapping\": 2.0", "attn_logit_softcapping");
    refused("\"gemma3_text\", \"rope_parameters\": {\"rope_theta\": 3.0}", "rope_parameters.rope_theta");
    refused("\"gemma\", \"hidden_act\": \"silu\"", "hidden_act");
    refused("\"gemma2\", \"use_bidirectional_attention\": true", "use_bidirectional_attention");
    refused("\"phi3\", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1.0]}", "short_factor");
    refused("\"roformer\", \"embedding_size\": 16", "embedding_size");
    refused("\"bert\", \"position_embedding_type\": \"relative_key\"", "position_embedding_type");
    refused("\"bert\", \"is_decoder\": true", "is_decoder");
    refused("\"bert\", \"architectures\": [\"BertForSequenceClassification\"]", "architectures[0]");
}

static void dropouts(void **state) {
    (void)state;
    assert_true(equal("\"llama\", \"attention_dropout\": 0.5", "\"llama\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(qwen2_windows), cmocka_unit_test(layers_differ),
                                       cmocka_unit_test(caps_have_fallbacks), cmocka_unit_test(what_cannot_be_done),
                                       cmocka_unit_test(dropouts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
