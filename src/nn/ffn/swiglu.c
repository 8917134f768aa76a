/* SwiGLU (Shazeer 2020, arXiv:2002.05202): (silu(x w_gate^T) * x w_up^T) w_down^T. */
#include "nn/ffn/glu.h"

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    glu *f = self;
    (void)s;
    qp_tensor y[2];
    qp_nn_linear_forward_many(2, (const qp_nn_linear *[]){f->gate, f->up}, x, y);
    return qp_nn_linear_forward(f->down, qp_swiglu(y[0], y[1]), QP_ACT_NONE, residual);
}

QP_FFN(swiglu) = {.part = {.name = "swiglu",
                           .source = "arXiv:2002.05202",
                           .help = "silu(gate) times up, then down",
                           .options = glu_options,
                           .bytes = sizeof(glu)},
                  .init = glu_init,
                  .forward = forward,
                  .pointwise = true};
