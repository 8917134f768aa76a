/* Mixtral's mixture of experts (Jiang et al. 2024, arXiv:2401.04088): each token goes to its k best experts.
 *
 *   l = x w_router^T,   y = sum over the k largest l_e of softmax(those)_e swiglu_e(x) */
#include "nn/experts.h"

static const qp_option options[] = {QPI_EXPERT_OPTIONS(2, 65536), QPI_BALANCE_OPTION, {0}};

static void init(void *self, qp_build *b) { qpi_experts_init(self, b, true); }

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_experts *e = self;
    qp_tensor    rows = qpi_experts_rows(x), logits = qpi_experts_logits(e, rows), best;
    qpi_routing  r = {0};
    qp_topk(logits, e->chosen, -1, true, &best, &r.index);
    r.weight = qp_softmax(best, -1);
    qpi_experts_losses(e, logits, r.index, s);
    return qpi_experts_back(qpi_experts_forward(e, rows, r, qpi_experts_rows(residual), s), x);
}

QP_FFN(mixtral) = {.part = {.name = "mixtral",
                            .source = "arXiv:2401.04088",
                            .help = "mixture of experts, the k best for each token",
                            .options = options,
                            .bytes = sizeof(qpi_experts)},
                   .init = init,
                   .forward = forward,
                   .pointwise = true};
