/* Norm after each residual sum (Vaswani et al. 2017, arXiv:1706.03762; BERT):
 *
 *   h = norm_0(x + mixer(x))
 *   y = norm_1(h + ffn(h))
 */
#include "nn/part.h"

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor h = qp_block_norm(b, 0, qp_block_mixer(b, x, x, s, states));
    return b->ffn.type ? qp_block_norm(b, 1, qp_block_ffn(b, h, h, s, states)) : h;
}

QP_BLOCK(post_norm) = {
    .part = {.name = "post_norm", .source = "arXiv:1706.03762", .help = "norm after each residual sum"},
    .norms = 1,
    .ffn_norms = 1,
    .forward = forward};
