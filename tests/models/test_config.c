/* Hugging Face configs: what changes the mathematics is done or refused, never passed over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../format/in_turn.h"
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

static void refused_as(const char *keys, qp_code code, const char *words) {
    char    text[1024];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    snprintf(text, sizeof text, "%s%s}", head, keys);
    assert_null(qp_model_new(ctx, "test", text));
    if (qp_error_code(ctx) != code || !strstr(qp_error(ctx), words))
        fail_msg("%s: %d \"%s\", expected %d \"%s\"", keys, qp_error_code(ctx), qp_error(ctx), code, words);
    qp_close(ctx);
}

#define WINDOW "\"qwen2\", \"sliding_window\": 4, \"use_sliding_window\": true, "

static void qwen2_windows(void **state) {
    (void)state;
    assert_true(equal(WINDOW "\"max_window_layers\": 28", "\"qwen2\""));
    assert_true(equal(WINDOW "\"max_window_layers\": 2", "\"qwen2\""));
    assert_true(equal("\"qwen2\", \"sliding_window\": 4", "\"qwen2\""));
    assert_true(equal("\"qwen2\", \"sliding_window\": null, \"use_sliding_window\": true, "
                      "\"max_window_layers\": 0",
                      "\"qwen2\""));
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
    assert_true(
        equal("\"qwen3\"",
              "\"qwen3\", \"use_sliding_window\": false, \"sliding_window\": 4, \"max_window_layers\": 0"));
    assert_false(
        equal("\"qwen3\"",
              "\"qwen3\", \"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0"));
    assert_true(equal("\"gemma2\", \"sliding_window\": 4", "\"gemma2\", \"sliding_window\": 4, " LAYERS
                                                           "[\"sliding_attention\", \"full_attention\"]"));
    assert_false(equal("\"gemma2\", \"sliding_window\": 4", "\"gemma2\", \"sliding_window\": null"));
    assert_true(equal("\"gemma3_text\", \"sliding_window\": 4, \"sliding_window_pattern\": 2",
                      "\"gemma3_text\", \"sliding_window\": 4, " LAYERS
                      "[\"sliding_attention\", \"full_attention\"]"));
    assert_false(equal("\"gemma3_text\"", "\"gemma3_text\", \"rope_local_base_freq\": 100"));
    assert_true(equal("\"smollm3\", \"no_rope_layer_interval\": 2", "\"smollm3\", \"no_rope_layers\": [1, 0]"));
    assert_false(equal("\"smollm3\", \"no_rope_layers\": [1, 1]", "\"smollm3\", \"no_rope_layers\": [1, 0]"));
    assert_true(equal("\"smollm3\", \"rope_theta\": 2000000.0", "\"smollm3\""));
    assert_true(equal("\"phi3\", \"sliding_window\": null", "\"phi3\""));
}

/* What a key without the key means. */
static void caps_have_fallbacks(void **state) {
    (void)state;
    assert_true(
        equal("\"gemma2\"", "\"gemma2\", \"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0"));
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
    refused("\"gpt2\", \"activation_function\": \"tanh\"", "found \"tanh\", expected gelu, ");
    refused("\"gemma2\", \"use_bidirectional_attention\": true", "use_bidirectional_attention");
    refused("\"phi3\", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1.0]}", "short_factor");
    refused("\"roformer\", \"embedding_size\": 16", "embedding_size");
    refused("\"bert\", \"position_embedding_type\": \"relative_key\"", "position_embedding_type");
    refused("\"bert\", \"is_decoder\": true", "is_decoder");
    refused("\"bert\", \"architectures\": [\"BertForSequenceClassification\"]", "architectures[0]");
}

