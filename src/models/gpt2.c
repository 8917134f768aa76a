/* GPT-2 (Radford et al. 2019): layer norm before each branch, learned positions, GELU. Its
 * checkpoints store products as [in, out]. */
#include <string.h>

#include "models/model.h"

static bool translate(qpi_config *c, json_t *stack) {
    int64_t width = qpi_config_int(c, "n_embd", 768), heads = qpi_config_count(c, "n_head", 12);
    int64_t inner = qpi_config_int(c, "n_inner", 0), positions = qpi_config_int(c, "n_positions", 1024);
    double  dropout = qpi_config_number(c, "resid_pdrop", 0.1);
    /* how it was trained, what a classifier would read, numerics of fp16: nothing here */
    static const char *const other[] = {"attn_pdrop",
                                        "embd_pdrop",
                                        "n_ctx",
                                        "reorder_and_upcast_attn",
                                        "summary_type",
                                        "summary_use_proj",
                                        "summary_first_dropout",
                                        "summary_activation",
                                        "summary_proj_to_labels"};
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) qpi_config_use(c, other[i]);
    qpi_config_only(c, "add_cross_attention", "false");
    json_t *mixer =
        json_pack("{s:s, s:I, s:b, s:b, s:b, s:i}", "type", "attention", "heads", (json_int_t)heads, "bias", 1,
                  "out_bias", 1, "scale_by_layer", qpi_config_bool(c, "scale_attn_by_inverse_layer_idx", false),
                  "scale", qpi_config_bool(c, "scale_attn_weights", true) ? 0 : 1);
    json_t *ffn = json_pack("{s:s, s:I, s:s, s:b}", "type", "mlp", "width", (json_int_t)inner, "act",
                            qpi_config_activation(c, "activation_function", "gelu_new"), "bias", 1);
    return json_object_update_new(
               stack,
               json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:s, s:f, s:{s:s}, s:o, s:o, s:{s:s, s:f}}",
                         "vocab_size", (json_int_t)qpi_config_int(c, "vocab_size", 50257), "hidden_size",
                         (json_int_t)width, "num_hidden_layers", (json_int_t)qpi_config_int(c, "n_layer", 12),
                         "max_position_embeddings", (json_int_t)positions, "tie_word_embeddings",
                         qpi_config_bool(c, "tie_word_embeddings", true), "initializer_range",
                         qpi_config_number(c, "initializer_range", 0.02), "residual_init", "scaled", "dropout",
                         dropout, "position", "type", "learned", "mixer", mixer, "ffn", ffn, "norm", "type",
                         "layer_norm", "eps", qpi_config_number(c, "layer_norm_epsilon", 1e-5))) == 0;
}

static const qpi_name_rule rules[] = {
    {"transformer.wte.weight", "embed.weight", 0, false},
    {"transformer.wpe.weight", "position.weight", 0, false},
    {"transformer.h.%d.ln_1.weight", "blocks.%d.norm1.weight", 0, false},
    {"transformer.h.%d.ln_1.bias", "blocks.%d.norm1.bias", 0, false},
    {"transformer.h.%d.attn.c_attn.weight", "blocks.%d.mixer.q.weight", 1, true},
    {"transformer.h.%d.attn.c_attn.weight", "blocks.%d.mixer.k.weight", 2, true},
    {"transformer.h.%d.attn.c_attn.weight", "blocks.%d.mixer.v.weight", 3, true},
    {"transformer.h.%d.attn.c_attn.bias", "blocks.%d.mixer.q.bias", 1, false},
    {"transformer.h.%d.attn.c_attn.bias", "blocks.%d.mixer.k.bias", 2, false},
    {"transformer.h.%d.attn.c_attn.bias", "blocks.%d.mixer.v.bias", 3, false},
    {"transformer.h.%d.attn.c_proj.weight", "blocks.%d.mixer.out.weight", 0, true},
    {"transformer.h.%d.attn.c_proj.bias", "blocks.%d.mixer.out.bias", 0, false},
    {"transformer.h.%d.ln_2.weight", "blocks.%d.norm2.weight", 0, false},
    {"transformer.h.%d.ln_2.bias", "blocks.%d.norm2.bias", 0, false},
    {"transformer.h.%d.mlp.c_fc.weight", "blocks.%d.ffn.up.weight", 0, true},
    {"transformer.h.%d.mlp.c_fc.bias", "blocks.%d.ffn.up.bias", 0, false},
    {"transformer.h.%d.mlp.c_proj.weight", "blocks.%d.ffn.down.weight", 0, true},
    {"transformer.h.%d.mlp.c_proj.bias", "blocks.%d.ffn.down.bias", 0, false},
    {"transformer.ln_f.weight", "norm.weight", 0, false},
    {"transformer.ln_f.bias", "norm.bias", 0, false},
    {"lm_head.weight", "head.weight", 0, false},
    {0}};

