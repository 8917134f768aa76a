/* Switch transformer (Fedus et al. 2021, arXiv:2101.03961): each token goes to one expert.
 *
 *   p = softmax(x w_router^T),   e = argmax p,   y = p_e down_e(relu(up_e(x)))
 *
 * While training an expert takes at most capacity N / E of N tokens, the first ones; others pass by on the
 * residual alone. (At inference each token has its expert: a reply does not depend on its neighbours.) */
#include <math.h>

#include "nn/experts.h"

typedef struct {
    qpi_experts experts;
    double      capacity;
} switch_ffn;

static const qp_option options[] = {QPI_EXPERT_OPTIONS(1, 1),
                                    QPI_BALANCE_OPTION,
                                    {.name = "capacity",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1.25,
                                     .high = 1e6,
                                     .help = "tokens that an expert takes in training, times N / E; 0: all"},
                                    {0}};

static void init(void *self, qp_build *b) {
    switch_ffn *f = self;
    f->capacity = qp_setting(b, "capacity");
    qpi_experts_init(&f->experts, b, false);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    switch_ffn *f = self;
    qp_tensor   rows = qpi_experts_rows(x), logits = qpi_experts_logits(&f->experts, rows),
                probability = qp_softmax(logits, -1);
    bool        training = qp_training(f->experts.module) && qp_is_none(s->counts); /* no step of a session */
    qpi_routing r = {0};
    qp_topk(probability, 1, -1, true, &r.weight, &r.index);
    if (training) r.capacity = (int64_t)ceil(f->capacity * (double)qp_size(rows, 0) / (double)f->experts.count);
    if (training) qpi_experts_losses(&f->experts, logits, r.index, s);
    return qpi_experts_back(qpi_experts_forward(&f->experts, rows, r, qpi_experts_rows(residual), s), x);
}

QP_FFN(switch) = {.part = {.name = "switch",
                           .source = "arXiv:2101.03961",
                           .help = "mixture of experts, one for each token, with a capacity",
                           .options = options,
                           .bytes = sizeof(switch_ffn)},
                  .init = init,
                  .forward = forward,
                  .pointwise = true};
