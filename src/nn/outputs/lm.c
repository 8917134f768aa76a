/* The next token's logits: scale W h, capped softly where the config says so (Gemma 2,
 * arXiv:2408.00118: c tanh(x / c)). W [V, D] may be the input's table (arXiv:1608.05859). */
#include "nn/part.h"

typedef struct {
    qp_nn_linear *head;
    double        scale, softcap;
} lm;

static const qp_option options[] = {{.name = "scale",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1,
                                     .low = -1e6,
                                     .high = 1e6,
                                     .help = "times the logits"},
                                    {.name = "softcap",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0,
                                     .high = 1e9,
                                     .help = "c: logits become c tanh(x / c); 0: they stay"},
                                    {0}};

static void init(void *self, qp_build *b) {
    lm *o = self;
    o->scale = qp_setting(b, "scale");
    if (!qp_is_none(b->table) && b->tied != 0) o->scale *= b->tied;
    o->softcap = qp_setting(b, "softcap");
    o->head = qp_nn_linear_new(b->module, "head", b->width, b->vocabulary,
                               (qp_linear_options){.init = b->init, .tied = b->table});
}

static qp_tensor forward(void *self, qp_tensor hidden, const qp_sequence *s) {
    lm       *o = self;
    qp_tensor x = qp_nn_linear_forward(o->head, hidden, QP_ACT_NONE, QP_NONE);
    (void)s;
    if (o->softcap > 0) return qp_affine(qp_tanh(qp_affine(x, o->scale / o->softcap, 0)), o->softcap, 0);
    return o->scale == 1 ? x : qp_affine(x, o->scale, 0);
}

static qp_tensor loss(void *self, qp_tensor hidden, qp_tensor labels) {
    lm *o = self;
    if (o->softcap > 0 || qp_nn_linear_wrapped(o->head)) return QP_NONE;
    if (o->scale != 1) hidden = qp_affine(hidden, o->scale, 0);
    return qp_linear_cross_entropy(hidden, qp_nn_linear_weight(o->head), labels, (qp_loss_options){0});
}

QP_OUTPUT(lm) = {.part = {.name = "lm",
                          .source = "arXiv:1608.05859",
                          .help = "logits of tokens",
                          .options = options,
                          .bytes = sizeof(lm)},
                 .init = init,
                 .forward = forward,
                 .loss = loss};
