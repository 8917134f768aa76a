/* Layer norm (Ba et al. 2016, arXiv:1607.06450). */
#include "nn/part.h"

typedef struct {
    qp_tensor weight, bias;
    double    eps;
} layer_norm;

static const qp_option options[] = {
    {.name = "eps",
     .kind = QP_OPTION_NUMBER,
     .fallback = 1e-5,
     .low = 0,
     .high = 1,
     .help = "added to the variance"},
    {.name = "bias", .kind = QP_OPTION_BOOL, .fallback = 1, .high = 1, .help = "has a bias"},
    {0}};

static void init(void *self, qp_build *b) {
    layer_norm *n = self;
    n->eps = qp_setting(b, "eps");
    n->weight = qp_param(b->module, "weight", "ones", 1, &b->width);
    if (qp_setting(b, "bias")) n->bias = qp_param(b->module, "bias", "zeros", 1, &b->width);
}

static qp_tensor forward(void *self, qp_tensor x) {
    layer_norm *n = self;
    return qp_layer_norm(x, n->weight, n->bias, n->eps);
}

QP_NORM(layer_norm) = {.part = {.name = "layer_norm",
                                .source = "arXiv:1607.06450",
                                .help = "mean 0, variance 1, weight and bias",
                                .options = options,
                                .bytes = sizeof(layer_norm)},
                       .init = init,
                       .forward = forward};
