/* RWKV: versions 4 to 7 with their authors' tensor names (model types rwkv4 .. rwkv7; the authors' .pth files
 * have no config, scripts/rwkv_folder.py writes one), and version 4 as Hugging Face has it (rwkv). */
#include "models/model.h"

/* What all share; takes over the mixer's object. */
static bool translate(qpi_config *c, json_t *stack, json_t *mixer, const char *form, double width_factor) {
    int64_t width = qpi_config_int(c, "hidden_size", 768);
    int64_t inner = width > 0 && width < 1 << 24 ? (int64_t)(width_factor * (double)width) / 32 * 32 : 0;
    double  eps = qpi_config_number(c, "layer_norm_epsilon", 1e-5);
    json_t *norm = json_pack("{s:s, s:f}", "type", "layer_norm", "eps", eps);
    json_t *ffn = json_pack("{s:s, s:I, s:s}", "type", "channel_mix", "width",
                            (json_int_t)qpi_config_int(c, "intermediate_size", inner), "form", form);
    return json_object_update_new(
               stack,
               json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:o, s:o, s:o, s:O, s:{s:s}}", "vocab_size",
                         (json_int_t)qpi_config_int(c, "vocab_size", 65536), "hidden_size", (json_int_t)width,
                         "num_hidden_layers", (json_int_t)qpi_config_int(c, "num_hidden_layers", 12),
                         "max_position_embeddings", (json_int_t)qpi_config_int(c, "context_length", 4096),
                         "tie_word_embeddings", qpi_config_bool(c, "tie_word_embeddings", false),
                         "initializer_range", qpi_config_number(c, "initializer_range", 0.02), "mixer", mixer,
                         "ffn", ffn, "norm", norm, "input_norm", norm, "position", "type", "none")) == 0;
}

static json_t *mixer_of(qpi_config *c, const char *type) {
    return json_pack("{s:s, s:I, s:f}", "type", type, "head_width",
                     (json_int_t)qpi_config_int(c, "head_size", 64), "head_norm_eps",
                     qpi_config_number(c, "head_norm_epsilon", 64e-5));
}

/* An option that has the same name in both. */
static void take(qpi_config *c, json_t *mixer, const char *key, int64_t fallback) {
    qpi_config_put(c, mixer, key, json_integer(qpi_config_int(c, key, fallback)));
}

static bool rwkv4(qpi_config *c, json_t *stack) {
    return translate(c, stack, json_pack("{s:s}", "type", "rwkv4"), "rwkv4", 4);
}

static bool rwkv5(qpi_config *c, json_t *stack) {
    json_t *mixer = mixer_of(c, "rwkv5");
    qpi_config_put(c, mixer, "gate", json_boolean(qpi_config_bool(c, "gate", true)));
    qpi_config_put(c, mixer, "scalar_decay", json_boolean(qpi_config_bool(c, "scalar_decay", false)));
    return translate(c, stack, mixer, "rwkv4", 3.5);
}

static bool rwkv6(qpi_config *c, json_t *stack) {
    json_t *mixer = mixer_of(c, "rwkv6");
    take(c, mixer, "mix_rank", 32);
    take(c, mixer, "decay_rank", 64);
    return translate(c, stack, mixer, "rwkv6", 3.5);
}

static bool rwkv7(qpi_config *c, json_t *stack) {
    json_t *mixer = mixer_of(c, "rwkv7");
    take(c, mixer, "decay_rank", 0);
    take(c, mixer, "a_rank", 0);
    take(c, mixer, "v_rank", 0);
    take(c, mixer, "gate_rank", 0);
    return translate(c, stack, mixer, "rwkv7", 4);
}

/* Hugging Face's. rescale_every halves weights and activations together, for sums in 16 bits: the same function. */
static bool rwkv(qpi_config *c, json_t *stack) {
    int64_t  width = qpi_config_int(c, "hidden_size", 768);
    qpi_json at = qpi_json_member(&c->root, "attention_hidden_size");
    if (qpi_config_int(c, "attention_hidden_size", width) != width)
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "differs from hidden_size, quipu can only do the same");
    qpi_config_use(c, "rescale_every");
    return rwkv4(c, stack);
}

/* ---- Names ---------------------------------------------------------------------------------------- */

#define BOTH(theirs, ours) \
    {theirs ".weight", ours ".weight", 0, false}, { theirs ".bias", ours ".bias", 0, false }
#define ATT(name) {"blocks.%d.att." name, "blocks.%d.mixer." name, 0, false}

