/* Llama and its kin: RMS norm before each branch, rotary positions, grouped queries, SwiGLU. They differ
 * in which products have biases, in norms of queries and keys, in layers with a window or without
 * positions, in constants that multiply, and in the keys' defaults. */
#include "models/llama.h"

#include <math.h>
#include <string.h>

int64_t qpi_llama_window(qpi_config *c, int64_t fallback) {
    bool absent = !json_object_get(c->root.value, "sliding_window");
    return qpi_config_int(c, "sliding_window", absent ? fallback : 0);
}

void qpi_set(qpi_config *c, json_t *stack, const char *object, const char *key, json_t *value) {
    qpi_config_put(c, json_object_get(stack, object), key, value);
}

bool qpi_llama_translate(qpi_config *c, json_t *stack, qpi_llama v) {
    int64_t heads = qpi_config_count(c, "num_attention_heads", 32);
    double  eps = qpi_config_number(c, "rms_norm_eps", v.eps != 0 ? v.eps : 1e-6);
    if (!v.ffn) qpi_config_only(c, "hidden_act", "\"silu\"");
    qpi_config_only(c, "pretraining_tp", "1");
    qpi_config_use(c, "attention_dropout");
    if (!v.position) v.position = qpi_config_rope(c, v.theta != 0 ? v.theta : 10000);
    json_t *mixer = json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "type", "attention", "heads", (json_int_t)heads,
                              "kv_heads", (json_int_t)qpi_config_count(c, "num_key_value_heads", heads),
                              "head_width", (json_int_t)qpi_config_int(c, "head_dim", v.head_dim), "bias",
                              v.qkv_bias, "out_bias", v.out_bias);
    json_t *ffn = json_pack("{s:s, s:I, s:b}", "type", v.ffn ? v.ffn : "swiglu", "width",
                            (json_int_t)qpi_config_int(c, "intermediate_size", 11008), "bias", v.ffn_bias);
    return json_object_update_new(
               stack,
               json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:o, s:o, s:o, s:{s:s, s:f, s:b}}", "vocab_size",
                         (json_int_t)qpi_config_int(c, "vocab_size", 32000), "hidden_size",
                         (json_int_t)qpi_config_int(c, "hidden_size", 4096), "num_hidden_layers",
                         (json_int_t)qpi_config_int(c, "num_hidden_layers", 32), "max_position_embeddings",
                         (json_int_t)qpi_config_int(c, "max_position_embeddings", 2048), "tie_word_embeddings",
                         qpi_config_bool(c, "tie_word_embeddings", v.tied), "initializer_range",
                         qpi_config_number(c, "initializer_range", 0.02), "position", v.position, "mixer",
                         mixer, "ffn", ffn, "norm", "type", "rms_norm", "eps", eps, "unit_offset",
                         v.unit_offset)) == 0;
}

/* ---- Layers that differ --------------------------------------------------------------------------- */

static bool has_window(qpi_config *c, const qpi_layers *of, int64_t layer) {
    qpi_json types = qpi_json_member(&c->root, "layer_types");
    if (!types.value || json_is_null(types.value))
        return of->window && layer >= of->window_from && !(of->full_every && (layer + 1) % of->full_every == 0);
    qpi_json    at = qpi_json_item(&types, (size_t)layer);
    const char *text = json_string_value(at.value);
    bool        sliding = text && !strcmp(text, "sliding_attention");
    if (!sliding && (!text || strcmp(text, "full_attention")))
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "found %s, expected \"full_attention\" or \"sliding_attention\"",
                      text ? text : qpi_json_kind(at.value));
    if (sliding && !of->window) qpi_json_fail(&at, QP_ERR_FORMAT, "sliding_attention, but no sliding_window");
    return sliding;
}

/* no_rope_layers has a 0 where a layer has no encoding; without it each no_rope_layer_interval-th has none. */
static bool turns(qpi_config *c, int64_t layer, int64_t interval) {
    qpi_json list = qpi_json_member(&c->root, "no_rope_layers");
    if (!list.value || json_is_null(list.value)) return interval < 1 || (layer + 1) % interval != 0;
    qpi_json at = qpi_json_item(&list, (size_t)layer);
    if (!json_is_integer(at.value))
        qpi_json_fail(&at, QP_ERR_FORMAT, "found %s, expected 0 or 1", qpi_json_kind(at.value));
    return json_integer_value(at.value) != 0;
}

