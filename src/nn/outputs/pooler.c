/* One vector for a sequence: tanh(W h_0 + b) of its first position (BERT: Devlin et al. 2018,
 * arXiv:1810.04805). */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_nn_linear *dense;
} pooler;

static void init(void *self, qp_build *b) {
    ((pooler *)self)->dense = qp_nn_linear_new(b->module, "dense", b->width, b->width,
                                               (qp_linear_options){.bias = true, .init = b->init});
}

static qp_tensor forward(void *self, qp_tensor hidden, const qp_sequence *s) {
    (void)s;
    if (qp_failed(hidden.ctx)) return hidden;
    if (!qp_size(hidden, 1)) {
        qp_fail(hidden.ctx, QP_ERR_SHAPE, "pooler: sequences of no positions have no first one");
        return qpi_poison(hidden.ctx);
    }
    qp_tensor first =
        qp_reshape(qp_slice(hidden, 1, 0, 1, 1), 2, (int64_t[]){qp_size(hidden, 0), qp_size(hidden, 2)});
    return qp_tanh(qp_nn_linear_forward(((pooler *)self)->dense, first, QP_ACT_NONE, QP_NONE));
}

QP_OUTPUT(pooler) = {.part = {.name = "pooler",
                              .source = "arXiv:1810.04805",
                              .help = "a vector for the sequence, from its first position",
                              .bytes = sizeof(pooler)},
                     .whole = true,
                     .init = init,
                     .forward = forward};
