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

/* Parameters whose name matches the pattern (*, ? and [] as in a shell): lr times the
 * optimiser's learning rate (and times their own rates, qp_rates in nn.h), and this weight decay. */
typedef struct {
    const char *pattern;
    double      lr, weight_decay;
} qp_param_group;

/* The first group that matches a parameter holds. A parameter that none matches has the
 * optimiser's learning rate, and its weight decay if it has two axes or more: biases and the
 * weights of norms do not decay. {"*", 1, 0.1} as the last group lets everything decay. A
 * pattern that matches no parameter is an error that names it. Names are those of params. */
typedef struct {
    int                   count;
    const qp_param_group *group;
} qp_param_groups;

/* Fields that are 0 take the value in brackets. */
typedef struct {
    double          lr;           /* [1e-3] */
    double          beta1, beta2; /* [0.9, 0.999] */
    double          eps;          /* [1e-8] */
    double          weight_decay; /* decoupled */
    double          clip;         /* largest global norm of the gradients; 0: no clipping */
    qp_param_groups groups;
} qp_adamw_options;

/* AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101): w -= lr (m^ / (sqrt(v^) + eps) + wd w), one pass over
 * the memory of all parameters. The context's. NULL on error: ARGUMENT (nothing to train, a group that
 * matches nothing), MEMORY. */
QP_API qp_optim *qp_adamw(qp_state_dict params, qp_adamw_options options);

typedef struct {
    double          lr; /* [1e-2] */
    double          momentum;
    double          weight_decay; /* added to the gradient, as torch.optim.SGD */
    bool            nesterov;
    double          clip;
    qp_param_groups groups;
} qp_sgd_options;

/* b = momentum b + g; w -= lr b. torch.optim.SGD. Owner and errors as of qp_adamw. */
QP_API qp_optim *qp_sgd(qp_state_dict params, qp_sgd_options options);

/* One step with the gradients that the parameters hold, which it consumes (they are QP_NONE afterwards). A
 * parameter without a gradient stays. Does nothing while the context is in failure. A gradient that is not
 * finite is a STATE error, as is a parameter in read-only memory, and no parameter changes. */
QP_API void qp_step(qp_optim *o);
QP_API void qp_optim_set_lr(qp_optim *o, double lr); /* from the next step on */
QP_API double qp_optim_norm(const qp_optim *o); /* global gradient norm of the last step, before clipping */

/* The optimiser's state, to be saved: tensors by index and name ("m.NAME", "step", "scale");
 * false past the end. They are the optimiser's; qp_copy_to restores them, and
 * qp_optim_restored then makes the optimiser read its step count and scale again (FORMAT: no scale). */
QP_API bool qp_optim_state(qp_optim *o, int index, char name[256], qp_tensor *t);
QP_API void qp_optim_restored(qp_optim *o);

/* Frees it before its context. NULL is allowed. */
QP_API void qp_optim_close(qp_optim *o);

/* Dynamic loss scaling, for gradients in f16 (torch.amp.GradScaler; Micikevicius et al. 2017,
 * arXiv:1710.03740): what is differentiated is qp_optim_scaled(o, loss), the loss times
 * qp_optim_scale(o), and qp_step takes the gradients as that loss's. It begins at 65536. A step
 * whose gradients are not finite changes nothing (qp_optim_skipped) and halves the scale; 2000
 * steps in a row without one double it. Below 2^-24 the failure STATE is stored. The scale is
 * part of the state: switch scaling on before that is restored. */
QP_API void qp_optim_scale_losses(qp_optim *o, bool on);
QP_API qp_tensor qp_optim_scaled(qp_optim *o, qp_tensor loss); /* loss itself while off */
QP_API double qp_optim_scale(const qp_optim *o);               /* 1 while off */
QP_API bool qp_optim_skipped(const qp_optim *o);               /* did the last step change nothing? */

/* ---- A mean of the weights ------------------------------------------------------------------ */

/* After each step e += (1 - d) (w - e) for every trainable weight, d = min(decay, (1 + step) /
 * (10 + step)): an exponential mean (Polyak & Juditsky 1992), which follows at once while the
 * training is young. It starts at the weights as they are. The context's; NULL on error. */
typedef struct qp_ema qp_ema;

QP_API qp_ema *qp_ema_new(qp_model *m, double decay); /* ARGUMENT: decay not between 0 and 1 */
QP_API void qp_ema_update(qp_ema *e, int64_t step);   /* step: steps done, from 1 */
/* Exchanges the model's weights and their means: to evaluate or save these. Twice is as before: it needs no memory
 * and works in a context that has failed or is cancelled, too. */
QP_API void qp_ema_swap(qp_ema *e);
QP_API double qp_ema_decay(const qp_ema *e);
QP_API void qp_ema_close(qp_ema *e); /* NULL is allowed */

/* ---- Schedules ------------------------------------------------------------------------------ */