static json_t *layer_of(qpi_config *c, json_t *stack, const qpi_layers *of, int64_t layer, int64_t interval) {
    bool    sliding = has_window(c, of, layer), turned = !of->unturned || turns(c, layer, interval);
    json_t *mixer = qpi_config_copy(c, json_object_get(stack, "mixer")), *spec = json_object();
    json_t *position = sliding && of->local ? of->local : json_object_get(stack, "position");
    if (sliding) qpi_config_put(c, mixer, "window", json_integer(of->window));
    qpi_config_put(c, spec, "mixer", mixer);
    qpi_config_put(c, spec, "position", turned ? json_incref(position) : json_pack("{s:s}", "type", "none"));
    return spec;
}

/* Runs of equal layers become one entry; a single run is the stack's own. */
bool qpi_llama_layers(qpi_config *c, json_t *stack, qpi_layers of) {
    static const char *const keys[] = {"mixer", "position"};
    int64_t                  layers = json_integer_value(json_object_get(stack, "num_hidden_layers"));
    int64_t interval = of.unturned ? qpi_config_int(c, "no_rope_layer_interval", 4) : 0, repeat = 0;
    json_t *list = json_array(), *last = NULL;
    qpi_config_use(c, "layer_types");
    if (of.unturned) qpi_config_use(c, "no_rope_layers");
    for (int64_t i = 0; i < layers && layers <= 1 << 16 && !qp_failed(c->ctx);
         i++) { /* more are refused later */
        json_t *spec = layer_of(c, stack, &of, i, interval), *before = last ? qpi_config_copy(c, last) : NULL;
        json_object_del(before, "repeat");
        if (!last || !json_equal(before, spec)) {
            last =
                json_array_append(list, spec) == 0 ? spec : NULL; /* NULL: no memory, as the next line says */
            repeat = 0;
        }
        qpi_config_put(c, last, "repeat", json_integer(++repeat));
        json_decref(before);
        json_decref(spec);
    }
    if (json_array_size(list) > 1) qpi_config_put(c, stack, "layers", json_incref(list));
    for (int i = 0; i < 2 && json_array_size(list) == 1; i++)
        qpi_config_put(c, stack, keys[i], json_incref(json_object_get(json_array_get(list, 0), keys[i])));
    json_decref(list);
    json_decref(of.local);
    return true;
}

/* ---- The types ---------------------------------------------------------------------------------------- */

static bool llama(qpi_config *c, json_t *stack) {
    bool attention = qpi_config_bool(c, "attention_bias", false), mlp = qpi_config_bool(c, "mlp_bias", false);
    return qpi_llama_translate(c, stack,
                               (qpi_llama){.qkv_bias = attention, .out_bias = attention, .ffn_bias = mlp});
}

static bool mistral(qpi_config *c, json_t *stack) {
    return qpi_llama_translate(c, stack, (qpi_llama){0}) &&
           qpi_llama_layers(c, stack, (qpi_layers){.window = qpi_llama_window(c, 4096)});
}

/* use_sliding_window says whether there is one, max_window_layers from which layer on. */
static qpi_layers upper_windows(qpi_config *c) {
    qpi_layers of = {.window = qpi_llama_window(c, 4096),
                     .window_from = qpi_config_int(c, "max_window_layers", 28)};
    if (!qpi_config_bool(c, "use_sliding_window", false)) of.window = 0;
    return of;
}

static bool qwen2(qpi_config *c, json_t *stack) {
    return qpi_llama_translate(c, stack, (qpi_llama){.qkv_bias = true}) &&
           qpi_llama_layers(c, stack, upper_windows(c));
}

static bool norm_queries(qpi_config *c, json_t *stack, const char *of) {
    qpi_set(c, stack, "mixer", "qk_norm", json_string(of));
    qpi_set(c, stack, "mixer", "qk_norm_eps",
            json_incref(json_object_get(json_object_get(stack, "norm"), "eps")));
    return true;
}

