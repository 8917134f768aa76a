/* Both branches read the same norm of the input (GPT-J; PaLM: Chowdhery et al. 2022,
 * arXiv:2204.02311, section 2):
 *
 *   n = norm_0(x),  y = x + mixer(n) + ffn(n)
 */
#include "nn/part.h"

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor n = qp_block_norm(b, 0, x);
    return qp_block_ffn(b, n, qp_block_mixer(b, n, x, s, states), s, states);
}

QP_BLOCK(parallel) = {.part = {.name = "parallel",
                               .source = "arXiv:2204.02311",
                               .help = "both branches read one norm of the input"},
                      .norms = 1,
                      .forward = forward};
