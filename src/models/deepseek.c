/* DeepSeek-V3 (arXiv:2412.19437): latent attention and, behind a few dense layers, mixtures of many small
 * experts. */
#include <math.h>
#include <string.h>

#include "models/llama.h"

static json_t *integer(qpi_config *c, const char *key, int64_t fallback) {
    return json_integer((json_int_t)qpi_config_int(c, key, fallback));
}

/* YaRN also sharpens the scores. 0: the mixer's own scale. */
static double score_scale(const json_t *rope, double width) {
    double      factor = json_number_value(json_object_get(rope, "factor"));
    double      all = json_number_value(json_object_get(rope, "mscale_all_dim"));
    const char *kind = json_string_value(json_object_get(rope, "scaling"));
    if (!kind || !strcmp(kind, "default") || !(factor > 1) || all == 0) return 0;
    double m = 0.1 * all * log(factor) + 1;
    return m * m / sqrt(width);
}

static json_t *mixer(qpi_config *c, const json_t *rope) {
    json_t *m =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "type", "mla", "heads",
                  integer(c, "num_attention_heads", 128), "head_width", integer(c, "qk_rope_head_dim", 64),
                  "plain_width", integer(c, "qk_nope_head_dim", 128), "value_width",
                  integer(c, "v_head_dim", 128), "rank", integer(c, "kv_lora_rank", 512), "q_rank",
                  integer(c, "q_lora_rank", json_object_get(c->root.value, "q_lora_rank") ? 0 : 1536), "bias",
                  qpi_config_bool(c, "attention_bias", false));
    double width = json_number_value(json_object_get(m, "head_width")) +
                   json_number_value(json_object_get(m, "plain_width"));
    double scale = score_scale(rope, width);
    if (scale > 0) qpi_config_put(c, m, "scale", json_real(scale));
    return m;
}

static json_t *experts(qpi_config *c) {
    int64_t groups = qpi_config_int(c, "n_group", 8), top = qpi_config_int(c, "topk_group", 4);
    qpi_config_only(c, "scoring_func", "\"sigmoid\"");
    qpi_config_only(c, "topk_method", "\"noaux_tc\"");
    qpi_config_only(c, "moe_layer_freq", "1");
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:I, s:I, s:b, s:f}", "type", "deepseek_moe", "experts",
                     integer(c, "n_routed_experts", 256), "per_token", integer(c, "num_experts_per_tok", 8),
                     "width", integer(c, "moe_intermediate_size", 2048), "shared",
                     integer(c, "n_shared_experts", 1), "groups", (json_int_t)groups, "top_groups",
                     (json_int_t)top, "normalize", qpi_config_bool(c, "norm_topk_prob", true), "scale",
                     qpi_config_number(c, "routed_scaling_factor", 2.5));
}

/* The first layers are dense. */
static void put_layers(qpi_config *c, json_t *stack, int64_t dense, json_t *ffn) {
    int64_t layers = json_integer_value(json_object_get(stack, "num_hidden_layers"));
    if (dense > layers) dense = layers;
    if (dense > 0) {
        json_t *list = json_array(), *rest = json_pack("{s:I}", "repeat", (json_int_t)(layers - dense));
        json_t *first =
            json_pack("{s:I, s:O}", "repeat", (json_int_t)dense, "ffn", json_object_get(stack, "ffn"));
        bool ok = json_array_append_new(list, first) == 0;
        ok = ok && (layers == dense ? (json_decref(rest), true) : json_array_append_new(list, rest) == 0);
        qpi_config_put(c, stack, "layers", ok ? list : NULL);
    }
    qpi_config_put(c, stack, "ffn", ffn);
}

static bool translate(qpi_config *c, json_t *stack) {
    static const char *const other[] = {"qk_head_dim", "head_dim", "ep_size",
                                        "num_key_value_heads"}; /* follow from others, or of no effect */
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) qpi_config_use(c, other[i]);
    json_t *rope = qpi_config_rope(c, 10000);
    if (rope && qpi_config_bool(c, "rope_interleave", true))
        qpi_config_put(c, rope, "layout", json_string("interleaved"));
    json_t *latent = mixer(c, rope), *routed = experts(c);
    if (!qpi_llama_translate(c, stack, (qpi_llama){.position = rope})) {
        json_decref(latent);
        json_decref(routed);
        return false;
    }
    qpi_config_put(c, stack, "mixer", latent);
    put_layers(c, stack, qpi_config_int(c, "first_k_dense_replace", 3), routed);
    return true;
}

