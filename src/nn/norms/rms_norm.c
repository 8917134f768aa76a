/* RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467): x / sqrt(mean(x^2) + eps) times weight, or times
 * 1 + weight (Gemma, arXiv:2403.08295). */
#include "nn/part.h"

typedef struct {
    qp_tensor weight;
    double    eps;
    bool      unit_offset;
} rms_norm;

static const qp_option options[] = {
    {.name = "eps",
     .kind = QP_OPTION_NUMBER,
     .fallback = 1e-6,
     .low = 0,
     .high = 1,
     .help = "added to the mean square"},
    {.name = "unit_offset", .kind = QP_OPTION_BOOL, .high = 1, .help = "gains are 1 + weight"},
    {0}};

static void init(void *self, qp_build *b) {
    rms_norm *n = self;
    n->eps = qp_setting(b, "eps");
    n->unit_offset = qp_setting(b, "unit_offset") != 0;
    n->weight = qp_param(b->module, "weight", n->unit_offset ? "zeros" : "ones", 1, &b->width);
}

static qp_tensor forward(void *self, qp_tensor x) {
    rms_norm *n = self;
    return qp_rms_norm(x, n->unit_offset ? qp_affine(n->weight, 1, 1) : n->weight, n->eps);
}

QP_NORM(rms_norm) = {.part = {.name = "rms_norm",
                              .source = "arXiv:1910.07467",
                              .help = "divided by the root mean square, weight",
                              .options = options,
                              .bytes = sizeof(rms_norm)},
                     .init = init,
                     .forward = forward};