static bool qwen3(qpi_config *c, json_t *stack) {
    bool bias = qpi_config_bool(c, "attention_bias", false);
    return qpi_llama_translate(c, stack, (qpi_llama){.qkv_bias = bias, .out_bias = bias, .head_dim = 128}) &&
           norm_queries(c, stack, "head") && qpi_llama_layers(c, stack, upper_windows(c));
}

/* The window is that of the layers without positions. */
static bool smollm3(qpi_config *c, json_t *stack) {
    bool attention = qpi_config_bool(c, "attention_bias", false), mlp = qpi_config_bool(c, "mlp_bias", false);
    qpi_llama  v = {.tied = true, .qkv_bias = attention, .out_bias = attention, .ffn_bias = mlp, .theta = 2e6};
    qpi_layers of = {.window = qpi_llama_window(c, 0), .window_from = INT64_MAX, .unturned = true};
    if (!qpi_config_bool(c, "use_sliding_window", false)) of.window = 0;
    return qpi_llama_translate(c, stack, v) && qpi_llama_layers(c, stack, of);
}

static bool olmo2(qpi_config *c, json_t *stack) {
    bool bias = qpi_config_bool(c, "attention_bias", false);
    qpi_config_put(c, stack, "block", json_pack("{s:s}", "type", "res_post_norm"));
    return qpi_llama_translate(c, stack, (qpi_llama){.qkv_bias = bias, .out_bias = bias, .eps = 1e-5}) &&
           norm_queries(c, stack, "all");
}

static const qpi_name_rule olmo2_rules[] = {
    {"model.layers.%d.post_attention_layernorm.weight", "blocks.%d.norm1.weight", 0, false},
    {"model.layers.%d.post_feedforward_layernorm.weight", "blocks.%d.norm2.weight", 0, false},
    {0}};

static bool granite(qpi_config *c, json_t *stack) {
    if (!llama(c, stack)) return false;
    double logits = qpi_config_number(c, "logits_scaling", 1);
    if (logits == 0) qpi_json_fail(&c->root, QP_ERR_FORMAT, "logits_scaling is 0");
    qpi_set(c, stack, "mixer", "scale", json_real(qpi_config_number(c, "attention_multiplier", 1)));
    return json_object_update_new(
               stack, json_pack("{s:{s:s, s:f}, s:{s:s, s:f}, s:{s:s, s:f}}", "input", "type", "tokens",
                                "scale", qpi_config_number(c, "embedding_multiplier", 1), "block", "type",
                                "pre_norm", "residual_scale", qpi_config_number(c, "residual_multiplier", 1),
                                "output", "type", "lm", "scale", 1 / (logits != 0 ? logits : 1))) == 0;
}

static bool phi3(qpi_config *c, json_t *stack) {
    static const char *const other[] = {"resid_pdrop", "embd_pdrop", "original_max_position_embeddings"};
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) qpi_config_use(c, other[i]);
    return qpi_llama_translate(c, stack, (qpi_llama){.eps = 1e-5}) &&
           qpi_llama_layers(c, stack, (qpi_layers){.window = qpi_llama_window(c, 0)});
}

static const qpi_name_rule phi3_rules[] = {
    {"model.layers.%d.self_attn.qkv_proj.weight", "blocks.%d.mixer.q.weight", 1, false},
    {"model.layers.%d.self_attn.qkv_proj.weight", "blocks.%d.mixer.k.weight", 2, false},
    {"model.layers.%d.self_attn.qkv_proj.weight", "blocks.%d.mixer.v.weight", 3, false},
    {"model.layers.%d.mlp.gate_up_proj.weight", "blocks.%d.ffn.gate.weight", 1, false},
    {"model.layers.%d.mlp.gate_up_proj.weight", "blocks.%d.ffn.up.weight", 2, false},
    {0}};

