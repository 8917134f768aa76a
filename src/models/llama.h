/* What the kin of Llama share: the common keys, layers that differ, names in checkpoints. */
#ifndef QUIPU_MODELS_LLAMA_H
#define QUIPU_MODELS_LLAMA_H

#include "models/model.h"

/* What a config without the key means, and what no key says. */
typedef struct {
    bool        tied, qkv_bias, out_bias, ffn_bias;
    bool        unit_offset; /* gains of norms are 1 + weight */
    int64_t     head_dim;    /* 0: D / H */
    double      theta, eps;  /* 0: 1e4, 1e-6 */
    json_t     *position;    /* NULL: by the keys of rope. Taken over */
    const char *ffn;         /* NULL: swiglu */
} qpi_llama;

/* The stack of a plain Llama; the objects "mixer", "ffn", "norm", "position" may be changed afterwards. */
bool qpi_llama_translate(qpi_config *c, json_t *stack, qpi_llama v);

/* How layers differ. layer_types says which have the window; where it is not given: those from
 * window_from on and, of these, not each full_every-th (0: all of them). */
typedef struct {
    int64_t window; /* 0: none has one */
    int64_t window_from, full_every;
    json_t *local;    /* position encoding of layers with the window; NULL: as the others. Taken over */
    bool    unturned; /* no_rope_layers says which layers have no encoding */
} qpi_layers;

/* Writes "layers", from the mixer and the position that the stack has by now. */
bool qpi_llama_layers(qpi_config *c, json_t *stack, qpi_layers of);

/* sliding_window; `fallback` where the key is absent, 0 where it is null. */
int64_t qpi_llama_window(qpi_config *c, int64_t fallback);

/* Sets a key of one of the stack's objects; takes over the value. */
void qpi_set(qpi_config *c, json_t *stack, const char *object, const char *key, json_t *value);

extern const qpi_name_rule qpi_llama_rules[];
extern const char *const   qpi_llama_ignored[];

/* In GGUF files: names; keys, to which a table of a type's own may add QPI_LLAMA_GGUF_KEYS; the flag of
 * attention_bias. */
extern const qpi_name_rule qpi_llama_gguf_rules[];
extern const char *const   qpi_llama_gguf_flags[][2];
#define QPI_LLAMA_GGUF_KEYS \
    {"context_length", "max_position_embeddings", true}, {"embedding_length", "hidden_size", true}, \
        {"block_count", "num_hidden_layers", true}, {"feed_forward_length", "intermediate_size", true}, \
        {"attention.head_count", "num_attention_heads", true}, \
        {"attention.head_count_kv", "num_key_value_heads", true}, {"attention.key_length", "head_dim", true}, \
        {"attention.sliding_window", "sliding_window", true}, \
        {"attention.layer_norm_rms_epsilon", "rms_norm_eps", false}, { \
        "rope.freq_base", "rope_theta", false \
    }

#define QPI_LLAMA_DEFAULTS(type, architecture, more) \
    "{\"architectures\": [\"" architecture "\"], \"model_type\": \"" type "\", \"vocab_size\": 4096, " \
    "\"hidden_size\": 256, \"intermediate_size\": 704, \"num_hidden_layers\": 6, " \
    "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"max_position_embeddings\": 1024, " \
    "\"initializer_range\": 0.02, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true" more "}"

/* A preset: QP_PRESET(llama) = QPI_LLAMA_PRESET("llama", ..); behind translate, further fields. */
#define QPI_LLAMA_PRESET(type, from, config, translation, ...) \
    {.name = type, \
     .source = from, \
     .defaults = config, \
     .prefix = "model.", \
     .rules = qpi_llama_rules, \
     .ignored = qpi_llama_ignored, \
     .translate = translation, \
     __VA_ARGS__}

#endif