static const char *const ignored[] = {"*h.*.attn.bias", "*h.*.attn.masked_bias", NULL};

static const qpi_name_rule gguf_rules[] = {
    {"token_embd.weight", "embed.weight", 0, false},
    {"position_embd.weight", "position.weight", 0, false},
    {"blk.%d.attn_norm.weight", "blocks.%d.norm1.weight", 0, false},
    {"blk.%d.attn_norm.bias", "blocks.%d.norm1.bias", 0, false},
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.q.weight", 1, false},
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.k.weight", 2, false},
    {"blk.%d.attn_qkv.weight", "blocks.%d.mixer.v.weight", 3, false},
    {"blk.%d.attn_qkv.bias", "blocks.%d.mixer.q.bias", 1, false},
    {"blk.%d.attn_qkv.bias", "blocks.%d.mixer.k.bias", 2, false},
    {"blk.%d.attn_qkv.bias", "blocks.%d.mixer.v.bias", 3, false},
    {"blk.%d.attn_output.weight", "blocks.%d.mixer.out.weight", 0, false},
    {"blk.%d.attn_output.bias", "blocks.%d.mixer.out.bias", 0, false},
    {"blk.%d.ffn_norm.weight", "blocks.%d.norm2.weight", 0, false},
    {"blk.%d.ffn_norm.bias", "blocks.%d.norm2.bias", 0, false},
    {"blk.%d.ffn_up.weight", "blocks.%d.ffn.up.weight", 0, false},
    {"blk.%d.ffn_up.bias", "blocks.%d.ffn.up.bias", 0, false},
    {"blk.%d.ffn_down.weight", "blocks.%d.ffn.down.weight", 0, false},
    {"blk.%d.ffn_down.bias", "blocks.%d.ffn.down.bias", 0, false},
    {"output_norm.weight", "norm.weight", 0, false},
    {"output_norm.bias", "norm.bias", 0, false},
    {"output.weight", "head.weight", 0, false},
    {0}};

static const qpi_gguf_key gguf_keys[] = {{"context_length", "n_positions", true},
                                         {"embedding_length", "n_embd", true},
                                         {"block_count", "n_layer", true},
                                         {"feed_forward_length", "n_inner", true},
                                         {"attention.head_count", "n_head", true},
                                         {"attention.layer_norm_epsilon", "layer_norm_epsilon", false},
                                         {0}};

/* Files of this architecture have GELU by tanh, and scores divided by sqrt(K). */
static const char *lost(const json_t *config) {
    const char *act = json_string_value(json_object_get(config, "activation_function"));
    if (act && strcmp(act, "gelu_new") && strcmp(act, "gelu_pytorch_tanh")) return "activation_function";
    if (json_is_true(json_object_get(config, "scale_attn_by_inverse_layer_idx")))
        return "scale_attn_by_inverse_layer_idx";
    return json_is_false(json_object_get(config, "scale_attn_weights")) ? "scale_attn_weights" : NULL;
}

static const qpi_gguf_family gguf = {
    .architecture = "gpt2", .rules = gguf_rules, .keys = gguf_keys, .lost = lost};

QP_PRESET(gpt2) = {
    .name = "gpt2",
    .source = "Radford et al. 2019",
    .defaults = "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"vocab_size\": 50257, "
                "\"n_positions\": 1024, \"n_embd\": 768, \"n_layer\": 12, \"n_head\": 12, "
                "\"activation_function\": \"gelu_new\", \"layer_norm_epsilon\": 1e-05, "
                "\"initializer_range\": 0.02, \"resid_pdrop\": 0.0, \"embd_pdrop\": 0.0, "
                "\"attn_pdrop\": 0.0, \"tie_word_embeddings\": true}",
    .prefix = "transformer.",
    .rules = rules,
    .ignored = ignored,
    .gguf = &gguf,
    .translate = translate};