const qpi_name_rule qpi_llama_rules[] = {
    {"model.embed_tokens.weight", "embed.weight", 0, false},
    {"model.layers.%d.input_layernorm.weight", "blocks.%d.norm1.weight", 0, false},
    {"model.layers.%d.self_attn.q_proj.weight", "blocks.%d.mixer.q.weight", 0, false},
    {"model.layers.%d.self_attn.k_proj.weight", "blocks.%d.mixer.k.weight", 0, false},
    {"model.layers.%d.self_attn.v_proj.weight", "blocks.%d.mixer.v.weight", 0, false},
    {"model.layers.%d.self_attn.q_proj.bias", "blocks.%d.mixer.q.bias", 0, false},
    {"model.layers.%d.self_attn.k_proj.bias", "blocks.%d.mixer.k.bias", 0, false},
    {"model.layers.%d.self_attn.v_proj.bias", "blocks.%d.mixer.v.bias", 0, false},
    {"model.layers.%d.self_attn.o_proj.weight", "blocks.%d.mixer.out.weight", 0, false},
    {"model.layers.%d.self_attn.o_proj.bias", "blocks.%d.mixer.out.bias", 0, false},
    {"model.layers.%d.self_attn.q_norm.weight", "blocks.%d.mixer.q_norm.weight", 0, false},
    {"model.layers.%d.self_attn.k_norm.weight", "blocks.%d.mixer.k_norm.weight", 0, false},
    {"model.layers.%d.post_attention_layernorm.weight", "blocks.%d.norm2.weight", 0, false},
    {"model.layers.%d.pre_feedforward_layernorm.weight", "blocks.%d.norm3.weight", 0, false},
    {"model.layers.%d.post_feedforward_layernorm.weight", "blocks.%d.norm4.weight", 0, false},
    {"model.layers.%d.mlp.gate_proj.weight", "blocks.%d.ffn.gate.weight", 0, false},
    {"model.layers.%d.mlp.up_proj.weight", "blocks.%d.ffn.up.weight", 0, false},
    {"model.layers.%d.mlp.gate_proj.bias", "blocks.%d.ffn.gate.bias", 0, false},
    {"model.layers.%d.mlp.up_proj.bias", "blocks.%d.ffn.up.bias", 0, false},
    {"model.layers.%d.mlp.down_proj.weight", "blocks.%d.ffn.down.weight", 0, false},
    {"model.layers.%d.mlp.down_proj.bias", "blocks.%d.ffn.down.bias", 0, false},
    {"model.norm.weight", "norm.weight", 0, false},
    {"lm_head.weight", "head.weight", 0, false},
    {0}};

const char *const qpi_llama_ignored[] = {"*.rotary_emb.inv_freq", NULL};

/* ---- GGUF --------------------------------------------------------------------------------------------- */

const qpi_name_rule qpi_llama_gguf_rules[] = {
    {"token_embd.weight", "embed.weight", 0, false},
    {"blk.%d.attn_norm.weight", "blocks.%d.norm1.weight", 0, false},
    {"blk.%d.attn_q.weight", "blocks.%d.mixer.q.weight", 0, false},
    {"blk.%d.attn_k.weight", "blocks.%d.mixer.k.weight", 0, false},
    {"blk.%d.attn_v.weight", "blocks.%d.mixer.v.weight", 0, false},
    {"blk.%d.attn_q.bias", "blocks.%d.mixer.q.bias", 0, false},
    {"blk.%d.attn_k.bias", "blocks.%d.mixer.k.bias", 0, false},
    {"blk.%d.attn_v.bias", "blocks.%d.mixer.v.bias", 0, false},
    {"blk.%d.attn_q_norm.weight", "blocks.%d.mixer.q_norm.weight", 0, false},
    {"blk.%d.attn_k_norm.weight", "blocks.%d.mixer.k_norm.weight", 0, false},
    {"blk.%d.attn_output.weight", "blocks.%d.mixer.out.weight", 0, false},
    {"blk.%d.attn_output.bias", "blocks.%d.mixer.out.bias", 0, false},
    {"blk.%d.ffn_norm.weight", "blocks.%d.norm2.weight", 0, false},
    {"blk.%d.ffn_gate.weight", "blocks.%d.ffn.gate.weight", 0, false},
    {"blk.%d.ffn_up.weight", "blocks.%d.ffn.up.weight", 0, false},
    {"blk.%d.ffn_gate.bias", "blocks.%d.ffn.gate.bias", 0, false},
    {"blk.%d.ffn_up.bias", "blocks.%d.ffn.up.bias", 0, false},
    {"blk.%d.ffn_down.weight", "blocks.%d.ffn.down.weight", 0, false},
    {"blk.%d.ffn_down.bias", "blocks.%d.ffn.down.bias", 0, false},
    {"output_norm.weight", "norm.weight", 0, false},
    {"output.weight", "head.weight", 0, false},
    {0}};

