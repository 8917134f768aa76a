/* What the gated feed-forwards (Shazeer 2020, arXiv:2002.05202) have in common: three products. */
#ifndef QUIPU_NN_FFN_GLU_H
#define QUIPU_NN_FFN_GLU_H

#include "nn/part.h"

typedef struct {
    qp_nn_linear *gate, *up, *down;
} glu;

static const qp_option glu_options[] = {
    {.name = "width",
     .kind = QP_OPTION_INT,
     .fallback = 0,
     .high = 1e9,
     .help = "F, inner width; 0: 8 D / 3, a multiple of 32"},
    {.name = "bias", .kind = QP_OPTION_BOOL, .fallback = 0, .high = 1, .help = "the products have a bias"},
    {0}};

static void glu_init(void *self, qp_build *b) {
    glu              *f = self;
    int64_t           inner = qp_setting_int(b, "width");
    qp_linear_options into = {.bias = qp_setting(b, "bias") != 0, .init = b->init}, out = into;
    out.init = b->init_residual;
    if (!inner) inner = (8 * b->width / 3 + 31) / 32 * 32;
    f->gate = qp_nn_linear_new(b->module, "gate", b->width, inner, into);
    f->up = qp_nn_linear_new(b->module, "up", b->width, inner, into);
    f->down = qp_nn_linear_new(b->module, "down", inner, b->width, out);
}

#endif
