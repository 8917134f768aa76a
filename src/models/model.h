/* What the files of src/models share: a preset translates a Hugging Face config into a stack
 * config and names between the two; stack.c builds and runs the stack. */
#ifndef QUIPU_MODELS_MODEL_H
#define QUIPU_MODELS_MODEL_H

#include "core/core.h"
#include "format/gguf.h"
#include "format/json.h"
#include "nn/part.h"
#include "quipu/model.h"

typedef struct qpi_config qpi_config;

/* One name in a checkpoint and one in the stack; %d is the layer in both. A second %d in theirs: each is one
 * expert's part [..] of ours [E, ..]. */
typedef struct {
    const char *theirs, *ours; /* theirs NULL: such files leave it out */
    int         part;          /* 1 ..: theirs holds the rows of several of ours, and this is which; 0: all */
    bool        transpose;     /* stored [in, out] */
} qpi_name_rule;

/* How GGUF files hold models of a type (gguf.c). */
typedef struct {
    const char *gguf, *theirs; /* a key behind "ARCHITECTURE.", or one of the tokenizer's, and the Hugging Face
                                  config's */
    bool        integer;       /* otherwise a number */
} qpi_gguf_key;

typedef struct {
    const char          *architecture;
    const qpi_name_rule *rules, *own; /* own: looked up before the others; may be NULL */
    const qpi_gguf_key  *keys;        /* end with {0} */
    const char *const (*flags)[2];    /* a tensor and the config key that is true where it is there; ends
                                               with {NULL}; may be NULL */
    const char *interleaved;          /* pattern of our names whose rows stand in an order of GGUF's own: of
                                               the K of a head the pair (i, i + K/2) as (2i, 2i + 1). NULL: none */
    bool        unit_offset;          /* gains of norms stand with their 1 added */
    bool        windows;              /* sliding_window counts; without it layers have none */
    int64_t     period; /* where no key says otherwise each period-th layer has no window; 0: all have it */
    void (*complete)(json_t *config); /* sets what such files leave to the reader; may be NULL */
    const char *(*lost)(
        const json_t *config); /* the key whose value such a file cannot hold, NULL: none; may be NULL */
    void (*describe)(const json_t *config, qpi_gguf_pairs *pairs); /* keys that no table can say; may be NULL */
} qpi_gguf_family;

typedef struct {
    const char            *name; /* model_type */
    const char            *source;
    const char            *defaults; /* config text to start from */
    const char            *prefix;   /* that published checkpoints may leave out */
    const qpi_name_rule   *rules;    /* ends with {0}; NULL: names are the stack's own */
    const qpi_name_rule   *own;      /* looked up before them; NULL: none */
    const char *const     *ignored;  /* patterns of tensors to pass over */
    const qpi_gguf_family *gguf;     /* NULL: GGUF has no such models */
    /* Fills the stack config (an empty object); keys that it read are marked with
     * qpi_config_use. False after storing an error. */
    bool (*translate)(qpi_config *c, json_t *stack);
    void (*adapt)(json_t        *stack,
                  const qp_file *file); /* takes out what a checkpoint lacks; NULL: nothing may be lacking */
} qpi_preset;

#define QP_PRESET(name) \
    extern const qpi_preset qpi_preset_##name; \
    const qpi_preset        qpi_preset_##name
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
int64_t qpi_config_int(qpi_config *c, const char *key, int64_t fallback);
int64_t qpi_config_count(qpi_config *c, const char *key, int64_t fallback); /* at least 1 */
double qpi_config_number(qpi_config *c, const char *key, double fallback);
bool qpi_config_bool(qpi_config *c, const char *key, bool fallback);
const char *qpi_config_text(qpi_config *c, const char *key, const char *fallback);
/* The name of an activation, ours for theirs. */
const char *qpi_config_activation(qpi_config *c, const char *key, const char *fallback);
void qpi_config_use(qpi_config *c, const char *key);
/* Fails unless the key is absent, null, or equal to the one value that quipu can do. */
void qpi_config_only(qpi_config *c, const char *key, const char *text);
/* Sets a key of an object that is being made and takes over the value; failing is a MEMORY error, which
 * qpi_config_finish sees. */
