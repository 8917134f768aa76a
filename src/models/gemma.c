/* Gemma 1, 2 and 3 (arXiv:2403.08295, 2408.00118, 2503.19786): Llama with embeddings times sqrt(D), gains of
 * norms 1 + weight and GEGLU; from 2 on norms on both sides of each branch, soft caps and layers that take
 * turns with a window; 3 has norms of queries and keys, and positions of its own where the window is. */
#include <math.h>
#include <string.h>

#include "models/llama.h"

/* position NULL: by the keys of rope. */
static bool base(qpi_config *c, json_t *stack, json_t *position) {
    bool bias = qpi_config_bool(c, "attention_bias", false);
    /* older files say "gelu" and mean the tanh form */
    static const char *const keys[] = {"hidden_act", "hidden_activation"};
    for (int i = 0; i < 2; i++) {
        const char *act = qpi_config_text(c, keys[i], "gelu_pytorch_tanh");
        qpi_json    at = qpi_json_member(&c->root, keys[i]);
        if (strcmp(act, "gelu_pytorch_tanh") && strcmp(act, "gelu"))
            qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "found \"%.40s\", expected \"gelu_pytorch_tanh\"", act);
    }
    qpi_llama v = {.tied = true,
                   .qkv_bias = bias,
                   .out_bias = bias,
                   .unit_offset = true,
                   .head_dim = 256,
                   .ffn = "geglu",
                   .position = position};
    if (!qpi_llama_translate(c, stack, v)) return false;
    double width = json_number_value(json_object_get(stack, "hidden_size"));
    return json_object_set_new(stack, "input",
                               json_pack("{s:s, s:f}", "type", "tokens", "scale", sqrt(width))) == 0;
}

static bool gemma(qpi_config *c, json_t *stack) { return base(c, stack, NULL); }

/* A key that says null means 0, an absent one the fallback. */
static double cap_of(qpi_config *c, const char *key, double fallback) {
    return qpi_config_number(c, key, json_object_get(c->root.value, key) ? 0 : fallback);
}

/* What 2 and 3 share. */
static bool sandwich(qpi_config *c, json_t *stack, double head_cap) {
    double scalar = qpi_config_number(c, "query_pre_attn_scalar", 256);
    if (!(scalar > 0)) qpi_json_fail(&c->root, QP_ERR_FORMAT, "query_pre_attn_scalar is %g", scalar);
    qpi_set(c, stack, "mixer", "scale", json_real(1 / sqrt(scalar > 0 ? scalar : 1)));
    return json_object_update_new(stack, json_pack("{s:{s:s}, s:{s:s, s:f}}", "block", "type", "sandwich",
                                                   "output", "type", "lm", "softcap",
                                                   cap_of(c, "final_logit_softcapping", head_cap))) == 0;
}

static bool gemma2(qpi_config *c, json_t *stack) {
    if (!base(c, stack, NULL) || !sandwich(c, stack, 30)) return false;
    qpi_set(c, stack, "mixer", "softcap", json_real(cap_of(c, "attn_logit_softcapping", 50)));
    return qpi_llama_layers(c, stack, (qpi_layers){.window = qpi_llama_window(c, 4096), .full_every = 2});
}

/* rope_parameters has an object for each kind of layer; older files have rope_theta and rope_scaling for
 * full ones and rope_local_base_freq for the others. */
static json_t *rope_of(qpi_config *c, bool local) {
    qpi_json parameters = qpi_json_member(&c->root, "rope_parameters");
    qpi_json kind = qpi_json_member(&parameters, local ? "sliding_attention" : "full_attention");
    qpi_json objects[] = {kind, qpi_json_member(&c->root, "rope_scaling")};
    double   theta = qpi_config_number(c, local ? "rope_local_base_freq" : "rope_theta", local ? 1e4 : 1e6);
    qpi_config_use(c, "rope_parameters");
    qpi_config_use(c, "rope_scaling");
    return qpi_config_rope_of(c, theta, objects, local ? 1 : 2);
}

static bool gemma3(qpi_config *c, json_t *stack) {
    qpi_json    parameters = qpi_json_member(&c->root, "rope_parameters");
    const char *key;
    json_t     *value;
    json_object_foreach(parameters.value, key,
                        value) if (strcmp(key, "full_attention") && strcmp(key, "sliding_attention")) {
        qpi_json at = qpi_json_member(&parameters, key);
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "expected full_attention and sliding_attention");
    }
    if (!base(c, stack, rope_of(c, false)) || !sandwich(c, stack, 0)) return false;
    qpi_config_only(c, "attn_logit_softcapping",
                    "null"); /* transformers has the key and does nothing with it */
    qpi_set(c, stack, "mixer", "qk_norm", json_string("head"));
    qpi_set(c, stack, "mixer", "qk_norm_unit_offset", json_true());
    qpi_set(c, stack, "mixer", "qk_norm_eps",
            json_incref(json_object_get(json_object_get(stack, "norm"), "eps")));
    return qpi_llama_layers(c, stack,
                            (qpi_layers){.window = qpi_llama_window(c, 4096),
                                         .full_every = qpi_config_int(c, "sliding_window_pattern", 6),
                                         .local = rope_of(c, true)});
}

/* ---- GGUF --------------------------------------------------------------------------------------------- */

