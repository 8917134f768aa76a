/* Llama and its kin (Touvron et al. 2023, arXiv:2302.13971; Qwen2: arXiv:2407.10671; Mistral:
 * arXiv:2310.06825): RMS norm before each branch, rotary positions, grouped queries, SwiGLU.
 * They differ in which products have biases and in the keys' defaults. */
#include <string.h>

#include "models/model.h"

typedef struct {
    bool    qkv_bias, out_bias, ffn_bias;
    int64_t window, window_from; /* positions back that are seen, in the layers from this one on */
} variant;

/* Which layers have the window: layer_types says it for each, otherwise window_from. */
static bool has_window(qpi_config *c, const variant *v, int64_t layer) {
    qpi_json types = qpi_json_member(&c->root, "layer_types");
    if (!types.value || json_is_null(types.value)) return layer >= v->window_from;
    qpi_json    at = qpi_json_item(&types, (size_t)layer);
    const char *text = json_string_value(at.value);
    bool        sliding = text && !strcmp(text, "sliding_attention");
    if (!sliding && (!text || strcmp(text, "full_attention")))
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "found %s, expected \"full_attention\" or \"sliding_attention\"",
                      text ? text : qpi_json_kind(at.value));
    if (sliding && !v->window) qpi_json_fail(&at, QP_ERR_FORMAT, "sliding_attention, but no sliding_window");
    return sliding;
}

/* The mixer of each layer, runs of equal ones as one entry; NULL: all as the stack's own, which has
 * the window if they all do. */
static json_t *layers_of(qpi_config *c, const variant *v, int64_t layers, json_t *mixer) {
    json_t *list = json_array(), *plain = json_copy(mixer), *windowed = json_copy(mixer);
    bool    before = false;
    if (v->window) json_object_set_new(windowed, "window", json_integer(v->window));
    for (int64_t i = 0; i < layers && !qp_failed(c->ctx); i++) {
        bool    now = has_window(c, v, i);
        json_t *last = json_array_get(list, json_array_size(list) - 1);
        if (last && now == before)
            json_object_set_new(last, "repeat", json_integer(json_integer_value(json_object_get(last, "repeat")) + 1));
        else json_array_append_new(list, json_pack("{s:i, s:O}", "repeat", 1, "mixer", now ? windowed : plain));
        before = now;
    }
    bool alike = json_array_size(list) <= 1;
    if (alike && before) json_object_update(mixer, windowed);
    json_decref(plain);
    json_decref(windowed);
    if (alike) json_decref(list);
    return alike ? NULL : list;
}

static bool translate(qpi_config *c, json_t *stack, variant v) {
    int64_t width = qpi_config_int(c, "hidden_size", 4096), heads = qpi_config_int(c, "num_attention_heads", 32);
    int64_t groups = qpi_config_int(c, "num_key_value_heads", heads), head_width = qpi_config_int(c, "head_dim", 0);
    int64_t layers = qpi_config_int(c, "num_hidden_layers", 32);
    double  eps = qpi_config_number(c, "rms_norm_eps", 1e-6);
    qpi_config_only(c, "hidden_act", "\"silu\"");
    qpi_config_only(c, "pretraining_tp", "1");
    qpi_config_use(c, "attention_dropout");
    qpi_config_use(c, "layer_types");
    json_t *mixer = json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "type", "attention", "heads", (json_int_t)heads,
                              "kv_heads", (json_int_t)groups, "head_width", (json_int_t)head_width, "bias", v.qkv_bias,
                              "out_bias", v.out_bias);
    json_t *each = layers <= 1 << 16 ? layers_of(c, &v, layers, mixer) : NULL; /* more are refused later */
    if (each) json_object_set_new(stack, "layers", each);
    json_t *ffn = json_pack("{s:s, s:I, s:b}", "type", "swiglu", "width",
                            (json_int_t)qpi_config_int(c, "intermediate_size", 11008), "bias", v.ffn_bias);
    return json_object_update_new(
               stack, json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:o, s:o, s:o, s:{s:s, s:f}}", "vocab_size",
                                (json_int_t)qpi_config_int(c, "vocab_size", 32000), "hidden_size", (json_int_t)width,
                                "num_hidden_layers", (json_int_t)layers, "max_position_embeddings",
                                (json_int_t)qpi_config_int(c, "max_position_embeddings", 2048), "tie_word_embeddings",
                                qpi_config_bool(c, "tie_word_embeddings", false), "initializer_range",
                                qpi_config_number(c, "initializer_range", 0.02), "position", qpi_config_rope(c),
                                "mixer", mixer, "ffn", ffn, "norm", "type", "rms_norm", "eps", eps)) == 0;
}

