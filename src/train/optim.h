/* An optimiser is a descriptor (one file each) over shared bookkeeping (optim.c). */
#ifndef QUIPU_TRAIN_OPTIM_H
#define QUIPU_TRAIN_OPTIM_H

#include "core/core.h"
#include "quipu/train.h"

#define QPI_MAX_NUMBERS 8

typedef struct {
    double lr, weight_decay;
} qpi_rates;

typedef struct {
    const char *name;
    int         state_count;    /* tensors kept for each parameter, f32, its shape, from 0 */
    const char *state_names[2]; /* "m", "v" */
    bool adaptive; /* steps do not grow with the gradient: of a parameter's rates `adam` holds, else `sgd` */
    int  number_count;
    int  clip_number; /* which of the numbers is the clip factor */
    const qp_op *op;  /* for each parameter: w, states.., g, numbers */
    /* The numbers of step t (from 1) at these rates. */
    void (*numbers)(const qp_optim *o, int64_t t, qpi_rates rates, float *out);
} qpi_optim_type;

struct qp_optim {
    qp_ctx               *ctx;
    const qpi_optim_type *type;
    qp_state_dict         params; /* a copy of the list, ours */
    qp_tensor            *states; /* state_count for each parameter */
    qpi_rates            *rates;  /* the distinct ones; lr is a factor here */
    int                  *rate;   /* of each parameter: which of them */
    int                   rate_count;
    qp_tensor            *numbers;                               /* of this step, for each of the rates */
    qp_tensor             step_tensor, square_sum, scale_tensor; /* scale, good */
    int64_t               steps, good;                           /* good: steps since the scale changed */
    double                lr, clip, norm, scale;                 /* scale: 1 unless scaling */
    bool                  scaling, skipped;
    qpi_owned            *owned;
    double                options[4];
};

/* What the options of every optimiser hold. */
typedef struct {
    double          lr, weight_decay, clip;
    qp_param_groups groups;
} qpi_optim_common;

qp_optim *qpi_optim_new(const qpi_optim_type *type, qp_state_dict params, qpi_optim_common options);

extern const qp_op qp_op_adamw, qp_op_sgd, qp_op_add_square_sum;

#endif
