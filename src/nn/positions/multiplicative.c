/* A learned vector for each position that the input is multiplied with (Su 2021, "Transformer position
 * encodings that rack researchers' brains", kexue.fm/archives/8130): x_m (1 + w_m), so that weights near
 * 0, which weight decay leads to, leave the input as it is. Positions beyond the table are an error. */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor table; /* [P, D] */
} multiplicative;

static void init(void *self, qp_build *b) {
    multiplicative *p = self;
    p->table = qp_param(b->module, "weight", b->init, 2, (int64_t[]){b->max_positions, b->width});
}

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    multiplicative *p = self;
    if (s->length > qp_size(p->table, 0)) {
        qp_fail(x.ctx, QP_ERR_ARGUMENT, "positions: %lld positions, the model has %lld", (long long)s->length,
                (long long)qp_size(p->table, 0));
        return x;
    }
    qp_tensor w = qp_cast(qp_embedding(p->table, s->positions), qp_dtype_of(x));
    return qp_add(x, qp_mul(x, w));
}

QP_POSITION(multiplicative) = {
    .part = {.name = "multiplicative",
             .source = "kexue.fm/archives/8130",
             .help = "a learned vector for each position, which the input is multiplied with",
             .bytes = sizeof(multiplicative)},
    .shared = true,
    .init = init,
    .embed = embed};
