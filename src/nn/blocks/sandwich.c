/* Norm before and after each branch (Ding et al. 2021, arXiv:2105.13290, section 2.4; Gemma 2,
 * arXiv:2408.00118):
 *
 *   h = x + norm_1(mixer(norm_0(x)))
 *   y = h + norm_3(ffn(norm_2(h)))
 */
#include "nn/part.h"

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor h = qp_add(x, qp_block_norm(b, 1, qp_block_mixer(b, qp_block_norm(b, 0, x), QP_NONE, s, states)));
    if (!b->ffn.type) return h;
    return qp_add(h, qp_block_norm(b, 3, qp_block_ffn(b, qp_block_norm(b, 2, h), QP_NONE, s, states)));
}

QP_BLOCK(sandwich) = {
    .part = {.name = "sandwich", .source = "arXiv:2105.13290", .help = "norm before and after each branch"},
    .norms = 2,
    .ffn_norms = 2,
    .forward = forward};