static const qpi_name_rule sandwich_rules[] = {
    {"blk.%d.post_attention_norm.weight", "blocks.%d.norm2.weight", 0, false},
    {"blk.%d.ffn_norm.weight", "blocks.%d.norm3.weight", 0, false},
    {"blk.%d.post_ffw_norm.weight", "blocks.%d.norm4.weight", 0, false},
    {0}};

static const qpi_gguf_key keys[] = {QPI_LLAMA_GGUF_KEYS, {0}};
static const qpi_gguf_key sandwich_keys[] = {QPI_LLAMA_GGUF_KEYS,
                                             {"attn_logit_softcapping", "attn_logit_softcapping", false},
                                             {"final_logit_softcapping", "final_logit_softcapping", false},
                                             {"rope.freq_base_swa", "rope_local_base_freq", false},
                                             {0}};

static double of(const json_t *config, const char *key) {
    return json_number_value(json_object_get(config, key));
}

/* No key says what scores are divided by the root of: the width of a head but for the 27B models, which
 * have `layers` of them. */
static double divided_by(const json_t *config, int layers) {
    double heads = of(config, "num_attention_heads"), keys_width = of(config, "head_dim");
    bool   giant = of(config, "num_hidden_layers") == layers && heads > 0;
    return giant ? floor(of(config, "hidden_size") / heads) : keys_width > 0 ? keys_width : 256;
}

static void complete2(json_t *config) {
    json_object_set_new(config, "query_pre_attn_scalar", json_integer((json_int_t)divided_by(config, 46)));
}

static void complete3(json_t *config) {
    json_object_set_new(config, "query_pre_attn_scalar", json_integer((json_int_t)divided_by(config, 62)));
    if (!json_object_get(config, "sliding_window")) json_object_set_new(config, "sliding_window", json_null());
}

static const char *lost_scalar(const json_t *config, int layers) {
    const json_t *scalar = json_object_get(config, "query_pre_attn_scalar");
    return (scalar ? json_number_value(scalar) : 256) != divided_by(config, layers) ? "query_pre_attn_scalar"
                                                                                    : NULL;
}

/* Caps that are off: a file without the keys has the usual ones. */
static const char *lost2(const json_t *config) {
    static const char *const caps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    for (int i = 0; i < 2; i++)
        if (json_object_get(config, caps[i]) && of(config, caps[i]) == 0) return caps[i];
    return lost_scalar(config, 46);
}

static const json_t *local_rope(const json_t *config) {
    return json_object_get(json_object_get(config, "rope_parameters"), "sliding_attention");
}

static const char *lost3(const json_t *config) {
    const char *kind = json_string_value(json_object_get(local_rope(config), "rope_type"));
    if (kind && strcmp(kind, "default")) return "rope_parameters.sliding_attention.rope_type";
    return lost_scalar(config, 62);
}

/* Newer configs have the base in rope_parameters. */
static void describe3(const json_t *config, qpi_gguf_pairs *pairs) {
    double theta = of(local_rope(config), "rope_theta");
    if (theta > 0) qpi_gguf_put_f32(pairs, "gemma3.rope.freq_base_swa", (float)theta);
}

static const qpi_gguf_family gguf_gemma = {.architecture = "gemma",
                                           .rules = qpi_llama_gguf_rules,
                                           .keys = keys,
                                           .flags = qpi_llama_gguf_flags,
                                           .unit_offset = true};
static const qpi_gguf_family gguf_gemma2 = {.architecture = "gemma2",
                                            .rules = qpi_llama_gguf_rules,
                                            .own = sandwich_rules,
                                            .keys = sandwich_keys,
                                            .flags = qpi_llama_gguf_flags,
                                            .unit_offset = true,
                                            .windows = true,
                                            .period = 2,
                                            .complete = complete2,
                                            .lost = lost2};
static const qpi_gguf_family gguf_gemma3 = {.architecture = "gemma3",
                                            .rules = qpi_llama_gguf_rules,
                                            .own = sandwich_rules,
                                            .keys = sandwich_keys,
                                            .flags = qpi_llama_gguf_flags,
                                            .unit_offset = true,
                                            .windows = true,
                                            .period = 6,
                                            .complete = complete3,
                                            .lost = lost3,
                                            .describe = describe3};

#define DEFAULTS(type, architecture, more) \
    QPI_LLAMA_DEFAULTS(type, architecture, \
                       ", \"head_dim\": 32, \"hidden_activation\": \"gelu_pytorch_tanh\", " \
                       "\"hidden_act\": \"gelu_pytorch_tanh\", \"rms_norm_eps\": 1e-06" more)

QP_PRESET(gemma) = QPI_LLAMA_PRESET("gemma", "arXiv:2403.08295", DEFAULTS("gemma", "GemmaForCausalLM", ""),
                                    gemma, .gguf = &gguf_gemma);
QP_PRESET(gemma2) =
    QPI_LLAMA_PRESET("gemma2", "arXiv:2408.00118",
                     DEFAULTS("gemma2", "Gemma2ForCausalLM",
                              ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 256, "
                              "\"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0"),
                     gemma2, .gguf = &gguf_gemma2);
QP_PRESET(gemma3_text) = QPI_LLAMA_PRESET(
    "gemma3_text", "arXiv:2503.19786",
    DEFAULTS("gemma3_text", "Gemma3ForCausalLM",
             ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 256, \"rope_local_base_freq\": 10000.0"),
    gemma3, .gguf = &gguf_gemma3);