void qpi_config_put(qpi_config *c, json_t *object, const char *key, json_t *value);
/* A new object with the same members. (json_copy leaves out what it has no memory for.) */
json_t *qpi_config_copy(qpi_config *c, const json_t *object);
/* rope_theta, rope_scaling, rope_parameters (old and new forms, of which the old one wins) -> a position
 * object. theta: where the config gives none. */
json_t *qpi_config_rope(qpi_config *c, double theta);
/* The same from the objects alone, which may be absent; later ones win. */
json_t *qpi_config_rope_of(qpi_config *c, double theta, const qpi_json *objects, int count);
/* Fails if a key is neither used, nor known to be harmless, nor off. */
bool qpi_config_finish(qpi_config *c);

/* ---- The stack ---------------------------------------------------------------------------------- */

typedef struct {
    const qp_block_type *type;
    qp_block             block;
    qp_position          position;
    qp_module           *module;
    int64_t              head_width; /* K of its mixer; 0: it has no heads */
    /* gradient checkpoints: names of the fields that it saw and added */
    const char *seen[QP_MAX_IN], *added[QP_MAX_OUT];
    uint32_t   *asked; /* where the running forward pass notes what is asked for */
} qpi_layer;

/* Parts with their objects. */
typedef struct {
    const qp_input_type *type;
    void                *self;
} qpi_input;
typedef struct {
    const qp_output_type *type;
    void                 *self;
    const char           *name; /* of its field */
} qpi_output;

/* A module that predicts a token further ahead (mtp.c); its block is blocks[layers + k]. */
typedef struct {
    qp_norm       embedded, hidden, last;
    qp_nn_linear *project;
} qpi_mtp;

#define QPI_MAX_MTP 8
#define QPI_MAX_PARTS 8

/* A tensor of a checkpoint: one parameter, several that it holds one after another, or an expert's part of one. */
typedef struct {
    char     *name;
    int       count;
    qp_tensor parts[QPI_MAX_PARTS];
    int64_t   expert;                   /* it holds this one's part of the parameter; -1: all of it */
    bool      transpose, tied;          /* tied: the same elements as an earlier one; may be absent */
    bool      interleaved, unit_offset; /* qpi_gguf_family */
} qpi_weight;

struct qp_model {
    qp_ctx           *ctx;
    const qpi_preset *preset;
    json_t           *config; /* as given: what is saved */
    json_t           *rope;   /* the stack's position, where it is rope */
    char             *config_text;
    qp_module        *module;
    int64_t           vocabulary, width, layers, positions;
    double            dropout;
    bool              checkpoint; /* layers are run again in backward */
    qpi_input         input;
    qp_norm           input_norm; /* behind the positions; type NULL: none */
    qp_position       position;   /* that all layers share; type NULL: each has its own */
    qpi_layer        *blocks;     /* layers of them, then those of mtp */
    qpi_mtp           mtp[QPI_MAX_MTP];
    int               mtp_count;
    const qp_model   *host;    /* of which it is a module for further tokens, and nothing besides; NULL: none */
    qp_norm           norm;    /* the last; type NULL: none */
    qpi_output        output;  /* type NULL: none, the model gives hidden states */
    qpi_output       *outputs; /* further ones, by the name of their field */
    int               output_count;
    void            **objects; /* of parts, freed with the model */
    int               object_count;
    qpi_owned        *owned;
    int               users;               /* sessions */
    bool              closed;              /* as soon as they are */
    qpi_weight       *weights;             /* made when asked for */
    int               weight_count, named; /* named: of how many entries */
    bool              named_gguf;
    const char       *left_out;    /* one of ours that those files have no place for */
    int64_t           head_width;  /* K of the first layer that has heads */
    bool              interleaved; /* the weights are a GGUF file's as it stores them: qpi_gguf_family */
};

/* Checkpoints (weights.c). Opened before the model is built, so that a config cannot ask for more
 * than its weights hold. */