static bool translate_llama(qpi_config *c, json_t *stack) {
    bool attention = qpi_config_bool(c, "attention_bias", false), mlp = qpi_config_bool(c, "mlp_bias", false);
    return translate(c, stack, (variant){attention, attention, mlp, 0, INT64_MAX});
}

/* Without the key the window is 4096, with null there is none. */
static int64_t window_of(qpi_config *c) {
    bool absent = !json_object_get(c->root.value, "sliding_window");
    return qpi_config_int(c, "sliding_window", absent ? 4096 : 0);
}

static bool translate_mistral(qpi_config *c, json_t *stack) {
    int64_t window = window_of(c);
    return translate(c, stack, (variant){.window = window, .window_from = window ? 0 : INT64_MAX});
}

static bool translate_qwen2(qpi_config *c, json_t *stack) {
    int64_t window = window_of(c), from = qpi_config_int(c, "max_window_layers", 28);
    if (!qpi_config_bool(c, "use_sliding_window", false)) window = 0;
    return translate(c, stack, (variant){.qkv_bias = true, .window = window, .window_from = window ? from : INT64_MAX});
}

static const qpi_name_rule rules[] = {
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
    {"model.layers.%d.post_attention_layernorm.weight", "blocks.%d.norm2.weight", 0, false},
    {"model.layers.%d.mlp.gate_proj.weight", "blocks.%d.ffn.gate.weight", 0, false},
    {"model.layers.%d.mlp.up_proj.weight", "blocks.%d.ffn.up.weight", 0, false},
    {"model.layers.%d.mlp.gate_proj.bias", "blocks.%d.ffn.gate.bias", 0, false},
    {"model.layers.%d.mlp.up_proj.bias", "blocks.%d.ffn.up.bias", 0, false},
    {"model.layers.%d.mlp.down_proj.weight", "blocks.%d.ffn.down.weight", 0, false},
    {"model.layers.%d.mlp.down_proj.bias", "blocks.%d.ffn.down.bias", 0, false},
    {"model.norm.weight", "norm.weight", 0, false},
    {"lm_head.weight", "head.weight", 0, false},
    {0}};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", NULL};

#define DEFAULTS(type, architecture, more)                                                        \
    "{\"architectures\": [\"" architecture "\"], \"model_type\": \"" type "\", \"vocab_size\": 4096, " \
    "\"hidden_size\": 256, \"intermediate_size\": 704, \"num_hidden_layers\": 6, "                 \
    "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"max_position_embeddings\": 1024, "  \
    "\"hidden_act\": \"silu\", \"initializer_range\": 0.02, \"rms_norm_eps\": 1e-05, "             \
    "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true" more "}"

QP_PRESET(llama) = {.name = "llama",
                    .source = "arXiv:2302.13971",
                    .defaults = DEFAULTS("llama", "LlamaForCausalLM", ", \"attention_bias\": false, \"mlp_bias\": false"),
                    .prefix = "model.",
                    .rules = rules,
                    .ignored = ignored,
                    .translate = translate_llama};
QP_PRESET(mistral) = {.name = "mistral",
                      .source = "arXiv:2310.06825",
                      .defaults = DEFAULTS("mistral", "MistralForCausalLM", ", \"sliding_window\": null"),
                      .prefix = "model.",
                      .rules = rules,
                      .ignored = ignored,
                      .translate = translate_mistral};
QP_PRESET(qwen2) = {.name = "qwen2",
                    .source = "arXiv:2407.10671",
                    .defaults = DEFAULTS("qwen2", "Qwen2ForCausalLM", ", \"use_sliding_window\": false"),
                    .prefix = "model.",
                    .rules = rules,
                    .ignored = ignored,
                    .translate = translate_qwen2};