#define QP_SCHEDULES(X) \
    X(CONSTANT, "constant") \
    X(LINEAR, "linear") /* to lr * floor at the last step */ \
    X(COSINE, "cosine") /* half a cosine to lr * floor; arXiv:1608.03983 */ \
    X(WSD, "wsd")       /* constant, then linear over the last `decay` steps; arXiv:2404.06395 */

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

/* ---- TensorBoard ---------------------------------------------------------------------------- */

/* An event file that TensorBoard reads. Each file goes on from the ones that are in its folder:
 * of what they hold beyond `step` TensorBoard shows nothing any more. A write that fails stores an
 * error in the context. */
typedef struct qp_board qp_board;

/* folder: is made. The context's; NULL on error: IO, ARGUMENT (the path is too long), MEMORY. */
QP_API qp_board *qp_board_open(qp_ctx *ctx, const char *folder, int64_t step);
QP_API void qp_board_scalar(qp_board *b, const char *tag, int64_t step, double value);
/* Markdown. */
QP_API void qp_board_text(qp_board *b, const char *tag, int64_t step, const char *text);
/* The distribution of factor times t's elements, in 64 classes of equal width. */
QP_API void qp_board_histogram(qp_board *b, const char *tag, int64_t step, qp_tensor t, double factor);
QP_API void qp_board_close(qp_board *b); /* NULL is allowed */

/* ---- The loop ------------------------------------------------------------------------------- */

typedef struct {
    int64_t step;        /* done, from 1 */
    double  loss;        /* mean over the step's tokens, before the update */
    double  lr, norm;    /* of the gradients, before clipping */
    double  validation;  /* mean loss per token; NaN where not measured at this step */
    double  scale;       /* of the loss, at this step; 1: none */
    int64_t tokens;      /* of this step */
    double  seconds;     /* it took */
    bool    saved, best; /* best: the validation loss is the lowest so far */
    bool    skipped;     /* gradients were not finite: norm is NaN and the weights are unchanged */
    qp_record
        stats; /* stat.* that parts gave in the step's last batch (loads of experts); until the next step */
} qp_train_event;

typedef struct {
    qp_schedule schedule;         /* its `steps` is the length of the training */
    int64_t     accumulate;       /* batches for each step; 0: 1 */
    int64_t     validate_every;   /* steps; 0: at the end only. Needs `validation` */
    int64_t     validate_batches; /* at most; 0: all */
    int64_t     save_every;       /* steps; 0: at the end only */
    int         keep;             /* newest states to keep; 0: all */
    const char *out;              /* folder of the states and log.jsonl; NULL: nothing is written */
    bool        resume;           /* go on from the newest state in `out`, if there is one; without
                                     it a folder that holds states is an error */
    int64_t     patience;         /* stop after so many validations in a row without a lower loss, and keep the
                         state of the lowest: out/best links to it. 0: never */
    qp_dtype    precision;        /* of products and attention (qp_autocast); with F16 losses are scaled */
    qp_board   *board;            /* losses, learning rate, norm and speed go there; may be NULL */
    int64_t     histogram_every;  /* steps; weights and gradients too. 0: none */
    bool (*on_step)(void *user, const qp_train_event *event); /* false: save and stop */
    void *user;
} qp_train_options;

typedef struct {
    qp_model           *model;
    qp_optim           *optim;
    qp_data            *data, *validation; /* validation may be NULL */
    const qp_tokenizer *tokenizer;         /* saved beside the model; may be NULL */
    qp_ema             *ema;               /* updated after each step; may be NULL */
} qp_training_set;

/* Trains until schedule.steps. A state is a folder out/step-N: config.json, model.safetensors
 * and tokenizer.json (what transformers loads), optimizer.safetensors and train.json (step,
 * data position, random position, checksums); out/latest is a link to the newest. With `ema` the
 * weights in the folder are those that are trained, step-N/ema is a model folder of their means,
 * and validation measures the means. A state
 * appears complete or not at all, and a run that goes on from one has the same bits as one
 * that was never stopped. When cancelled (qp_cancel) it saves the last whole step and fails
 * with QP_ERR_CANCELLED. Other errors: IO, FORMAT (a state that is damaged), STATE (one whose data,
 * config or options are not those given now, each named; `out` holds states and `resume` is not asked for, or
 * another training writes there; a loss or gradient that is not finite), ARGUMENT, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_train(qp_training_set set, qp_train_options options);

/* The mean loss per counted token over at most `batches` batches from the start (0: all); NaN where there is
 * none, or after an error (as of qp_forward and qp_data_next). The data then stands behind what was read. */
QP_API double qp_validate(qp_model *m, qp_data *data, int64_t batches);

/* Saves and restores a training state; what qp_train does every save_every steps. */
QP_API QP_MUST_CHECK qp_status qp_state_save(qp_training_set set, const char *out, int64_t step, int keep);
/* *step stays 0 when there is no state in out. Errors as of qp_train. */
QP_API QP_MUST_CHECK qp_status qp_state_restore(qp_training_set set, const char *out, int64_t *step);

#ifdef __cplusplus
}
#endif
#endif
