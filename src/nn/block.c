/* What block parts are written with: norms and branches of a layer, and what parts give beside
 * their results. */
#include <string.h>

#include "core/core.h"
#include "nn/part.h"

qp_tensor qp_block_norm(const qp_block *b, int i, qp_tensor x) {
    if (i >= 0 && i < QP_MAX_NORMS && b->norms[i].type) return b->norms[i].type->forward(b->norms[i].self, x);
    qp_fail(x.ctx, QP_ERR_ARGUMENT, "layer %d: the block asks for norm %d, which it has not declared", b->layer,
            i);
    return qpi_poison(x.ctx);
}

/* A branch adds the residual in its last product, unless dropout comes between. */
static qp_tensor branch(const qp_branch *b, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                        qp_state *state) {
    if (!b->type) return residual;
    bool      fused = s->dropout <= 0;
    qp_tensor inside = fused ? residual : QP_NONE;
    qp_tensor y = state && b->type->step ? b->type->step(b->self, x, inside, s, state)
                                         : b->type->forward(b->self, x, inside, s);
    if (qp_is_none(y)) {
        qp_fail(x.ctx, QP_ERR_STATE, "layer %d: %s gave no result", s->layer, b->type->part.name);
        return qpi_poison(x.ctx);
    }
    if (fused) return y;
    y = qp_dropout(y, s->dropout);
    return qp_is_none(residual) ? y : qp_add(residual, y);
}

qp_tensor qp_block_mixer(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                         qp_state *states) {
    return branch(&b->mixer, x, residual, s, states ? &states[0] : NULL);
}

qp_tensor qp_block_ffn(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                       qp_state *states) {
    return branch(&b->ffn, x, residual, s, states ? &states[1] : NULL);
}

qp_tensor qpi_like(qp_tensor parameter, qp_tensor x) {
    if (qp_is_none(parameter) || qp_failed(x.ctx) || qp_dtype_of(parameter) == qp_dtype_of(x)) return parameter;
    return qp_cast(parameter, qp_dtype_of(x));
}

bool qpi_one_segment(const qp_sequence *s, const char *name) {
    if (qp_is_none(s->mask.segments)) return true;
    return !qp_fail(s->positions.ctx, QP_ERR_UNSUPPORTED, "%s: several segments in a sequence", name);
}

/* ---- State ------------------------------------------------------------------------------------- */

static bool same(qp_tensor a, qp_tensor b) {
    bool equal = qp_dtype_of(a) == qp_dtype_of(b) && qp_ndim(a) == qp_ndim(b);
    for (int i = 0; equal && i < qp_ndim(a); i++) equal = qp_size(a, i) == qp_size(b, i);
    return equal;
}

void qp_state_add(qp_state *state, qp_ctx *ctx, bool grows, int ndim, const int64_t *shape) {
    qp_dtype type = ctx->param_dtype;
    if (qp_failed(ctx)) return;
    if (state->count >= QP_MAX_STATE || ndim < 1 + grows) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "state: more than %d tensors, or one with too few axes", QP_MAX_STATE);
        return;
    }
    if (grows && state->type != QP_F32) type = state->type;
    int64_t block = qp_dtype_block(type);
    if (shape[ndim - 1] % block) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "state: %lld features are no whole blocks of %s",
                (long long)shape[ndim - 1], qp_dtype_name(type));
        return;
    }
    int64_t places[QP_MAX_DIMS];
    memcpy(places, shape, (size_t)ndim * sizeof *places);
    if (grows && state->window && state->spare && places[1] - state->spare > state->window)
        places[1] = state->window + state->spare;
    state->grows[state->count] = grows;
    state->tensors[state->count++] =
        grows ? qpi_reserve(ctx, type, ndim, places) : qp_zeros(ctx, type, ndim, places);
}

void qp_state_set(qp_state *state, int i, qp_tensor value) {
    bool known = i >= 0 && i < state->count && i < QP_MAX_STATE && !state->grows[i];
    if (!value.ctx || qp_failed(value.ctx)) return;
    if (!known || !same(value, state->tensors[i])) {
        qp_fail(value.ctx, QP_ERR_ARGUMENT,
                known ? "state: tensor %d has another shape or type than it was reserved with"
                      : "state: there is no tensor %d of fixed size",
                i);
        return;
    }
    qp_drop(state->next[i]);
    state->next[i] = qp_keep(qp_alias(value));
}

/* ---- Fields -------------------------------------------------------------------------------------- */

qp_tensor qp_sequence_get(const qp_sequence *s, const char *name) {
    const qp_record *places[] = {s->out, s->before, s->in};
    qp_tensor        t = QP_NONE;
    for (int i = 0; s->asked && i < s->in->count; i++)
        if (!strcmp(s->in->names[i], name)) *s->asked |= UINT32_C(1) << i;
    for (int i = 0; i < 3 && qp_is_none(t); i++)
        if (places[i]) t = qp_record_get(places[i], name);
    return t;
}

void qp_sequence_add(const qp_sequence *s, const char *name, qp_tensor t) {
    if (!s->out || qp_is_none(t) || qp_failed(t.ctx)) return;
    if (!strncmp(name, "aux.", 4) && qp_count(t) != 1) {
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "layer %d: %s has %lld elements, expected one", s->layer, name,
                (long long)qp_count(t));
        return;
    }
    qp_record_set(s->out, name, t);
    if (s->out->count >= QP_MAX_OUT)
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "layer %d adds more than %d fields", s->layer, QP_MAX_OUT - 1);
}
