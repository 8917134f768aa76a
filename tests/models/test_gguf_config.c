/* What a GGUF file says of its model becomes the config that it amounts to, or an error. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../format/in_turn.h"
#include "models/model.h"
#include "quipu/quipu.h"

/* A value: of one kind, or an array of two. */
typedef struct {
    const char   *key;
    qpi_gguf_kind kind;
    double        x;
    const char   *text;
    int           count; /* 0: no array */
    double        second;
} said;

static const said usual[] = {{"general.architecture", QPI_GGUF_TEXT, 0, "llama", 0, 0},
                             {"llama.context_length", QPI_GGUF_U32, 32, NULL, 0, 0},
                             {"llama.embedding_length", QPI_GGUF_U32, 8, NULL, 0, 0},
                             {"llama.block_count", QPI_GGUF_U32, 1, NULL, 0, 0},
                             {"llama.feed_forward_length", QPI_GGUF_U32, 16, NULL, 0, 0},
                             {"llama.attention.head_count", QPI_GGUF_U32, 2, NULL, 0, 0},
                             {"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_F32, 1e-5, NULL, 0, 0}};

static void put_number(qpi_gguf_pairs *p, qpi_gguf_kind kind, double x) {
    uint64_t bits;
    float    f = (float)x;
    if (kind == QPI_GGUF_F32) memcpy(&bits, &f, 4);
    else if (kind == QPI_GGUF_F64) memcpy(&bits, &x, 8);
    else bits = kind == QPI_GGUF_U64 ? (uint64_t)x : (uint64_t)(int64_t)x;
    assert_true(qpi_buffer_put(&p->bytes, &bits, (size_t)qpi_gguf_kind_bytes(kind)));
}

static void put_said(qpi_gguf_pairs *p, const said *s) {
    if (s->count) qpi_gguf_put_array(p, s->key, s->kind, (uint64_t)s->count);
    else if (s->kind == QPI_GGUF_TEXT) qpi_gguf_put_text(p, s->key, s->text, strlen(s->text));
    else qpi_gguf_put_integer(p, s->key, s->kind, 0), p->bytes.count -= (size_t)qpi_gguf_kind_bytes(s->kind);
    if (s->kind == QPI_GGUF_TEXT) return;
    put_number(p, s->kind, s->x);
    if (s->count > 1) put_number(p, s->kind, s->second);
}

static const void *zeros_of(void *user, int64_t i) {
    static const float zeros[70000];
    (void)i;
    return user ? user : (void *)zeros;
}

/* A file that says the usual, but these instead, and holds an embedding of these axes and `divisors`. */
static const char *file_saying(const said *instead, int count, int axes, int64_t divisors,
                               const float *values) {
    static char     path[100];
    qpi_gguf_pairs  pairs = {0};
    qpi_error       e = {0};
    qpi_gguf_tensor tensors[] = {{"rope_freqs.weight", QP_F32, 1, {divisors}},
                                 {"token_embd.weight", QP_F32, axes, {16, 8}}};
    snprintf(path, sizeof path, P_tmpdir "/quipu-said-%ld.gguf", (long)getpid());
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        bool replaced = false;
        for (int k = 0; k < count; k++) replaced |= !strcmp(usual[i].key, instead[k].key);
        if (!replaced) put_said(&pairs, &usual[i]);
    }
    for (int k = 0; k < count; k++) put_said(&pairs, &instead[k]);
    int skip = divisors < 0;
    if (!qpi_gguf_save(path, &pairs, 2 - skip, tensors + skip, zeros_of, (void *)values, &e))
        fail_msg("%s", e.text);
    qpi_gguf_pairs_free(&pairs);
    return path;
}

/* The config that the file amounts to; NULL after an error. */
static json_t *config_of(qp_ctx *ctx, const char *path) {
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) fail_msg("%s", qp_error(ctx));
    json_t *config = qpi_gguf_config(ctx, path, f);
    qp_file_close(f);
    remove(path);
    assert_int_equal(config != NULL, !qp_failed(ctx));
    return config;
}

