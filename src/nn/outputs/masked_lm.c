/* Logits of the token at each position (BERT: Devlin et al. 2018, arXiv:1810.04805):
 *
 *   W norm(act(W_t h + b_t)) + b,   W [V, D] may be the input's table
 */
#include "nn/part.h"

typedef struct {
    qp_nn_linear *transform, *head;
    qp_tensor     norm_weight, norm_bias;
    qp_act        act;
    double        eps;
} masked_lm;

static const qp_option options[] = {{.name = "act",
                                     .kind = QP_OPTION_CHOICE,
                                     .fallback = 2,
                                     .high = 4,
                                     .choices = "none|relu|gelu|gelu_tanh|silu",
                                     .help = "activation"},
                                    {.name = "eps",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1e-12,
                                     .low = 0,
                                     .high = 1,
                                     .help = "of the layer norm"},
                                    {0}};

static void init(void *self, qp_build *b) {
    masked_lm *o = self;
    qp_module *norm = qp_module_new(b->ctx, b->module, "transform_norm");
    o->act = (qp_act)qp_setting_int(b, "act");
    o->eps = qp_setting(b, "eps");
    o->transform = qp_nn_linear_new(b->module, "transform", b->width, b->width,
                                    (qp_linear_options){.bias = true, .init = b->init});
    if (norm) {
        o->norm_weight = qp_param(norm, "weight", "ones", 1, &b->width);
        o->norm_bias = qp_param(norm, "bias", "zeros", 1, &b->width);
    }
    o->head = qp_nn_linear_new(b->module, "head", b->width, b->vocabulary,
                               (qp_linear_options){.bias = true, .init = b->init, .tied = b->table});
}

static qp_tensor forward(void *self, qp_tensor hidden, const qp_sequence *s) {
    masked_lm *o = self;
    qp_tensor  h = qp_nn_linear_forward(o->transform, hidden, o->act, QP_NONE);
    (void)s;
    return qp_nn_linear_forward(o->head, qp_layer_norm(h, o->norm_weight, o->norm_bias, o->eps), QP_ACT_NONE,
                                QP_NONE);
}

QP_OUTPUT(masked_lm) = {.part = {.name = "masked_lm",
                                 .source = "arXiv:1810.04805",
                                 .help = "logits of the token at each position, behind a transformed norm",
                                 .options = options,
                                 .bytes = sizeof(masked_lm)},
                        .init = init,
                        .forward = forward};
