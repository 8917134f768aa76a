/* Norm of what a branch gives, before the sum (Liu et al. 2021, arXiv:2111.09883, section 3.2; OLMo 2,
 * arXiv:2501.00656):
 *
 *   h = x + norm_0(mixer(x))
 *   y = h + norm_1(ffn(h))
 */
#include "nn/part.h"

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor h = qp_add(x, qp_block_norm(b, 0, qp_block_mixer(b, x, QP_NONE, s, states)));
    return b->ffn.type ? qp_add(h, qp_block_norm(b, 1, qp_block_ffn(b, h, QP_NONE, s, states))) : h;
}

QP_BLOCK(res_post_norm) = {
    .part = {.name = "res_post_norm", .source = "arXiv:2111.09883", .help = "norm of what each branch gives"},
    .norms = 1,
    .ffn_norms = 1,
    .forward = forward};
