/* Two products with an activation between: act(x w_1^T + b_1) w_2^T + b_2 (Vaswani et al. 2017,
 * arXiv:1706.03762, eq. 2; GELU: arXiv:1606.08415; relu2, the square of relu: So et al. 2021,
 * arXiv:2109.08668). */
#include "nn/part.h"

typedef struct {
    qp_nn_linear *up, *down;
    qp_act        act;
    bool          squared;
} mlp;

enum { RELU2 = QP_ACT_SILU + 1 };

static const qp_option options[] = {
    {.name = "width", .kind = QP_OPTION_INT, .fallback = 0, .high = 1e9, .help = "F, inner width; 0: 4 D"},
    {.name = "act",
     .kind = QP_OPTION_CHOICE,
     .fallback = 2,
     .high = RELU2,
     .choices = "none|relu|gelu|gelu_tanh|silu|relu2",
     .help = "activation"},
    {.name = "bias", .kind = QP_OPTION_BOOL, .fallback = 1, .high = 1, .help = "both products have a bias"},
    {0}};

static void init(void *self, qp_build *b) {
    mlp    *m = self;
    int64_t inner = qp_setting_int(b, "width");
    bool    bias = qp_setting(b, "bias") != 0;
    if (!inner) inner = 4 * b->width;
    m->squared = qp_setting_int(b, "act") == RELU2;
    m->act = m->squared ? QP_ACT_RELU : (qp_act)qp_setting_int(b, "act");
    m->up =
        qp_nn_linear_new(b->module, "up", b->width, inner, (qp_linear_options){.bias = bias, .init = b->init});
    m->down = qp_nn_linear_new(b->module, "down", inner, b->width,
                               (qp_linear_options){.bias = bias, .init = b->init_residual});
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    mlp *m = self;
    (void)s;
    qp_tensor inner = qp_nn_linear_forward(m->up, x, m->act, QP_NONE);
    return qp_nn_linear_forward(m->down, m->squared ? qp_square(inner) : inner, QP_ACT_NONE, residual);
}

QP_FFN(mlp) = {.part = {.name = "mlp",
                        .source = "arXiv:1706.03762",
                        .help = "two products, an activation between",
                        .options = options,
                        .bytes = sizeof(mlp)},
               .init = init,
               .forward = forward,
               .pointwise = true};
