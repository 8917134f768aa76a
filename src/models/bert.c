/* Encoders: BERT (Devlin et al. 2018, arXiv:1810.04805) and RoFormer (Su et al. 2021, arXiv:2104.09864, with
 * turned queries and keys instead of learned positions). Every position sees all; norm after each residual
 * sum. Which head there is, "architectures" says. */
#include <string.h>

#include "models/model.h"

typedef enum { HIDDEN, MASKED_LM, PRETRAINING, UNKNOWN } head_kind;

/* The last word of architectures[0]: BertModel, BertForMaskedLM, .. */
static head_kind head_of(qpi_config *c) {
    static const char *const ends[] = {"Model", "ForMaskedLM", "ForPreTraining"};
    qpi_json                 list = qpi_json_member(&c->root, "architectures");
    if (!json_array_size(list.value)) return HIDDEN;
    qpi_json    at = qpi_json_item(&list, 0);
    const char *text = json_string_value(at.value);
    size_t      n = text ? strlen(text) : 0;
    for (int i = 0; i < UNKNOWN; i++)
        if (n > strlen(ends[i]) && !strcmp(text + n - strlen(ends[i]), ends[i])) return (head_kind)i;
    qpi_json_fail(&at, QP_ERR_UNSUPPORTED,
                  "found \"%.60s\", expected one that ends in Model, ForMaskedLM or ForPreTraining",
                  text ? text : qpi_json_kind(at.value));
    return UNKNOWN;
}

/* pooled: does the model without a head have a pooled vector? */
static bool translate(qpi_config *c, json_t *stack, json_t *position, bool pooled) {
    /* how it was trained, and what published files say of a pooler that there is only one kind of */
    static const char *const other[] = {
        "attention_probs_dropout_prob", "classifier_dropout",   "directionality",       "pooler_fc_size",
        "pooler_num_attention_heads",   "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"};
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) qpi_config_use(c, other[i]);
    head_kind   head = head_of(c);
    double      eps = qpi_config_number(c, "layer_norm_eps", 1e-12);
    const char *act = qpi_config_activation(c, "hidden_act", "gelu");
    json_t     *norm = json_pack("{s:s, s:f}", "type", "layer_norm", "eps", eps);
    json_t *output = head == HIDDEN ? json_pack("{s:s}", "type", "none")
                                    : json_pack("{s:s, s:f, s:s}", "type", "masked_lm", "eps", eps, "act", act);
    json_t *mixer = json_pack("{s:s, s:I, s:b, s:b, s:b, s:b}", "type", "attention", "heads",
                              (json_int_t)qpi_config_count(c, "num_attention_heads", 12), "bias", 1, "out_bias",
                              1, "causal", 0, "rotate_values", qpi_config_bool(c, "rotary_value", false));
    json_t *ffn = json_pack("{s:s, s:I, s:s, s:b}", "type", "mlp", "width",
                            (json_int_t)qpi_config_int(c, "intermediate_size", 3072), "act", act, "bias", 1);
    json_t *ends = json_pack("{s:{s:s, s:I}, s:O, s:{s:s}, s:o}", "input", "type", "tokens", "types",
                             (json_int_t)qpi_config_int(c, "type_vocab_size", 2), "input_norm", norm,
                             "final_norm", "type", "none", "output", output);
    bool    has_ends = json_object_update_new(stack, ends) == 0;
    if (pooled && head != MASKED_LM)
        qpi_config_put(c, stack, "outputs", json_pack("{s:{s:s}}", "pooled", "type", "pooler"));
    return json_object_update_new(
               stack,
               json_pack("{s:I, s:I, s:I, s:I, s:b, s:f, s:f, s:o, s:o, s:o, s:o, s:{s:s}}", "vocab_size",
                         (json_int_t)qpi_config_int(c, "vocab_size", 30522), "hidden_size",
                         (json_int_t)qpi_config_int(c, "hidden_size", 768), "num_hidden_layers",
                         (json_int_t)qpi_config_int(c, "num_hidden_layers", 12), "max_position_embeddings",
                         (json_int_t)qpi_config_int(c, "max_position_embeddings", 512), "tie_word_embeddings",
                         qpi_config_bool(c, "tie_word_embeddings", true), "initializer_range",
                         qpi_config_number(c, "initializer_range", 0.02), "dropout",
                         qpi_config_number(c, "hidden_dropout_prob", 0.1), "position", position, "mixer", mixer,
                         "ffn", ffn, "norm", norm, "block", "type", "post_norm")) == 0 &&
           has_ends;
}

static bool bert(qpi_config *c, json_t *stack) {
    qpi_config_only(c, "position_embedding_type", "\"absolute\"");
    return translate(c, stack, json_pack("{s:s}", "type", "learned"), true);
}

/* Encoders that were trained for other vectors come without the pooler. */
static void without_pooler(json_t *stack, const qp_file *file) {
    if (qp_file_find(file, "pooler.dense.weight") < 0 && qp_file_find(file, "bert.pooler.dense.weight") < 0)
        json_object_del(stack, "outputs");
}

static bool roformer(qpi_config *c, json_t *stack) {
    int64_t  width = qpi_config_int(c, "hidden_size", 768);
    qpi_json at = qpi_json_member(&c->root, "embedding_size");
    if (qpi_config_int(c, "embedding_size", width) != width)
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "differs from hidden_size, quipu can only do the same");
    return translate(c, stack, json_pack("{s:s, s:s}", "type", "rope", "layout", "interleaved"), false);
}

#define BOTH(theirs, ours) \
    {theirs ".weight", ours ".weight", 0, false}, { theirs ".bias", ours ".bias", 0, false }
#define LEFT_OUT(which) \
    {NULL, which ".weight", 0, false}, { NULL, which ".bias", 0, false }

