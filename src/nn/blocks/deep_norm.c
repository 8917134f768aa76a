/* DeepNorm (Wang et al. 2022, arXiv:2203.00555): norms behind the residual sums, in which the residual is
 * a times as large, so that a thousand layers train.
 *
 *   h = norm_0(a x + mixer(x))
 *   y = norm_1(a h + ffn(h)),   a = (2 N)^(1/4) in a stack of N layers (table 2, decoders)
 *
 * Initial weights of feed-forwards, values and outputs are times b = (8 N)^(-1/4).
 */
#include <math.h>

#include "nn/part.h"

typedef struct {
    double alpha, beta;
} deep_norm;

static const qp_option options[] = {{.name = "alpha",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "a, times the residual; 0: (2 N)^(1/4)"},
                                    {.name = "beta",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "b, times initial weights; 0: (8 N)^(-1/4)"},
                                    {0}};

static void init(void *self, qp_build *b) {
    deep_norm *d = self;
    d->alpha = qp_setting(b, "alpha");
    d->beta = qp_setting(b, "beta");
    if (d->alpha == 0) d->alpha = pow(2.0 * b->layers, 0.25);
    if (d->beta == 0) d->beta = pow(8.0 * b->layers, -0.25);
}

static double gain(const void *self) { return ((const deep_norm *)self)->beta; }

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    const deep_norm *d = b->self;
    qp_tensor        h = qp_block_norm(b, 0, qp_block_mixer(b, x, qp_affine(x, d->alpha, 0), s, states));
    return b->ffn.type ? qp_block_norm(b, 1, qp_block_ffn(b, h, qp_affine(h, d->alpha, 0), s, states)) : h;
}

QP_BLOCK(deep_norm) = {.part = {.name = "deep_norm",
                                .source = "arXiv:2203.00555",
                                .help = "norm behind each residual sum, whose residual is times a",
                                .options = options,
                                .bytes = sizeof(deep_norm)},
                       .init = init,
                       .norms = 1,
                       .ffn_norms = 1,
                       .forward = forward,
                       .gain = gain};