/* transformers counts modules for further tokens that its own files lack. */
static void adapt(json_t *stack, const qp_file *file) {
    char name[80];
    snprintf(name, sizeof name, "model.layers.%lld.eh_proj.weight",
             (long long)json_integer_value(json_object_get(stack, "num_hidden_layers")));
    if (qp_file_find(file, name) < 0) json_object_del(stack, "num_nextn_predict_layers");
}

#define ATTENTION "model.layers.%d.self_attn."
static const qpi_name_rule rules[] = {
    {ATTENTION "q_a_proj.weight", "blocks.%d.mixer.q_a.weight", 0, false},
    {ATTENTION "q_a_proj.bias", "blocks.%d.mixer.q_a.bias", 0, false},
    {ATTENTION "q_a_layernorm.weight", "blocks.%d.mixer.q_norm.weight", 0, false},
    {ATTENTION "q_b_proj.weight", "blocks.%d.mixer.q_b.weight", 0, false},
    {ATTENTION "kv_a_proj_with_mqa.weight", "blocks.%d.mixer.kv_a.weight", 0, false},
    {ATTENTION "kv_a_proj_with_mqa.bias", "blocks.%d.mixer.kv_a.bias", 0, false},
    {ATTENTION "kv_a_layernorm.weight", "blocks.%d.mixer.kv_norm.weight", 0, false},
    {ATTENTION "kv_b_proj.weight", "blocks.%d.mixer.kv_b.weight", 0, false},
    {"model.layers.%d.mlp.gate.weight", "blocks.%d.ffn.router.weight", 0, false},
    {"model.layers.%d.mlp.gate.e_score_correction_bias", "blocks.%d.ffn.bias", 0, false},
    {"model.layers.%d.mlp.experts.%d.gate_proj.weight", "blocks.%d.ffn.experts.gate", 0, false},
    {"model.layers.%d.mlp.experts.%d.up_proj.weight", "blocks.%d.ffn.experts.up", 0, false},
    {"model.layers.%d.mlp.experts.%d.down_proj.weight", "blocks.%d.ffn.experts.down", 0, false},
    {"model.layers.%d.mlp.shared_experts.gate_proj.weight", "blocks.%d.ffn.shared.gate.weight", 0, false},
    {"model.layers.%d.mlp.shared_experts.up_proj.weight", "blocks.%d.ffn.shared.up.weight", 0, false},
    {"model.layers.%d.mlp.shared_experts.down_proj.weight", "blocks.%d.ffn.shared.down.weight", 0, false},
    {0}};

QP_PRESET(deepseek_v3) = QPI_LLAMA_PRESET(
    "deepseek_v3", "arXiv:2412.19437",
    "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": \"deepseek_v3\", \"vocab_size\": 4096, "
    "\"hidden_size\": 256, \"intermediate_size\": 704, \"moe_intermediate_size\": 176, \"num_hidden_layers\": "
    "6, "
    "\"first_k_dense_replace\": 1, \"num_attention_heads\": 8, \"num_key_value_heads\": 8, \"q_lora_rank\": "
    "null, "
    "\"kv_lora_rank\": 64, \"qk_nope_head_dim\": 32, \"qk_rope_head_dim\": 16, \"v_head_dim\": 32, "
    "\"n_routed_experts\": 16, \"n_shared_experts\": 1, \"num_experts_per_tok\": 3, \"n_group\": 1, "
    "\"topk_group\": 1, \"norm_topk_prob\": true, \"routed_scaling_factor\": 1.0, "
    "\"num_nextn_predict_layers\": 0, \"max_position_embeddings\": 1024, \"initializer_range\": 0.02, "
    "\"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-06, \"hidden_act\": \"silu\", \"tie_word_embeddings\": "
    "true}",
    translate, .own = rules, .adapt = adapt);
