/* quipu/train.h: optimisers, schedules, checkpoints, the training loop. */
#ifndef QUIPU_TRAIN_H
#define QUIPU_TRAIN_H

#include "data.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Optimisers ----------------------------------------------------------------------------- */

typedef struct qp_optim qp_optim;

/* Fields that are 0 take the value in brackets. */
typedef struct {
    double lr;           /* [1e-3] */
    double beta1, beta2; /* [0.9, 0.999] */
    double eps;          /* [1e-8] */
    double weight_decay; /* decoupled; on parameters of two axes and more only */
    double clip;         /* largest global norm of the gradients; 0: no clipping */
} qp_adamw_options;

/* AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101): w -= lr (m^ / (sqrt(v^) + eps) + wd w),
 * one pass over memory for each parameter. The context's. NULL on error. */
QP_API qp_optim *qp_adamw(qp_state_dict params, qp_adamw_options options);

typedef struct {
    double lr; /* [1e-2] */
    double momentum;
    double weight_decay; /* added to the gradient, as torch.optim.SGD; two axes and more only */
    bool   nesterov;
    double clip;
} qp_sgd_options;

/* b = momentum b + g; w -= lr b. torch.optim.SGD */
QP_API qp_optim *qp_sgd(qp_state_dict params, qp_sgd_options options);

/* One step with the gradients that the parameters hold, which it consumes (they are QP_NONE
 * afterwards). A parameter without a gradient stays. Does nothing while the context is in
 * failure. A gradient that is not finite is an error, and no parameter changes. */
QP_API void   qp_step(qp_optim *o);
QP_API void   qp_optim_set_lr(qp_optim *o, double lr);
QP_API double qp_optim_norm(const qp_optim *o); /* global gradient norm of the last step, before clipping */

/* The optimiser's state, to be saved: tensors by index and name ("m.NAME", "step"); false past
 * the end. They are the optimiser's; qp_copy_to restores them, and qp_optim_restored then
 * makes the optimiser read its step count again. */
QP_API bool qp_optim_state(qp_optim *o, int index, char name[256], qp_tensor *t);
QP_API void qp_optim_restored(qp_optim *o);

/* ---- Schedules ------------------------------------------------------------------------------ */

#define QP_SCHEDULES(X) \
    X(CONSTANT, "constant") \
    X(LINEAR, "linear")   /* to lr * floor at the last step */ \
    X(COSINE, "cosine")   /* half a cosine to lr * floor; arXiv:1608.03983 */ \
    X(WSD, "wsd")         /* constant, then linear over the last `decay` steps; arXiv:2404.06395 */

typedef enum {
#define X(name, text) QP_SCHEDULE_##name,
    QP_SCHEDULES(X)
#undef X
} qp_schedule_kind;

typedef struct {
    qp_schedule_kind kind;
    double           lr;
    int64_t          warmup; /* steps of linear rise from lr / warmup */
    int64_t          steps;  /* all of them */
    double           floor;  /* share of lr at the end */
    int64_t          decay;  /* wsd; 0: a fifth of the steps */
} qp_schedule;

/* The learning rate of a step, counted from 0. */
QP_API double qp_schedule_at(const qp_schedule *s, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