/* base: where the encoder stands in a model with a head */
#define RULES(base) \
    {base "embeddings.word_embeddings.weight", "embed.weight", 0, false}, \
        {base "embeddings.position_embeddings.weight", "position.weight", 0, false}, \
        {base "embeddings.token_type_embeddings.weight", "types.weight", 0, false}, \
        BOTH(base "embeddings.LayerNorm", "input_norm"), \
        BOTH(base "encoder.layer.%d.attention.self.query", "blocks.%d.mixer.q"), \
        BOTH(base "encoder.layer.%d.attention.self.key", "blocks.%d.mixer.k"), \
        BOTH(base "encoder.layer.%d.attention.self.value", "blocks.%d.mixer.v"), \
        BOTH(base "encoder.layer.%d.attention.output.dense", "blocks.%d.mixer.out"), \
        BOTH(base "encoder.layer.%d.attention.output.LayerNorm", "blocks.%d.norm1"), \
        BOTH(base "encoder.layer.%d.intermediate.dense", "blocks.%d.ffn.up"), \
        BOTH(base "encoder.layer.%d.output.dense", "blocks.%d.ffn.down"), \
        BOTH(base "encoder.layer.%d.output.LayerNorm", "blocks.%d.norm2"), \
        BOTH(base "pooler.dense", "pooled.dense"), BOTH("cls.predictions.transform.dense", "transform"), \
        BOTH("cls.predictions.transform.LayerNorm", "transform_norm"), \
        {"cls.predictions.decoder.weight", "head.weight", 0, false}, \
        {"cls.predictions.decoder.bias", "head.bias", 0, false}, {0}

static const qpi_name_rule bert_rules[] = {RULES("bert.")};
static const qpi_name_rule roformer_rules[] = {RULES("roformer.")};

/* Heads that the config does not ask for, tables that are numbers of positions or their sines. */
static const char *const ignored[] = {"cls.*", "*pooler.dense.*", "*position_ids", "*embed_positions.weight",
                                      NULL};

#define DEFAULTS(type, architecture) \
    "{\"architectures\": [\"" architecture "\"], \"model_type\": \"" type "\", \"vocab_size\": 4096, " \
    "\"hidden_size\": 256, \"intermediate_size\": 1024, \"num_hidden_layers\": 6, \"num_attention_heads\": " \
    "8, " \
    "\"max_position_embeddings\": 512, \"type_vocab_size\": 2, \"hidden_act\": \"gelu\", " \
    "\"hidden_dropout_prob\": 0.1, \"attention_probs_dropout_prob\": 0.0, \"initializer_range\": 0.02, " \
    "\"layer_norm_eps\": 1e-12, \"pad_token_id\": 0, \"tie_word_embeddings\": true}"

/* ---- GGUF: the encoder alone --------------------------------------------------------------------------- */

static const qpi_name_rule gguf_rules[] = {{"token_embd.weight", "embed.weight", 0, false},
                                           {"position_embd.weight", "position.weight", 0, false},
                                           {"token_types.weight", "types.weight", 0, false},
                                           BOTH("token_embd_norm", "input_norm"),
                                           BOTH("blk.%d.attn_q", "blocks.%d.mixer.q"),
                                           BOTH("blk.%d.attn_k", "blocks.%d.mixer.k"),
                                           BOTH("blk.%d.attn_v", "blocks.%d.mixer.v"),
                                           BOTH("blk.%d.attn_output", "blocks.%d.mixer.out"),
                                           BOTH("blk.%d.attn_output_norm", "blocks.%d.norm1"),
                                           BOTH("blk.%d.ffn_up", "blocks.%d.ffn.up"),
                                           BOTH("blk.%d.ffn_down", "blocks.%d.ffn.down"),
                                           BOTH("blk.%d.layer_output_norm", "blocks.%d.norm2"),
                                           LEFT_OUT("pooled.dense"),
                                           LEFT_OUT("transform"),
                                           LEFT_OUT("transform_norm"),
                                           LEFT_OUT("head"),
                                           {0}};

static const qpi_gguf_key gguf_keys[] = {{"context_length", "max_position_embeddings", true},
                                         {"embedding_length", "hidden_size", true},
                                         {"block_count", "num_hidden_layers", true},
                                         {"feed_forward_length", "intermediate_size", true},
                                         {"attention.head_count", "num_attention_heads", true},
                                         {"attention.layer_norm_epsilon", "layer_norm_eps", false},
                                         {"tokenizer.ggml.token_type_count", "type_vocab_size", true},
                                         {0}};

static void complete(json_t *config) {
    json_object_set_new(config, "architectures", json_pack("[s]", "BertModel"));
}

static const char *lost(const json_t *config) {
    const char *act = json_string_value(json_object_get(config, "hidden_act"));
    return act && strcmp(act, "gelu") ? "hidden_act" : NULL;
}

static const qpi_gguf_family gguf = {
    .architecture = "bert", .rules = gguf_rules, .keys = gguf_keys, .complete = complete, .lost = lost};

QP_PRESET(bert) = {.name = "bert",
                   .source = "arXiv:1810.04805",
                   .defaults = DEFAULTS("bert", "BertForMaskedLM"),
                   .prefix = "bert.",
                   .rules = bert_rules,
                   .ignored = ignored,
                   .gguf = &gguf,
                   .translate = bert,
                   .adapt = without_pooler};
QP_PRESET(roformer) = {.name = "roformer",
                       .source = "arXiv:2104.09864",
                       .defaults = DEFAULTS("roformer", "RoFormerForMaskedLM"),
                       .prefix = "roformer.",
                       .rules = roformer_rules,
                       .ignored = ignored,
                       .translate = roformer};
