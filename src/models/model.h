/* What the files of src/models share: a preset translates a Hugging Face config into a stack
 * config and names between the two; stack.c builds and runs the stack. */
#ifndef QUIPU_MODELS_MODEL_H
#define QUIPU_MODELS_MODEL_H

#include "core/core.h"
#include "format/json.h"
#include "nn/part.h"
#include "quipu/model.h"

typedef struct qpi_config qpi_config;

/* One name in a checkpoint and one in the stack; %d is the layer in both. */
typedef struct {
    const char *theirs, *ours;
    int         segment;   /* 1 ..: that segment of the parameter's rows; 0: all of it */
    bool        transpose; /* stored [in, out] */
} qpi_name_rule;

typedef struct {
    const char          *name;     /* model_type */
    const char          *source;
    const char          *defaults; /* config text to start from */
    const char          *prefix;   /* that published checkpoints may leave out */
    const qpi_name_rule *rules;    /* ends with {0}; NULL: names are the stack's own */
    const char *const   *ignored;  /* patterns of tensors to pass over */
    /* Fills the stack config (an empty object); keys that it read are marked with
     * qpi_config_use. False after storing an error. */
    bool (*translate)(qpi_config *c, json_t *stack);
} qpi_preset;

#define QP_PRESET(name) extern const qpi_preset qpi_preset_##name; const qpi_preset qpi_preset_##name
extern const qpi_preset *const qpi_presets[];

/* ---- Reading configs, every key accounted for (config.c) -------------------------------------- */

#define QPI_MAX_KEYS 192

struct qpi_config {
    qp_ctx     *ctx;
    qpi_json    root;
    const char *used[QPI_MAX_KEYS];
    int         used_count;
};

/* The value of a key, or the fallback where absent or null; the key counts as used. Errors
 * name the key. */
int64_t     qpi_config_int(qpi_config *c, const char *key, int64_t fallback);
double      qpi_config_number(qpi_config *c, const char *key, double fallback);
bool        qpi_config_bool(qpi_config *c, const char *key, bool fallback);
const char *qpi_config_text(qpi_config *c, const char *key, const char *fallback);
void        qpi_config_use(qpi_config *c, const char *key);
/* Fails unless the key is absent, null, or equal to the one value that quipu can do. */
void qpi_config_only(qpi_config *c, const char *key, const char *text);
/* rope_theta, rope_scaling, rope_parameters (old and new forms) -> a position object. */
json_t *qpi_config_rope(qpi_config *c);
/* Fails if a key is neither used, nor known to be harmless, nor off. */
bool qpi_config_finish(qpi_config *c);

/* ---- The stack ---------------------------------------------------------------------------------- */

typedef struct {
    const qp_norm_type  *norm_type;
    const qp_mixer_type *mixer_type;
    const qp_ffn_type   *ffn_type;
    void                *norm1, *mixer, *norm2, *ffn;
} qpi_block;

struct qp_model {
    qp_ctx                 *ctx;
    const qpi_preset       *preset;
    json_t                 *config; /* as given: what is saved */
    char                   *config_text;
    qp_module              *module;
    int64_t                 vocabulary, width, layers, positions;
    double                  dropout;
    qp_nn_embedding         embed;
    qp_tensor               head; /* [V, D]; the embedding's when tied */
    qp_position             position;
    qpi_block              *blocks;
    const qp_norm_type     *norm_type;
    void                   *norm;
    void                  **objects; /* of parts, freed with the model */
    int                     object_count;
    char                  (*piece_names)[256]; /* made when asked for */
};

/* Builds the modules from a stack config. False after storing an error. */
bool qpi_stack_build(qp_model *m, const json_t *stack, const char *where);
/* x [B, T, D] through all blocks; states: one for each layer, or NULL for whole sequences. */
qp_tensor qpi_stack_forward(qp_model *m, qp_tensor ids, const qp_stream *s, qp_state *states);

#endif
