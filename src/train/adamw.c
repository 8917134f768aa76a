/* AdamW (arXiv:1711.05101); the arithmetic is the op of the same name. */
#include <math.h>

#include "train/optim.h"

enum { BETA1, BETA2, EPS };

static void numbers(const qp_optim *o, int64_t t, qpi_rates rates, float *out) {
    const double *a = o->options;
    out[0] = (float)rates.lr;
    out[1] = (float)a[BETA1];
    out[2] = (float)a[BETA2];
    out[3] = (float)a[EPS];
    out[4] = (float)rates.weight_decay;
    out[5] = (float)(1 - pow(a[BETA1], (double)t));
    out[6] = (float)sqrt(1 - pow(a[BETA2], (double)t));
}

static const qpi_optim_type adamw = {.name = "adamw",
                                     .state_count = 2,
                                     .state_names = {"m", "v"},
                                     .adaptive = true,
                                     .number_count = 8,
                                     .clip_number = 7,
                                     .op = &qp_op_adamw,
                                     .numbers = numbers};

static double or_default(double x, double fallback) { return x != 0 ? x : fallback; }

qp_optim *qp_adamw(qp_state_dict params, qp_adamw_options options) {
    qp_optim *o = qpi_optim_new(
        &adamw, params,
        (qpi_optim_common){or_default(options.lr, 1e-3), options.weight_decay, options.clip, options.groups});
    if (!o) return NULL;
    o->options[BETA1] = or_default(options.beta1, 0.9);
    o->options[BETA2] = or_default(options.beta2, 0.999);
    o->options[EPS] = or_default(options.eps, 1e-8);
    return o;
}
