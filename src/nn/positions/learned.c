/* Learned absolute positions: a table added to the input (Gehring et al. 2017,
 * arXiv:1705.03122; GPT-2). Positions beyond the table are an error. */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor table; /* [P, D] */
} learned;

static void init(void *self, qp_build *b) {
    learned *p = self;
    p->table = qp_param(b->module, "weight", b->init, 2, (int64_t[]){b->max_positions, b->width});
}

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    learned *p = self;
    if (s->length > qp_size(p->table, 0)) {
        qp_fail(x.ctx, QP_ERR_ARGUMENT, "positions: %lld positions, the model has %lld", (long long)s->length,
                (long long)qp_size(p->table, 0));
        return x;
    }
    return qp_add(x, qp_cast(qp_embedding(p->table, s->positions), qp_dtype_of(x))); /* it may be kept in 16 bits */
}

QP_POSITION(learned) = {.part = {.name = "learned",
                                 .source = "arXiv:1705.03122",
                                 .help = "a learned vector for each position, added to the input",
                                 .bytes = sizeof(learned)},
                        .shared = true,
                        .init = init,
                        .embed = embed};
