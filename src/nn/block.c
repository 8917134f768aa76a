/* What block parts are written with: norms and branches of a layer, and what parts give beside
 * their results. */
#include <string.h>

#include "core/core.h"
#include "nn/part.h"

qp_tensor qp_block_norm(const qp_block *b, int i, qp_tensor x) { return b->norms[i].type->forward(b->norms[i].self, x); }

/* A branch adds the residual in its last product, unless dropout comes between. */
static qp_tensor branch(const qp_branch *b, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    if (!b->type) return residual;
    bool      fused = s->dropout <= 0;
    qp_tensor inside = fused ? residual : QP_NONE;
    qp_tensor y = state && b->type->step ? b->type->step(b->self, x, inside, s, state)
                                         : b->type->forward(b->self, x, inside, s);
    if (fused) return y;
    y = qp_dropout(y, s->dropout);
    return qp_is_none(residual) ? y : qp_add(residual, y);
}

qp_tensor qp_block_mixer(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *states) {
    return branch(&b->mixer, x, residual, s, states ? &states[0] : NULL);
}

qp_tensor qp_block_ffn(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *states) {
    return branch(&b->ffn, x, residual, s, states ? &states[1] : NULL);
}

void qp_state_set(qp_state *state, int i, qp_tensor value) {
    qp_drop(state->next[i]);
    state->next[i] = qp_failed(value.ctx) ? QP_NONE : qp_keep(qp_alias(value));
}

void qp_sequence_add(const qp_sequence *s, const char *name, qp_tensor t) {
    if (!s->out) return;
    qp_tensor before = strncmp(name, "aux.", 4) ? QP_NONE : qp_record_get(s->out, name);
    qp_record_set(s->out, name, qp_is_none(before) ? t : qp_add(before, t));
}
