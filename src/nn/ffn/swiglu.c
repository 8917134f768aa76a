/* SwiGLU (Shazeer 2020, arXiv:2002.05202): (silu(x w_gate^T) * x w_up^T) w_down^T. */
#include "nn/part.h"

typedef struct {
    qp_nn_linear *gate, *up, *down;
} swiglu;

static const qp_option options[] = {
    {.name = "width", .kind = QP_OPTION_INT, .fallback = 0, .high = 1e9, .help = "F, inner width; 0: 8 D / 3, a multiple of 32"},
    {.name = "bias", .kind = QP_OPTION_BOOL, .fallback = 0, .high = 1, .help = "the products have a bias"},
    {0}};

static void init(void *self, qp_build *b) {
    swiglu           *f = self;
    int64_t           inner = qp_setting_int(b, "width");
    qp_linear_options into = {.bias = qp_setting(b, "bias") != 0, .init = b->init}, out = into;
    out.init = b->init_residual;
    if (!inner) inner = (8 * b->width / 3 + 31) / 32 * 32;
    f->gate = qp_nn_linear_new(b->module, "gate", b->width, inner, into);
    f->up = qp_nn_linear_new(b->module, "up", b->width, inner, into);
    f->down = qp_nn_linear_new(b->module, "down", inner, b->width, out);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    swiglu *f = self;
    (void)s;
    qp_tensor gate = qp_nn_linear_forward(f->gate, x, QP_ACT_NONE, QP_NONE);
    qp_tensor up = qp_nn_linear_forward(f->up, x, QP_ACT_NONE, QP_NONE);
    return qp_nn_linear_forward(f->down, qp_swiglu(gate, up), QP_ACT_NONE, residual);
}

QP_FFN(swiglu) = {.part = {.name = "swiglu",
                           .source = "arXiv:2002.05202",
                           .help = "silu(gate) times up, then down",
                           .options = options,
                           .bytes = sizeof(swiglu)},
                  .init = init,
                  .forward = forward,
                  .pointwise = true};