static const qpi_name_rule olmo2_gguf_rules[] = {
    {"blk.%d.post_attention_norm.weight", "blocks.%d.norm1.weight", 0, false},
    {"blk.%d.post_ffw_norm.weight", "blocks.%d.norm2.weight", 0, false},
    {0}};

static const qpi_name_rule phi3_gguf_rules[] = {
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.q.weight", 1, false},
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.k.weight", 2, false},
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.v.weight", 3, false},
    {"blk.%d.ffn_up.weight", "blocks.%d.ffn.gate.weight", 1, false},
    {"blk.%d.ffn_up.weight", "blocks.%d.ffn.up.weight", 2, false},
    {0}};

static const qpi_gguf_key keys[] = {QPI_LLAMA_GGUF_KEYS, {0}};
static const qpi_gguf_key granite_keys[] = {QPI_LLAMA_GGUF_KEYS,
                                            {"attention.scale", "attention_multiplier", false},
                                            {"embedding_scale", "embedding_multiplier", false},
                                            {"residual_scale", "residual_multiplier", false},
                                            {"logit_scale", "logits_scaling", false},
                                            {0}};

static const qpi_gguf_key phi3_keys[] = {
    QPI_LLAMA_GGUF_KEYS,
    {"rope.scaling.original_context_length", "original_max_position_embeddings", true},
    {0}};

static const char *const flags[][2] = {
    {"blk.0.attn_q.bias", "attention_bias"}, {"blk.0.ffn_gate.bias", "mlp_bias"}, {NULL, NULL}};
const char *const qpi_llama_gguf_flags[][2] = {{"blk.0.attn_q.bias", "attention_bias"}, {NULL, NULL}};

static const char *lost_window(const json_t *config) {
    return json_is_true(json_object_get(config, "use_sliding_window")) ? "use_sliding_window" : NULL;
}

/* In files every fourth layer is one without positions. */
static const char *lost_layers(const json_t *config) {
    const json_t *list = json_object_get(config, "no_rope_layers"),
                 *interval = json_object_get(config, "no_rope_layer_interval");
    for (size_t i = 0; i < json_array_size(list); i++)
        if ((json_integer_value(json_array_get(list, i)) != 0) != ((i + 1) % 4 != 0)) return "no_rope_layers";
    if (!list && json_is_integer(interval) && json_integer_value(interval) != 4)
        return "no_rope_layer_interval";
    return lost_window(config);
}

/* A multiplier of 0 is none; without one scores are divided by sqrt(K). */
static void complete_granite(json_t *config) {
    static const char *const names[] = {"embedding_multiplier", "residual_multiplier"};
    double                   width = json_number_value(json_object_get(config, "head_dim"));
    double                   heads = json_number_value(json_object_get(config, "num_attention_heads"));
    for (int i = 0; i < 2; i++)
        if (json_number_value(json_object_get(config, names[i])) == 0)
            json_object_set_new(config, names[i], json_real(1));
    if (width == 0) width = json_number_value(json_object_get(config, "hidden_size")) / (heads > 0 ? heads : 1);
    if (json_number_value(json_object_get(config, "attention_multiplier")) == 0)
        json_object_set_new(config, "attention_multiplier", json_real(1 / sqrt(width > 0 ? width : 1)));
}

#define TURNED "blocks.*.mixer.[qk].*"

static const qpi_gguf_family gguf_llama = {.architecture = "llama",
                                           .rules = qpi_llama_gguf_rules,
                                           .keys = keys,
                                           .flags = flags,
                                           .interleaved = TURNED};
static const qpi_gguf_family gguf_mistral = {.architecture = "llama",
                                             .rules = qpi_llama_gguf_rules,
                                             .keys = keys,
                                             .interleaved = TURNED,
                                             .windows = true};
