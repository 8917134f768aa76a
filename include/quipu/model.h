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

/* path: a folder with config.json and weights, or a config.json alone (fresh weights, drawn
 * from the context's random stream). The model belongs to ctx. NULL after storing an error.
 * Weights become f32 parameters. */
QP_API qp_model *qp_model_load(qp_ctx *ctx, const char *path);

/* Fresh weights from a config text (JSON). `name` stands in error messages. */
QP_API qp_model *qp_model_new(qp_ctx *ctx, const char *name, const char *config);

/* The config text that a preset starts from; NULL if unknown. */
QP_API const char *qp_preset_config(const char *model_type);
/* Preset names by index, NULL past the end. */
QP_API const char *qp_preset_at(int index);

/* Overwrites the weights from a folder or a safetensors file. Missing and unexpected names
 * are listed in the error and nothing is changed. */
QP_API QP_MUST_CHECK qp_status qp_model_load_weights(qp_model *m, const char *path);

/* Writes config.json and model.safetensors (sharded above 5 GB) into folder, which is made if
 * it is not there. transformers loads it where it knows the model type. */
QP_API QP_MUST_CHECK qp_status qp_model_save(qp_model *m, const char *folder);

QP_API qp_ctx       *qp_model_ctx(const qp_model *m);
QP_API qp_module    *qp_model_module(qp_model *m);
QP_API qp_state_dict qp_model_params(qp_model *m); /* what an optimiser takes */

typedef struct {
    const char *model_type;
    int64_t     vocabulary, width, layers, positions;
    int64_t     parameters;
    const char *position, *mixer, *ffn, *norm; /* names of the parts */
} qp_model_info;
QP_API qp_model_info qp_model_info_of(qp_model *m);
/* The config as JSON text; the model's. */
QP_API const char *qp_model_config(qp_model *m);

/* ids i64 [B, T] -> the last norm's output [B, T, D]. */
QP_API qp_tensor qp_model_hidden(qp_model *m, qp_tensor ids);
/* ids i64 [B, T] -> [B, T, V]. */
QP_API qp_tensor qp_logits(qp_model *m, qp_tensor ids);
/* The mean cross-entropy of the logits at ids against labels i64 [B, T] (-100: not counted).
 * The logits are never held. */
QP_API qp_tensor qp_model_loss(qp_model *m, qp_tensor ids, qp_tensor labels);

/* ---- Step by step, with carried state -------------------------------------------------------- */

typedef struct qp_session qp_session;

/* State for `batch` sequences of at most `positions` positions; the context's. NULL on error
 * (also where a part of the model has no step form). */
QP_API qp_session *qp_session_new(qp_model *m, int64_t batch, int64_t positions);
/* ids [B, T], the next T positions -> logits of the last of them [B, V]. */
QP_API qp_tensor qp_session_feed(qp_session *s, qp_tensor ids);
QP_API int64_t   qp_session_length(const qp_session *s);
QP_API qp_ctx   *qp_session_ctx(const qp_session *s);
/* Back to the first `length` positions (0: empty). ARGUMENT if longer than now; UNSUPPORTED
 * where a part's state has a fixed size and length is not 0. */
QP_API QP_MUST_CHECK qp_status qp_session_truncate(qp_session *s, int64_t length);

/* ---- Names and tensors of checkpoints ----------------------------------------------------------- */

/* What checkpoints of this model type call the i-th piece, and that piece of the parameter: a
 * view, transposed where the checkpoint stores it so. False past the end. With gradient, the
 * piece of the parameter's gradient (QP_NONE: none yet). */
QP_API bool qp_model_piece(qp_model *m, int64_t i, bool gradient, char name[256], qp_tensor *piece);

#ifdef __cplusplus
}
#endif
#endif
