/* ReZero (Bachlechner et al. 2020, arXiv:2003.04887): each branch behind a weight of its own that begins
 * at 0, so that the stack begins as the identity; no norms.
 *
 *   h = x + a_0 mixer(x)
 *   y = h + a_1 ffn(h)
 */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor weight; /* [2] */
} rezero;

static void init(void *self, qp_build *b) {
    ((rezero *)self)->weight = qp_param(b->module, "weight", "zeros", 1, (int64_t[]){2});
}

static qp_tensor add(const qp_block *b, qp_tensor x, qp_tensor branch, int i) {
    const rezero *r = b->self;
    return qp_add(x, qp_mul(branch, qp_cast(qp_slice(r->weight, 0, i, i + 1, 1), qp_dtype_of(branch))));
}

static qp_tensor forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    qp_tensor h = add(b, x, qp_block_mixer(b, x, QP_NONE, s, states), 0);
    return b->ffn.type ? add(b, h, qp_block_ffn(b, h, QP_NONE, s, states), 1) : h;
}

QP_BLOCK(rezero) = {.part = {.name = "rezero",
                             .source = "arXiv:2003.04887",
                             .help = "no norms, each branch behind a weight that begins at 0",
                             .bytes = sizeof(rezero)},
                    .init = init,
                    .forward = forward};