static const qpi_gguf_family gguf_qwen2 = {
    .architecture = "qwen2", .rules = qpi_llama_gguf_rules, .keys = keys, .lost = lost_window};
static const qpi_gguf_family gguf_qwen3 = {.architecture = "qwen3",
                                           .rules = qpi_llama_gguf_rules,
                                           .keys = keys,
                                           .flags = qpi_llama_gguf_flags,
                                           .lost = lost_window};
static const qpi_gguf_family gguf_smollm3 = {.architecture = "smollm3",
                                             .rules = qpi_llama_gguf_rules,
                                             .keys = keys,
                                             .flags = flags,
                                             .interleaved = TURNED,
                                             .lost = lost_layers};
static const qpi_gguf_family gguf_olmo2 = {.architecture = "olmo2",
                                           .rules = qpi_llama_gguf_rules,
                                           .own = olmo2_gguf_rules,
                                           .keys = keys,
                                           .flags = qpi_llama_gguf_flags};
static const qpi_gguf_family gguf_granite = {.architecture = "granite",
                                             .rules = qpi_llama_gguf_rules,
                                             .keys = granite_keys,
                                             .flags = flags,
                                             .interleaved = TURNED,
                                             .complete = complete_granite};
static const qpi_gguf_family gguf_phi3 = {.architecture = "phi3",
                                          .rules = qpi_llama_gguf_rules,
                                          .own = phi3_gguf_rules,
                                          .keys = phi3_keys,
                                          .windows = true};

#define DEFAULTS(type, architecture, more) \
    QPI_LLAMA_DEFAULTS(type, architecture, ", \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05" more)

QP_PRESET(llama) = QPI_LLAMA_PRESET("llama", "arXiv:2302.13971",
                                    DEFAULTS("llama", "LlamaForCausalLM",
                                             ", \"attention_bias\": false, \"mlp_bias\": false"),
                                    llama, .gguf = &gguf_llama);
QP_PRESET(mistral) = QPI_LLAMA_PRESET("mistral", "arXiv:2310.06825",
                                      DEFAULTS("mistral", "MistralForCausalLM", ", \"sliding_window\": null"),
                                      mistral, .gguf = &gguf_mistral);
QP_PRESET(qwen2) = QPI_LLAMA_PRESET("qwen2", "arXiv:2407.10671",
                                    DEFAULTS("qwen2", "Qwen2ForCausalLM", ", \"use_sliding_window\": false"),
                                    qwen2, .gguf = &gguf_qwen2);
QP_PRESET(qwen3) = QPI_LLAMA_PRESET("qwen3", "arXiv:2505.09388",
                                    DEFAULTS("qwen3", "Qwen3ForCausalLM", ", \"head_dim\": 32"), qwen3,
                                    .gguf = &gguf_qwen3);
QP_PRESET(smollm3) = QPI_LLAMA_PRESET("smollm3", "huggingface.co/blog/smollm3",
                                      DEFAULTS("smollm3", "SmolLM3ForCausalLM",
                                               ", \"no_rope_layer_interval\": 4"),
                                      smollm3, .gguf = &gguf_smollm3);
QP_PRESET(olmo2) = QPI_LLAMA_PRESET("olmo2", "arXiv:2501.00656", DEFAULTS("olmo2", "Olmo2ForCausalLM", ""),
                                    olmo2, .own = olmo2_rules, .gguf = &gguf_olmo2);
QP_PRESET(granite) =
    QPI_LLAMA_PRESET("granite", "arXiv:2405.04324",
                     DEFAULTS("granite", "GraniteForCausalLM",
                              ", \"embedding_multiplier\": 12.0, \"residual_multiplier\": 0.22, "
                              "\"attention_multiplier\": 0.03125, \"logits_scaling\": 8.0"),
                     granite, .gguf = &gguf_granite);
QP_PRESET(phi3) = QPI_LLAMA_PRESET("phi3", "arXiv:2404.14219",
                                   DEFAULTS("phi3", "Phi3ForCausalLM",
                                            ", \"sliding_window\": null, \"pad_token_id\": null"),
                                   phi3, .own = phi3_rules, .gguf = &gguf_phi3);