/* Names of the feed-forward are the authors' already. */
static const qpi_name_rule rules[] = {{"emb.weight", "embed.weight", 0, false},
                                      BOTH("blocks.0.ln0", "input_norm"),
                                      BOTH("blocks.%d.ln1", "blocks.%d.norm1"),
                                      BOTH("blocks.%d.ln2", "blocks.%d.norm2"),
                                      BOTH("ln_out", "norm"),
                                      ATT("key.weight"),
                                      ATT("value.weight"),
                                      ATT("receptance.weight"),
                                      ATT("gate.weight"),
                                      ATT("output.weight"),
                                      ATT("ln_x.weight"),
                                      ATT("ln_x.bias"),
                                      ATT("time_decay"),
                                      ATT("time_first"),
                                      ATT("time_faaaa"),
                                      ATT("time_mix_k"),
                                      ATT("time_mix_v"),
                                      ATT("time_mix_r"),
                                      ATT("time_mix_g"),
                                      ATT("time_maa_x"),
                                      ATT("time_maa_w"),
                                      ATT("time_maa_k"),
                                      ATT("time_maa_v"),
                                      ATT("time_maa_r"),
                                      ATT("time_maa_g"),
                                      ATT("time_maa_w1"),
                                      ATT("time_maa_w2"),
                                      ATT("time_decay_w1"),
                                      ATT("time_decay_w2"),
                                      ATT("x_r"),
                                      ATT("x_w"),
                                      ATT("x_k"),
                                      ATT("x_v"),
                                      ATT("x_a"),
                                      ATT("x_g"),
                                      ATT("w0"),
                                      ATT("w1"),
                                      ATT("w2"),
                                      ATT("a0"),
                                      ATT("a1"),
                                      ATT("a2"),
                                      ATT("v0"),
                                      ATT("v1"),
                                      ATT("v2"),
                                      ATT("g1"),
                                      ATT("g2"),
                                      ATT("k_k"),
                                      ATT("k_a"),
                                      ATT("r_k"),
                                      {0}};

/* Some files have the first layer's share of its own v, which nothing reads. */
static const char *const ignored[] = {"blocks.0.att.v[012]", NULL};

#define HF(part, theirs, ours) {"rwkv.blocks.%d." part "." theirs, "blocks.%d." ours, 0, false}

static const qpi_name_rule hf_rules[] = {{"rwkv.embeddings.weight", "embed.weight", 0, false},
                                         BOTH("rwkv.blocks.0.pre_ln", "input_norm"),
                                         BOTH("rwkv.blocks.%d.ln1", "blocks.%d.norm1"),
                                         BOTH("rwkv.blocks.%d.ln2", "blocks.%d.norm2"),
                                         BOTH("rwkv.ln_out", "norm"),
                                         HF("attention", "key.weight", "mixer.key.weight"),
                                         HF("attention", "value.weight", "mixer.value.weight"),
                                         HF("attention", "receptance.weight", "mixer.receptance.weight"),
                                         HF("attention", "output.weight", "mixer.output.weight"),
                                         HF("attention", "time_decay", "mixer.time_decay"),
                                         HF("attention", "time_first", "mixer.time_first"),
                                         HF("attention", "time_mix_key", "mixer.time_mix_k"),
                                         HF("attention", "time_mix_value", "mixer.time_mix_v"),
                                         HF("attention", "time_mix_receptance", "mixer.time_mix_r"),
                                         HF("feed_forward", "time_mix_key", "ffn.time_mix_k"),
                                         HF("feed_forward", "time_mix_receptance", "ffn.time_mix_r"),
                                         HF("feed_forward", "key.weight", "ffn.key.weight"),
                                         HF("feed_forward", "receptance.weight", "ffn.receptance.weight"),
                                         HF("feed_forward", "value.weight", "ffn.value.weight"),
                                         {"head.weight", "head.weight", 0, false},
                                         {0}};

#define DEFAULTS(type, more) \
    "{\"model_type\": \"" type \
    "\", \"vocab_size\": 65536, \"hidden_size\": 768, \"num_hidden_layers\": 12, " more \
    "\"layer_norm_epsilon\": 1e-05, \"context_length\": 4096, \"tie_word_embeddings\": false}"
QP_PRESET(rwkv4) = {.name = "rwkv4",
                    .source = "arXiv:2305.13048",
                    .defaults = DEFAULTS("rwkv4", ""),
                    .prefix = "",
                    .rules = rules,
                    .translate = rwkv4};
QP_PRESET(rwkv5) = {.name = "rwkv5",
                    .source = "arXiv:2404.05892",
                    .defaults = DEFAULTS("rwkv5", "\"head_size\": 64, "),
                    .prefix = "",
                    .rules = rules,
                    .translate = rwkv5};
QP_PRESET(rwkv6) = {.name = "rwkv6",
                    .source = "arXiv:2404.05892",
                    .defaults = DEFAULTS("rwkv6", "\"head_size\": 64, "),
                    .prefix = "",
                    .rules = rules,
                    .translate = rwkv6};
QP_PRESET(rwkv7) = {.name = "rwkv7",
                    .source = "arXiv:2503.14456",
                    .defaults = DEFAULTS("rwkv7", "\"head_size\": 64, "),
                    .prefix = "",
                    .rules = rules,
                    .ignored = ignored,
                    .translate = rwkv7};
QP_PRESET(rwkv) = {
    .name = "rwkv",
    .source = "arXiv:2305.13048",
    .defaults = DEFAULTS("rwkv", "\"architectures\": [\"RwkvForCausalLM\"], \"rescale_every\": 0, "),
    .prefix = "rwkv.",
    .rules = hf_rules,
    .translate = rwkv};