#define SCALING "llama.rope.scaling."
static const struct {
    said        says[3];
    const char *text; /* of the config, or of the error */
    qp_code     code;
} sayings[] = {
    {{{0}}, "\"rms_norm_eps\":1e-05", QP_OK},
    {{{"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_F32, 0.000123456789, NULL, 0, 0}},
     "\"rms_norm_eps\":0.00012345679",
     QP_OK},
    {{{"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_F32, 0.100000046, NULL, 0, 0}},
     "\"rms_norm_eps\":0.100000046",
     QP_OK},
    {{{"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_TEXT, 0, "small", 0, 0}},
     "layer_norm_rms_epsilon: expected a number",
     QP_ERR_FORMAT},
    {{{"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_F32, 1, NULL, 2, 1}},
     "layer_norm_rms_epsilon: expected a number",
     QP_ERR_FORMAT},
    {{{"llama.attention.layer_norm_rms_epsilon", QPI_GGUF_F32, NAN, NULL, 0, 0}},
     "layer_norm_rms_epsilon: expected a number",
     QP_ERR_FORMAT},
    {{{"llama.attention.head_count_kv", QPI_GGUF_I32, 2, NULL, 2, 2}}, "\"num_key_value_heads\":2", QP_OK},
    {{{"llama.attention.head_count_kv", QPI_GGUF_I32, 2, NULL, 2, 1}},
     "head_count_kv: layers differ",
     QP_ERR_UNSUPPORTED},
    {{{"llama.attention.head_count_kv", QPI_GGUF_U64, 2, NULL, 2, 1e19}},
     "head_count_kv: expected a whole number",
     QP_ERR_FORMAT},
    {{{"llama.attention.head_count_kv", QPI_GGUF_F32, 2, NULL, 2, 2}},
     "head_count_kv: expected a whole number",
     QP_ERR_FORMAT},
    {{{"llama.attention.head_count", QPI_GGUF_U32, 0, NULL, 0, 0}}, "\"num_attention_heads\":0", QP_OK},
    {{{"llama.new", QPI_GGUF_U32, 0, NULL, 0, 0},
      {"llama.newer", QPI_GGUF_BOOL, 0, NULL, 0, 0},
      {"llamas.new", QPI_GGUF_U32, 1, NULL, 0, 0}},
     "\"hidden_size\":8",
     QP_OK},
    {{{"llama.new", QPI_GGUF_U32, 0, NULL, 2, 0}}, "llama.new: unknown key", QP_ERR_UNSUPPORTED},
    {{{"llama.new", QPI_GGUF_TEXT, 0, "", 0, 0}}, "llama.new: unknown key", QP_ERR_UNSUPPORTED},
    {{{"llama.attention.value_length", QPI_GGUF_U32, 8, NULL, 0, 0}},
     "values are not as wide as keys",
     QP_ERR_UNSUPPORTED},
    {{{"llama.rope.dimension_count", QPI_GGUF_U32, 2, NULL, 0, 0}},
     "only a part of each head turns",
     QP_ERR_UNSUPPORTED},
    {{{"llama.attention.sliding_window", QPI_GGUF_U32, 4, NULL, 0, 0}}, "\"model_type\":\"mistral\"", QP_OK},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0}, {SCALING "factor", QPI_GGUF_F32, 4, NULL, 0, 0}},
     "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}",
     QP_OK},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0},
      {SCALING "original_context_length", QPI_GGUF_F32, 1e30, NULL, 0, 0}},
     "original_context_length: expected a length",
     QP_ERR_FORMAT},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0},
      {SCALING "original_context_length", QPI_GGUF_I32, -1, NULL, 0, 0}},
     "original_context_length: expected a length",
     QP_ERR_FORMAT},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0},
      {SCALING "yarn_beta_fast", QPI_GGUF_F32, 16, NULL, 0, 0},
      {SCALING "original_context_length", QPI_GGUF_U32, 16, NULL, 0, 0}},
     "\"original_max_position_embeddings\":16,\"beta_fast\":16.0}",
     QP_OK},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0}, {SCALING "attn_factor", QPI_GGUF_F32, 2, NULL, 0, 0}},
     "attn_factor: expected 1",
     QP_ERR_UNSUPPORTED},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "yarn", 0, 0},
      {SCALING "yarn_log_multiplier", QPI_GGUF_F32, 0.1, NULL, 0, 0}},
     "yarn_log_multiplier: expected 0",
     QP_ERR_UNSUPPORTED},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "none", 0, 0}, {SCALING "factor", QPI_GGUF_F32, 4, NULL, 0, 0}},
     "\"hidden_size\":8",
     QP_OK},
    {{{SCALING "type", QPI_GGUF_TEXT, 0, "linear", 0, 0}, {SCALING "factor", QPI_GGUF_F32, 1, NULL, 0, 0}},
     "\"hidden_size\":8",
     QP_OK},
    {{{SCALING "type", QPI_GGUF_U32, 1, NULL, 0, 0}},
     "scaling.type: expected none, linear or yarn",
     QP_ERR_UNSUPPORTED},
    {{{"llama.rope.scale_linear", QPI_GGUF_F32, 4, NULL, 0, 0}},
     "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}",
     QP_OK},
    {{{SCALING "factor", QPI_GGUF_TEXT, 0, "4", 0, 0}}, "scaling.factor: expected a number", QP_ERR_FORMAT},
    {{{"tokenizer.ggml.bos_token_id", QPI_GGUF_U32, 15, NULL, 0, 0},
      {"tokenizer.ggml.eos_token_id", QPI_GGUF_U32, 16, NULL, 0, 0},
      {"tokenizer.ggml.padding_token_id", QPI_GGUF_I32, -1, NULL, 0, 0}},
     "\"tie_word_embeddings\":true,\"pad_token_id\":null,\"bos_token_id\":15}",
     QP_OK},
