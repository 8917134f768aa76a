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
    qpi_llama v = {.tied = true, .qkv_bias = bias, .out_bias = bias, .unit_offset = true, .head_dim = 256, .ffn = "geglu", .position = position};
    if (!qpi_llama_translate(c, stack, v)) return false;
    double width = json_number_value(json_object_get(stack, "hidden_size"));
    return json_object_set_new(stack, "input", json_pack("{s:s, s:f}", "type", "tokens", "scale", sqrt(width))) == 0;
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
    return json_object_update_new(stack, json_pack("{s:{s:s}, s:{s:s, s:f}}", "block", "type", "sandwich", "output", "type",
                                                   "lm", "softcap",
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
    json_object_foreach(parameters.value, key, value)
        if (strcmp(key, "full_attention") && strcmp(key, "sliding_attention")) {
            qpi_json at = qpi_json_member(&parameters, key);
            qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "expected full_attention and sliding_attention");
        }
    if (!base(c, stack, rope_of(c, false)) || !sandwich(c, stack, 0)) return false;
    qpi_config_only(c, "attn_logit_softcapping", "null"); /* transformers has the key and does nothing with it */
    qpi_set(c, stack, "mixer", "qk_norm", json_string("head"));
    qpi_set(c, stack, "mixer", "qk_norm_unit_offset", json_true());
    qpi_set(c, stack, "mixer", "qk_norm_eps", json_incref(json_object_get(json_object_get(stack, "norm"), "eps")));
    return qpi_llama_layers(c, stack, (qpi_layers){.window = qpi_llama_window(c, 4096),
                                                   .full_every = qpi_config_int(c, "sliding_window_pattern", 6),
                                                   .local = rope_of(c, true)});
}

#define DEFAULTS(type, architecture, more)                                                                         \
    QPI_LLAMA_DEFAULTS(type, architecture, ", \"head_dim\": 32, \"hidden_activation\": \"gelu_pytorch_tanh\", " \
                                           "\"hidden_act\": \"gelu_pytorch_tanh\", \"rms_norm_eps\": 1e-06" more)

QP_PRESET(gemma) = QPI_LLAMA_PRESET("gemma", "arXiv:2403.08295", DEFAULTS("gemma", "GemmaForCausalLM", ""), gemma);
QP_PRESET(gemma2) = QPI_LLAMA_PRESET("gemma2", "arXiv:2408.00118",
                 DEFAULTS("gemma2", "Gemma2ForCausalLM",
                          ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 256, "
                          "\"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0"),
                 gemma2);
QP_PRESET(gemma3_text) = QPI_LLAMA_PRESET("gemma3_text", "arXiv:2503.19786",
                 DEFAULTS("gemma3_text", "Gemma3ForCausalLM",
                          ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 256, \"rope_local_base_freq\": 10000.0"),
                 gemma3);
