/* quipu/model.h: models: a stack of parts built from a config, checkpoints in and out.
 *
 * A config is that of Hugging Face (`quipu list presets` names the model types) or, for
 * stacks that transformers does not know, {"model_type": "quipu", ...} (docs/models.md).
 * A key that quipu does not know and that is not off (null or false) is an error that names
 * it: it might change the mathematics.
 */
#ifndef QUIPU_MODEL_H
#define QUIPU_MODEL_H

#include "format.h"
#include "part.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qp_model qp_model;

typedef struct {
    bool as_stored; /* weights keep the type and, where its layout allows, the memory of the file
                       (mapped): for inference, they do not train. Otherwise they become f32
                       parameters */
    bool empty;     /* parameters without elements: to ask for names and sizes */
    bool in_memory; /* read the file instead of mapping it: qp_file_options */
} qp_model_options;

/* path: a folder with config.json and weights, or a config.json alone (fresh weights, drawn from the
 * context's random stream), or a GGUF file. The model belongs to ctx. Nothing is allocated for a parameter
 * before the file is known to hold it. NULL after storing an error: IO, FORMAT (the config, the file, or
 * tensors that are missing or too many, named), UNSUPPORTED (a model type, a key or a part that quipu has
 * not), SHAPE (of a tensor), ARGUMENT (an option of a part, the path), MEMORY. */
QP_API qp_model *qp_model_load(qp_ctx *ctx, const char *path, qp_model_options options);

/* Fresh weights from a config text (JSON). `name` stands in error messages. Owner and errors as of
 * qp_model_load. */
QP_API qp_model *qp_model_new(qp_ctx *ctx, const char *name, const char *config);

/* Frees it before its context, parameters included, at once or when the last of its sessions is
 * closed. Close its optimisers first. NULL is allowed. */
QP_API void qp_model_close(qp_model *m);

/* The config text that a preset starts from, the library's; NULL if unknown. */
QP_API const char *qp_preset_config(const char *model_type);
/* Preset names by index, NULL past the end. */
QP_API const char *qp_preset_at(int index);

/* Overwrites the weights from a folder, a safetensors file or a GGUF file. Missing and unexpected names
 * are listed in the error (FORMAT; SHAPE: another shape) and nothing is changed. IO, UNSUPPORTED, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_model_load_weights(qp_model *m, const char *path);

/* Writes config.json and model.safetensors (sharded above 5 GB) into folder, which is made if
 * it is not there. transformers loads it where it knows the model type. Errors: IO, ARGUMENT (the path is too
 * long), MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_model_save(qp_model *m, const char *folder);

QP_API qp_ctx *qp_model_ctx(const qp_model *m);
QP_API qp_module *qp_model_module(qp_model *m);
QP_API qp_state_dict qp_model_params(qp_model *m); /* what an optimiser takes */

typedef struct {
    const char *model_type;
    int64_t     vocabulary, width, layers, positions;
    bool        causal;            /* positions see earlier ones only: it can be fed step by step */
    int64_t     parameters, bytes; /* bytes: of the parameters, as they are held */
    const char *position, *block, *mixer, *ffn, *norm; /* names of the first layer's parts */
} qp_model_info;
QP_API qp_model_info qp_model_info_of(qp_model *m);
/* The config as JSON text; the model's, until it is closed. */
QP_API const char *qp_model_config(qp_model *m);

/* A record in, a record out, in the current scope (count 0 after an error: SHAPE (ids are not [B, T], or
 * labels not as they), those of ops and parts). Fields of in:
 *     input_ids  i64 [B, T]
 *     labels     i64 [B, T], -100: not counted. Optional
 *     positions  i64 [B, T] or [1, T]. Optional: 0, 1, .. T - 1
 *     segments   i64 [B, T]: positions see their own segment only. Optional
 *     lengths    i64 [B]: keys of row b beyond it are not there. Optional
 *     others     what parts ask for by name (qp_sequence_get); one that no part asks for is an
 *                ARGUMENT error
 * Fields of what comes out:
 *     hidden     [B, T, D], the last norm's output
 *     logits     [B, T, V], without labels, where the model has an output
 *     others     without labels: further outputs by their names (pooled, ..)
 *     loss       with labels: the mean cross-entropy (the logits are never held) and the sum of aux.*,
 *                among these the losses of further outputs
 *     aux.*, stat.*: losses and statistics of parts (qp_sequence_add) */
QP_API qp_record qp_forward(qp_model *m, qp_record in);

/* One field of that: of ids i64 [B, T] hidden [B, T, D], logits [B, T, V], or with labels i64 [B, T] the loss.
 * UNSUPPORTED: the model has no output. */
QP_API qp_tensor qp_model_hidden(qp_model *m, qp_tensor ids);
QP_API qp_tensor qp_logits(qp_model *m, qp_tensor ids);
QP_API qp_tensor qp_model_loss(qp_model *m, qp_tensor ids, qp_tensor labels);

/* hidden [.., D] -> logits [.., V]. */
QP_API qp_tensor qp_model_head(qp_model *m, qp_tensor hidden);

/* The optimiser's step is done: parts that do something between steps do it (deepseek_moe moves its bias).
 * taken false: it changed nothing or was given up, and what parts have counted for it is forgotten. qp_train
 * calls it; a loop of one's own does so behind qp_step. */
QP_API void qp_model_stepped(qp_model *m, bool taken);

/* Keep only the inputs of each layer in forward passes that are recorded, and run layers again in
 * backward: memory for one layer's activations instead of all, for a third more arithmetic. Same
 * gradients. Forward passes that wait for their backward at the same time must be given the same
 * fields. arXiv:1604.06174 */
QP_API void qp_set_grad_checkpoint(qp_model *m, bool on);

/* ---- Names and tensors of checkpoints ----------------------------------------------------------- */

/* What checkpoints of this model type call the i-th tensor (the model's text), and that tensor as
 * they store it, in the current scope. False past the end. With gradient, its gradient (QP_NONE:
 * none yet). */
QP_API bool qp_model_weight(qp_model *m, int64_t i, bool gradient, const char **name, qp_tensor *t);

#ifdef __cplusplus
}
#endif
#endif
