/* Norm before each branch (GPT-2; Xiong et al. 2020, arXiv:2002.04745):
 *
 *   h = x + mixer(norm_0(x))
 *   y = h + ffn(norm_1(h))
 */
#include "nn/part.h"

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor h = qp_block_mixer(b, qp_block_norm(b, 0, x), x, s, states);
    return b->ffn.type ? qp_block_ffn(b, qp_block_norm(b, 1, h), h, s, states) : h;
}

QP_BLOCK(pre_norm) = {.part = {.name = "pre_norm", .source = "arXiv:2002.04745", .help = "norm before each branch"},
                      .norms = 1,
                      .ffn_norms = 1,
                      .forward = forward};
