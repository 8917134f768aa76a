/* Norm before each branch (GPT-2; Xiong et al. 2020, arXiv:2002.04745):
 *
 *   h = x + s mixer(norm_0(x))
 *   y = h + s ffn(norm_1(h)),   s = 1 where the config says nothing
 */
#include "nn/part.h"

typedef struct {
    double scale;
} pre_norm;

static const qp_option options[] = {{.name = "residual_scale",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1,
                                     .low = -1e6,
                                     .high = 1e6,
                                     .help = "s, times what a branch gives"},
                                    {0}};

static void init(void *self, qp_build *b) { ((pre_norm *)self)->scale = qp_setting(b, "residual_scale"); }

static qp_tensor scaled(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states, double scale) {
    qp_tensor h = qp_add(x, qp_affine(qp_block_mixer(b, qp_block_norm(b, 0, x), QP_NONE, s, states), scale, 0));
    if (!b->ffn.type) return h;
    return qp_add(h, qp_affine(qp_block_ffn(b, qp_block_norm(b, 1, h), QP_NONE, s, states), scale, 0));
}

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    const pre_norm *p = b->self;
    if (p && p->scale != 1) return scaled(b, x, s, states, p->scale);
    qp_tensor h = qp_block_mixer(b, qp_block_norm(b, 0, x), x, s, states);
    return b->ffn.type ? qp_block_ffn(b, qp_block_norm(b, 1, h), h, s, states) : h;
}

QP_BLOCK(pre_norm) = {.part = {.name = "pre_norm",
                               .source = "arXiv:2002.04745",
                               .help = "norm before each branch",
                               .options = options,
                               .bytes = sizeof(pre_norm)},
                      .init = init,
                      .norms = 1,
                      .ffn_norms = 1,
                      .forward = forward};