#define PATTERN "llama.attention.sliding_window_pattern"
    {{{PATTERN, QPI_GGUF_BOOL, 1, NULL, 2, 0}}, "\"layer_types\":[\"sliding_attention\"]", QP_OK},
    {{{PATTERN, QPI_GGUF_BOOL, 0, NULL, 2, 1}}, "\"layer_types\":[\"full_attention\"]", QP_OK},
    {{{PATTERN, QPI_GGUF_U32, 0, NULL, 0, 0}}, "\"layer_types\":[\"sliding_attention\"]", QP_OK},
    {{{PATTERN, QPI_GGUF_U32, 1, NULL, 0, 0}}, "\"layer_types\":[\"full_attention\"]", QP_OK},
    {{{PATTERN, QPI_GGUF_U32, 2, NULL, 0, 0}}, "\"layer_types\":[\"sliding_attention\"]", QP_OK},
    {{{PATTERN, QPI_GGUF_I32, -1, NULL, 0, 0}},
     "sliding_window_pattern: expected whole numbers",
     QP_ERR_FORMAT},
    {{{PATTERN, QPI_GGUF_TEXT, 0, "all", 0, 0}},
     "sliding_window_pattern: expected whole numbers",
     QP_ERR_FORMAT},
    {{{PATTERN, QPI_GGUF_U32, 2, NULL, 0, 0}, {"llama.block_count", QPI_GGUF_U32, 2, NULL, 0, 0}},
     "expected a value for each layer",
     QP_ERR_FORMAT},
    {{{PATTERN, QPI_GGUF_U32, 2, NULL, 0, 0}, {"llama.block_count", QPI_GGUF_I32, -1, NULL, 0, 0}},
     "expected a value for each layer",
     QP_ERR_FORMAT},
    {{{"llama.attention.head_count", QPI_GGUF_U32, 3, NULL, 0, 0}}, "\"num_attention_heads\":3", QP_OK},
    {{{"llama.attention.head_count", QPI_GGUF_U32, 1, NULL, 0, 0},
      {"llama.embedding_length", QPI_GGUF_U32, 4e9, NULL, 0, 0}},
     "\"hidden_size\":4000000000",
     QP_OK},
#define QWEN2 {"general.architecture", QPI_GGUF_TEXT, 0, "qwen2", 0, 0}
    {{QWEN2,
      {"qwen2.attention.key_length", QPI_GGUF_U32, 4, NULL, 0, 0},
      {"qwen2.rope.dimension_count", QPI_GGUF_U32, 2, NULL, 0, 0}},
     "\"partial_rotary_factor\":0.5",
     QP_OK},
    {{QWEN2,
      {"qwen2.attention.key_length", QPI_GGUF_U32, 22, NULL, 0, 0},
      {"qwen2.rope.dimension_count", QPI_GGUF_U32, 15, NULL, 0, 0}},
     "\"partial_rotary_factor\":0.68181818181818",
     QP_OK},
    {{QWEN2,
      {"qwen2.attention.key_length", QPI_GGUF_U32, 4, NULL, 0, 0},
      {"qwen2.rope.dimension_count", QPI_GGUF_U32, 5, NULL, 0, 0}},
     "only a part of each head turns",
     QP_ERR_UNSUPPORTED},
    {{QWEN2,
      {"qwen2.attention.key_length", QPI_GGUF_U32, 4, NULL, 0, 0},
      {"qwen2.rope.dimension_count", QPI_GGUF_U32, 0, NULL, 0, 0}},
     "only a part of each head turns",
     QP_ERR_UNSUPPORTED},
    {{{"general.architecture", QPI_GGUF_TEXT, 0, "mistral", 0, 0}},
     "general.architecture \"mistral\" is none",
     QP_ERR_UNSUPPORTED},
    {{{"general.architecture", QPI_GGUF_U32, 1, NULL, 0, 0}},
     "general.architecture \"\" is none",
     QP_ERR_UNSUPPORTED},
};

