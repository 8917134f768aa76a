#ifndef QUIPU_TRAIN_STATE_H
#define QUIPU_TRAIN_STATE_H

#include "core/core.h"
#include "format/json.h"
#include "quipu/train.h"

/* What a state holds of the loop itself. */
typedef struct {
    qp_dtype precision;
    double   best;      /* lowest validation loss */
    int64_t  best_step; /* where it was measured; 0: best is not watched, or not yet known */
    int64_t  waited;    /* validations since */
} qpi_progress;

/* Has a training in this folder left a state? (Also false after storing an error.) */
bool qpi_state_exists(qp_ctx *ctx, const char *out);

/* As qp_state_save and qp_state_restore, with the loop's part. A state of another precision than
 * p->precision is refused. */
qp_status qpi_state_save(qp_training_set set, const char *out, int64_t step, int keep, const qpi_progress *p);
qp_status qpi_state_restore(qp_training_set set, const char *out, int64_t *step, qpi_progress *p);

/* An optimiser's state as a file of tensors, and back; false after storing an error. */
qp_status qpi_optim_save(qp_ctx *ctx, qp_optim *optim, const char *path);
bool qpi_optim_restore(qp_ctx *ctx, qp_optim *optim, const char *path);

/* Back to where the manifest's "data" was. */
bool qpi_state_restore_data(qp_data *to, const qpi_json *manifest);

/* Stores that a key of two objects differs, the saved one being that of `path`; false where it does not. */
bool qpi_state_differs(qp_ctx *ctx, const char *path, const char *key, const json_t *saved, const json_t *ours);

#endif
