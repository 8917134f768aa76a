/* Mamba (Gu and Dao 2023, arXiv:2312.00752) and Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): blocks of an RMS norm and
 * a mixer, no feed-forward, no positions. */
#include <math.h>
#include <string.h>

#include "models/model.h"

#define POSITIONS (1 << 20) /* published files say no length, and none is a limit; those trained here may */

/* What says how it was trained or drawn, and what a cache or a kernel does. */
static void pass_over(qpi_config *c) {
    static const char *const other[] = {"residual_in_fp32",
                                        "rescale_prenorm_residual",
                                        "use_associative_scan",
                                        "time_step_min",
                                        "time_step_max",
                                        "time_step_floor",
                                        "time_step_scale",
                                        "time_step_init_scheme",
                                        "use_mambapy",
                                        "layer_types",
                                        "chunk_size",
                                        "d_inner",
                                        "d_model",
                                        "n_layer",
                                        "ssm_cfg",
                                        "fused_add_norm",
                                        "pad_vocab_size_multiple",
                                        "intermediate_size"};
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) qpi_config_use(c, other[i]);
    qpi_config_only(c, "hidden_act", "\"silu\"");
    qpi_config_only(c, "rms_norm", "true");
}

/* A number, "auto" (0), or nothing (0). */
static int64_t rank_of(qpi_config *c) {
    qpi_config_use(c, "time_step_rank");
    return json_is_string(json_object_get(c->root.value, "time_step_rank"))
               ? 0
               : qpi_config_int(c, "time_step_rank", 0);
}

/* The stack around a mixer, which is taken over. */
static bool stack_of(qpi_config *c, json_t *stack, int64_t width, int64_t vocabulary, int64_t layers, bool tied,
                     json_t *mixer) {
    pass_over(c);
    return json_object_update_new(
               stack,
               json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:s, s:{s:s}, s:o, s:{s:s}, s:{s:s, s:f}}",
                         "vocab_size", (json_int_t)qpi_config_int(c, "vocab_size", vocabulary), "hidden_size",
                         (json_int_t)width, "num_hidden_layers",
                         (json_int_t)qpi_config_int(c, "num_hidden_layers", layers), "max_position_embeddings",
                         (json_int_t)qpi_config_int(c, "max_position_embeddings", POSITIONS),
                         "tie_word_embeddings", qpi_config_bool(c, "tie_word_embeddings", tied),
                         "initializer_range", qpi_config_number(c, "initializer_range", 0.1), "residual_init",
                         "scaled", "position", "type", "none", "mixer", mixer, "ffn", "type", "none", "norm",
                         "type", "rms_norm", "eps", qpi_config_number(c, "layer_norm_epsilon", 1e-5))) == 0;
}

static bool mamba(qpi_config *c, json_t *stack) {
    int64_t width = qpi_config_int(c, "hidden_size", 768);
    double  expand = qpi_config_number(c, "expand", 2);
    json_t *mixer = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:b, s:b}", "type", "mamba", "states",
        (json_int_t)qpi_config_int(c, "state_size", 16), "inner", (json_int_t)floor(expand * (double)width),
        "conv", (json_int_t)qpi_config_int(c, "conv_kernel", 4), "rank", (json_int_t)rank_of(c), "bias",
        qpi_config_bool(c, "use_bias", false), "conv_bias", qpi_config_bool(c, "use_conv_bias", true));
    return stack_of(c, stack, width, 50280, 32, true, mixer);
}

/* A bound of time_step_limit; infinity (as transformers writes it, or as Python does) is 0. */
static double limit_of(qpi_config *c, size_t i) {
    qpi_json      list = qpi_json_member(&c->root, "time_step_limit");
    const json_t *bound = json_array_get(list.value, i);
    qpi_config_use(c, "time_step_limit");
    if (!list.value || qpi_json_is(list.value, JSON_NULL)) return 0;
    if (json_is_number(bound) && json_number_value(bound) >= 0) return json_number_value(bound);
    const char *text = json_string_value(json_object_get(bound, "__float__"));
    if (i == 0 || json_array_size(list.value) != 2 || !text || strcmp(text, "Infinity"))
        qpi_json_fail(&list, QP_ERR_FORMAT, "expected two numbers, of which the second may be infinite");
    return 0;
}

