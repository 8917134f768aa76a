/* The request's own sampler draws, as if nobody had guessed: the text is that of plain decoding, token by
 * token. A guess is right with the probability that the sampler gives it. */
#include "infer/accept.h"

static int32_t next(qpi_verdict *v, int node) {
    return qp_sampler_draw(v->sampler, v->logits + node * v->vocabulary);
}

QP_ACCEPT(match) = {.name = "match", .next = next};