/* Positions: each form of the config, what amounts to the same, and what is none. */
static void rotations(void **state) {
    (void)state;
    static const struct {
        const char *keys;
        qp_code     code;
        const char *words;
    } cases[] = {
        {"\"rope_scaling\": 3", QP_ERR_FORMAT, "rope_scaling: expected an object, found an integer"},
        {"\"rope_scaling\": {\"type\": 3}", QP_ERR_FORMAT,
         "rope_scaling.type: expected a string, found an integer"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": \"2\"}", QP_ERR_FORMAT,
         "rope_scaling.factor: expected a number"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factors\": 2}", QP_ERR_UNSUPPORTED,
         "rope_scaling.factors: unknown key"},
        {"\"rope_scaling\": {\"type\": \"linear\"}", QP_ERR_FORMAT, "rope type linear without a factor"},
        {"\"rope_scaling\": {\"type\": \"yarn\"}", QP_ERR_FORMAT, "rope type yarn without a factor"},
        {"\"rope_scaling\": {\"type\": \"spiral\", \"factor\": 2}", QP_ERR_UNSUPPORTED,
         "scaling of rope is \"spiral\""},
        {"\"rope_theta\": \"big\"", QP_ERR_FORMAT, "rope_theta: expected a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char keys[300];
        snprintf(keys, sizeof keys, "\"llama\", %s", cases[i].keys);
        refused_as(keys, cases[i].code, cases[i].words);
    }
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_null(qp_model_new(ctx, "test",
                             "{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"yarn\", "
                             "\"original_max_position_embeddings\": 16}}")); /* of how many? */
    assert_non_null(strstr(qp_error(ctx), "rope type yarn without a factor"));
    qp_close(ctx);
    assert_false(equal("\"llama\", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 4, "
                       "\"original_max_position_embeddings\": 16}",
                       "\"llama\", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 4, "
                       "\"original_max_position_embeddings\": 32}"));
    assert_false(
        equal("\"llama\", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"truncate\": true}",
              "\"llama\", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"truncate\": false}"));
    assert_true(equal("\"llama\"", "\"llama\", \"rope_scaling\": null, \"rope_parameters\": {\"rope_type\": "
                                   "\"default\", \"factor\": null}"));
    assert_true(equal(
        "\"llama\", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
        "\"original_max_position_embeddings\": 16}",
        "\"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 16}"));
    /* of both forms the older one counts, with all that it does not say */
    assert_true(
        equal("\"llama\", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}",
              "\"llama\", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, \"rope_parameters\": "
              "{\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 500.0}"));
    assert_true(equal("\"llama\", \"rope_theta\": 500.0",
                      "\"llama\", \"rope_scaling\": {}, \"rope_parameters\": {\"rope_theta\": 500.0}"));
    assert_true(equal("\"llama\", \"partial_rotary_factor\": 0.5",
                      "\"llama\", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}"));
    assert_true(
        equal("\"llama\", \"partial_rotary_factor\": 0.25, \"rope_scaling\": {\"partial_rotary_factor\": 0.5}",
              "\"llama\", \"partial_rotary_factor\": 0.5"));
    assert_false(equal("\"llama\"", "\"llama\", \"partial_rotary_factor\": 0.5"));
    assert_true(equal("\"llama\"", "\"llama\", \"partial_rotary_factor\": 1"));
}

/* Heads are one or more. */
static void no_heads(void **state) {
    (void)state;
    static const char *const keys[] = {"\"gpt2\", \"n_embd\": 32, \"n_head\": 0",
                                       "\"llama\", \"num_key_value_heads\": 0"};
    for (int i = 0; i < 2; i++) refused_as(keys[i], QP_ERR_FORMAT, "expected an integer from 1");
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_null(qp_model_new(ctx, "test", "{\"model_type\": \"bert\", \"num_attention_heads\": 0}"));
    assert_non_null(strstr(qp_error(ctx), "num_attention_heads: expected an integer from 1"));
    qp_clear(ctx);
    assert_null(qp_model_new(ctx, "test", "{\"model_type\": \"llama\", \"num_attention_heads\": 0}"));
    assert_non_null(strstr(qp_error(ctx), "num_attention_heads: expected an integer from 1"));
    qp_close(ctx);
}

/* More keys than any model type reads. */
static void many_keys(void **state) {
    (void)state;
    static char text[8192];
    size_t      n = (size_t)snprintf(text, sizeof text, "{\"model_type\": \"quipu\"");
    for (int i = 0; i < 250; i++) n += (size_t)snprintf(text + n, sizeof text - n, ", \"key%d\": true", i);
    strcpy(text + n, "}");
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_null(qp_model_new(ctx, "test", text));
    assert_int_equal(qp_error_code(ctx), QP_ERR_UNSUPPORTED);
    assert_non_null(strstr(qp_error(ctx), "unknown key"));
    qp_close(ctx);
}

#if FAULTS
/* Whatever call fails: an error, or the model that the config means, never another one. */
static const char *const whole[] = {
    "\"llama\", \"pretraining_tp\": 1, \"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"type\": \"yarn\", "
    "\"original_max_position_embeddings\": 16, \"beta_fast\": 16.0}",
    WINDOW "\"max_window_layers\": 1",
    "\"gemma2\"",
    "\"gemma3_text\"",
    "\"qwen3\"",
    "\"olmo2\"",
    "\"granite\"",
    "\"smollm3\", \"no_rope_layers\": [1, 0]",
    "\"bert\", \"architectures\": [\"BertForMaskedLM\"]"};
static const char *keys_now;
static float       expected[VOCABULARY];

static bool same_logits(qp_ctx *ctx) {
    char    text[1024];
    int32_t ids[T];
    float   found[VOCABULARY];
    snprintf(text, sizeof text, "%s%s}", head, keys_now);
    for (int i = 0; i < T; i++) ids[i] = i * 7 % VOCABULARY;
    qp_set_random(ctx, 3, 0);
    qp_model *m = qp_model_new(ctx, "test", text);
    if (!m) return false;
    qp_set_training(qp_model_module(m), false);
    qp_record in = {0};
    qp_record_set(&in, "input_ids", qp_from(ctx, QP_I32, 2, (int64_t[]){1, T}, ids));
    qp_record out = qp_forward(m, in);
    qp_tensor y = qp_record_get(&out, "logits");
    if (qp_failed(ctx) || qp_read(qp_slice(y, 1, T - 1, T, 1), QP_F32, found, VOCABULARY) != QP_OK)
        return false;
    if (memcmp(found, expected, sizeof found)) fail_msg("%s: another model", keys_now);
    return true;
}

static void memory(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        keys_now = whole[i];
        logits_of(keys_now, expected);
        in_turn(same_logits, 1, NULL, NULL);
    }
}
#endif

static void dropouts(void **state) {
    (void)state;
    assert_true(equal("\"llama\", \"attention_dropout\": 0.5", "\"llama\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2_windows),
        cmocka_unit_test(layers_differ),
        cmocka_unit_test(caps_have_fallbacks),
        cmocka_unit_test(what_cannot_be_done),
        cmocka_unit_test(dropouts),
        cmocka_unit_test(rotations),
        cmocka_unit_test(no_heads),
        cmocka_unit_test(many_keys),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
