/* SGD with momentum; the arithmetic is the op of the same name. */
#include "train/optim.h"

enum { MOMENTUM, NESTEROV };

static void numbers(const qp_optim *o, int64_t t, qpi_rates rates, float *out) {
    (void)t;
    out[0] = (float)rates.lr;
    out[1] = (float)o->options[MOMENTUM];
    out[2] = (float)rates.weight_decay;
    out[3] = (float)o->options[NESTEROV];
}

static const qpi_optim_type sgd = {.name = "sgd",
                                   .state_count = 1,
                                   .state_names = {"momentum"},
                                   .number_count = 5,
                                   .clip_number = 4,
                                   .op = &qp_op_sgd,
                                   .numbers = numbers};

qp_optim *qp_sgd(qp_state_dict params, qp_sgd_options options) {
    qp_optim *o = qpi_optim_new(&sgd, params,
                                (qpi_optim_common){options.lr != 0 ? options.lr : 1e-2, options.weight_decay,
                                                   options.clip, options.groups});
    if (!o) return NULL;
    o->options[MOMENTUM] = options.momentum;
    o->options[NESTEROV] = options.nesterov;
    return o;
}