static void check_config(qp_ctx *ctx, const char *path, qp_code code, const char *words) {
    json_t    *config = config_of(ctx, path);
    qpi_buffer out = {0};
    char *text = config && qpi_json_print(&out, config, 0) && qpi_buffer_put(&out, "", 1) ? out.data : NULL;
    if (qp_error_code(ctx) != code || !strstr(text ? text : qp_error(ctx), words))
        fail_msg("%d: %s, expected %s", qp_error_code(ctx), text ? text : qp_error(ctx), words);
    if (!code && !strstr(words, "rope_scaling") && !strstr(words, "beta"))
        assert_null(strstr(text, "rope_scaling"));
    qpi_buffer_free(&out);
    json_decref(config);
    qp_clear(ctx);
}

static void what_files_say(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof sayings / sizeof *sayings; i++) {
        int n = 0;
        while (n < 3 && sayings[i].says[n].key) n++;
        check_config(ctx, file_saying(sayings[i].says, n, 2, -1, NULL), sayings[i].code, sayings[i].text);
    }
    check_config(ctx, file_saying(NULL, 0, 1, -1, NULL), QP_ERR_FORMAT, "token_embd.weight: expected a matrix");
    qp_close(ctx);
}

/* Divisors of frequencies are Llama 3's, or nobody's. */
static void divisors(void **state) {
    (void)state;
    static float d[65536];
    static const struct {
        float   values[2];
        int64_t count;
    } odd[] = {{{1, 1}, 2},  {{2, 4}, 2}, {{4, 2}, 2},     {{0, 0}, 2},       {{NAN, 8}, 2},
               {{1, -8}, 2}, {{1, 8}, 0}, {{1, 8}, 65536}, {{1, INFINITY}, 2}};
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        memcpy(d, odd[i].values, sizeof odd[i].values);
        check_config(ctx, file_saying(NULL, 0, 2, odd[i].count, d), QP_ERR_UNSUPPORTED,
                     "not the divisors of Llama 3's scaling");
    }
    said few[] = {{PATTERN, QPI_GGUF_BOOL, 1, NULL, 1, 0}, {"llama.block_count", QPI_GGUF_U32, 2, NULL, 0, 0}};
    check_config(ctx, file_saying(few, 2, 2, 2, d), QP_ERR_FORMAT, "expected a value for each layer");
    few[0] = (said){PATTERN, QPI_GGUF_I32, -1, NULL, 0, 0};
    check_config(ctx, file_saying(few, 2, 2, 2, d), QP_ERR_FORMAT, "expected whole numbers");
    /* those of Llama 3's rule, but of a trained length that is none */
    static const double thetas[] = {1e-6, 1e20};
    for (int i = 0; i < 2; i++) {
        said theta = {"llama.rope.freq_base", QPI_GGUF_F32, thetas[i], NULL, 0, 0};
        for (int k = 0; k < 4; k++) d[k] = 8;
        d[i + 1] = 1 / (0.95f / 8 + 0.05f);
        check_config(ctx, file_saying(&theta, 1, 2, 4, d), QP_ERR_UNSUPPORTED,
                     "not the divisors of Llama 3's scaling");
    }
    qp_close(ctx);
}

#if FAULTS
/* Whatever call fails: an error, or all that the file says. */
static const char *said_now;
static bool read_config(qp_ctx *ctx) {
    qp_file *f = qp_file_open(ctx, said_now, (qp_file_options){0});
    json_t  *config = f ? qpi_gguf_config(ctx, said_now, f) : NULL;
    bool     ok = config && !qp_failed(ctx);
    if (ok) assert_int_equal(json_array_size(json_object_get(config, "layer_types")), 1);
    json_decref(config);
    qp_file_close(f);
    return ok;
}

static void memory(void **state) {
    (void)state;
    static const said pattern = {PATTERN, QPI_GGUF_U32, 2, NULL, 0, 0};
    said_now = file_saying(&pattern, 1, 2, -1, NULL);
    in_turn(read_config, 1, NULL, NULL);
    remove(said_now);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_files_say),
        cmocka_unit_test(divisors),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
