/* RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467). */
#include "nn/part.h"

typedef struct {
    qp_tensor weight;
    double    eps;
} rms_norm;

static const qp_option options[] = {
    {.name = "eps", .kind = QP_OPTION_NUMBER, .fallback = 1e-6, .low = 0, .high = 1, .help = "added to the mean square"},
    {0}};

static void init(void *self, qp_build *b) {
    rms_norm *n = self;
    n->eps = qp_setting(b, "eps");
    n->weight = qp_param(b->module, "weight", "ones", 1, &b->width);
}

static qp_tensor forward(void *self, qp_tensor x) {
    rms_norm *n = self;
    return qp_rms_norm(x, n->weight, n->eps);
}

QP_NORM(rms_norm) = {.part = {.name = "rms_norm",
                              .source = "arXiv:1910.07467",
                              .help = "divided by the root mean square, weight",
                              .options = options,
                              .bytes = sizeof(rms_norm)},
                     .init = init,
                     .forward = forward};