bool qpi_weights_load(qp_model *m, const char *path, const qp_file *file, bool as_stored);
void qpi_weights_free(qp_model *m);

/* GGUF (gguf.c). The Hugging Face config that the file's keys amount to; NULL after storing an error
 * that begins with `path`. */
json_t *qpi_gguf_config(qp_ctx *ctx, const char *path, const qp_file *file);
/* The reverse: general.architecture and the keys of the architecture. False after storing an error. */
bool qpi_gguf_describe(qp_model *m, qpi_gguf_pairs *pairs);
/* What a GGUF file of the model holds, tensor by tensor: qp_model_weight with GGUF's names and order of
 * rows; at the end rope_freqs.weight where the scaling asks for it. */
bool qpi_gguf_divisors(qp_model *m, qp_tensor *t);
bool qpi_gguf_weight(qp_model *m, int64_t i, const char **name, qp_tensor *t);

/* A model without parts yet; NULL after storing an error. */
qp_model *qpi_model_alloc(qp_ctx *ctx);
/* Builds the modules from a stack config. False after storing an error. */
bool qpi_stack_build(qp_model *m, const json_t *stack, const char *where);
/* ids [B, T] -> the last norm's output [B, T, D], and in `all` the fields that layers add, in the
 * current scope. s->in is not NULL. states: two for each layer and one for the positions, without gradients
 * (qp_no_grad); or NULL for whole sequences. */
qp_tensor qpi_stack_forward(qp_model *m, qp_tensor ids, const qp_sequence *s, qp_record *all, qp_state *states);

/* Runs one of the blocks; what it adds goes to out. states: its two, or NULL. */
qp_tensor qpi_stack_layer(qp_model *m, int64_t i, qp_tensor x, const qp_sequence *s, qp_record *out,
                          qp_state *states);

/* Module k: hidden [B, T, D] of positions and, for each, the id that stands k + 1 places behind [B, T] ->
 * what the module has for hidden there. states: as of qpi_stack_layer. */
qp_tensor qpi_mtp_forward(qp_model *m, int k, qp_tensor hidden, qp_tensor ids, const qp_sequence *s,
                          qp_state *states);
/* The same in whole sequences [B, T]: module k with its hidden [B, at least T - ahead, D], for the ids `ahead` places
 * behind each [B, T - ahead, D]; *cropped: of what positions. */
qp_tensor qpi_mtp_ahead(qp_model *m, int k, int64_t ahead, qp_tensor hidden, qp_tensor ids,
                        const qp_sequence *s, qp_sequence *cropped);
/* Their part of the loss, of whole sequences; hidden: the last norm's output. */
qp_tensor qpi_mtp_loss(qp_model *m, qp_tensor hidden, qp_tensor ids, qp_tensor labels, const qp_sequence *s);
/* The mean cross-entropy of an output. */
qp_tensor qpi_output_loss(const qpi_output *o, qp_tensor hidden, qp_tensor labels, const qp_sequence *s);
/* A module for further tokens as host's config describes its layers, fresh, without elements yet; with host's input
 * and output, and named as behind host's layers. It is used by qpi_mtp_forward only, and closed before host. */
qp_model *qpi_mtp_new(qp_model *host);
/* The last norm's output alone, from fields as qp_forward takes them. */
qp_tensor qpi_model_hidden(qp_model *m, const qp_record *in);

/* What of a model carries a state from position to position: mixer and feed-forward of layer i / 2, at last the
 * positions. */
typedef struct {
    const char *name; /* of the part; NULL: nothing is carried */
    void       *self;
    bool        steps, causal;
    void (*reserve)(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
} qpi_carrier;
static inline int64_t qpi_carrier_count(const qp_model *m) { return 2 * m->layers + 1; }
qpi_carrier qpi_model_carrier(const qp_model *m, int64_t i);

/* A session uses the model, which lives until the last of them is closed. */
void qpi_model_use(qp_model *m);
void qpi_model_release(qp_model *m);

#endif