static bool mamba2(qpi_config *c, json_t *stack) {
    int64_t width = qpi_config_int(c, "hidden_size", 4096), heads = qpi_config_int(c, "num_heads", 128);
    int64_t channels = qpi_config_int(c, "head_dim", 64);
    rank_of(c); /* is there, and means nothing */
    qpi_config_number(c, "expand", 2);
    json_t *mixer = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b, s:b}", "type", "mamba2", "states",
        (json_int_t)qpi_config_int(c, "state_size", 128), "inner",
        (json_int_t)(heads < 1 << 20 && channels < 1 << 20 ? heads * channels : 0), "channels",
        (json_int_t)channels, "groups", (json_int_t)qpi_config_int(c, "n_groups", 8), "conv",
        (json_int_t)qpi_config_int(c, "conv_kernel", 4), "step_low", limit_of(c, 0), "step_high",
        limit_of(c, 1), "eps", qpi_config_number(c, "layer_norm_epsilon", 1e-5), "bias",
        qpi_config_bool(c, "use_bias", false), "conv_bias", qpi_config_bool(c, "use_conv_bias", true));
    return stack_of(c, stack, width, 32768, 64, false, mixer);
}

static const qpi_name_rule rules[] = {
    {"backbone.embeddings.weight", "embed.weight", 0, false},
    {"backbone.layers.%d.norm.weight", "blocks.%d.norm1.weight", 0, false},
    {"backbone.layers.%d.mixer.in_proj.weight", "blocks.%d.mixer.in.weight", 0, false},
    {"backbone.layers.%d.mixer.in_proj.bias", "blocks.%d.mixer.in.bias", 0, false},
    {"backbone.layers.%d.mixer.conv1d.weight", "blocks.%d.mixer.conv.weight", 0, false},
    {"backbone.layers.%d.mixer.conv1d.bias", "blocks.%d.mixer.conv.bias", 0, false},
    {"backbone.layers.%d.mixer.x_proj.weight", "blocks.%d.mixer.x.weight", 0, false},
    {"backbone.layers.%d.mixer.dt_proj.weight", "blocks.%d.mixer.dt.weight", 0, false},
    {"backbone.layers.%d.mixer.dt_proj.bias", "blocks.%d.mixer.dt.bias", 0, false},
    {"backbone.layers.%d.mixer.dt_bias", "blocks.%d.mixer.dt_bias", 0, false},
    {"backbone.layers.%d.mixer.A_log", "blocks.%d.mixer.A_log", 0, false},
    {"backbone.layers.%d.mixer.D", "blocks.%d.mixer.D", 0, false},
    {"backbone.layers.%d.mixer.norm.weight", "blocks.%d.mixer.norm.weight", 0, false},
    {"backbone.layers.%d.mixer.out_proj.weight", "blocks.%d.mixer.out.weight", 0, false},
    {"backbone.layers.%d.mixer.out_proj.bias", "blocks.%d.mixer.out.bias", 0, false},
    {"backbone.norm_f.weight", "norm.weight", 0, false},
    {"lm_head.weight", "head.weight", 0, false},
    {0}};

#define DEFAULTS(type, architecture, more) \
    "{\"architectures\": [\"" architecture "\"], \"model_type\": \"" type \
    "\", \"vocab_size\": 4096, \"hidden_size\": 256, " \
    "\"num_hidden_layers\": 12, \"expand\": 2, \"conv_kernel\": 4, \"use_bias\": false, \"use_conv_bias\": " \
    "true, " \
    "\"hidden_act\": \"silu\", \"layer_norm_epsilon\": 1e-05, \"initializer_range\": 0.02, " \
    "\"tie_word_embeddings\": true, " more "}"

QP_PRESET(mamba) = {
    .name = "mamba",
    .source = "arXiv:2312.00752",
    .defaults = DEFAULTS("mamba", "MambaForCausalLM", "\"state_size\": 16, \"time_step_rank\": 16"),
    .prefix = "backbone.",
    .rules = rules,
    .translate = mamba};

QP_PRESET(mamba2) = {
    .name = "mamba2",
    .source = "arXiv:2405.21060",
    .defaults =
        DEFAULTS("mamba2", "Mamba2ForCausalLM",
                 "\"state_size\": 64, \"num_heads\": 8, \"head_dim\": 64, \"n_groups\": 1, \"chunk_size\": 64"),
    .prefix = "backbone.",
    .rules = rules,
    .translate = mamba2};
