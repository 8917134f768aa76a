/* A session: a model with carried state, fed position by position. */
#include <stdlib.h>

#include "models/model.h"

struct qp_session {
    qp_model  *m;
    qpi_owned *owned;
    int64_t    batch, reserved, length;
    qp_state  *states; /* of each layer's mixer and feed-forward */
};

static int64_t state_count(const qp_session *s) { return 2 * s->m->layers; }

static const qp_branch *branch_of(const qp_session *s, int64_t i) {
    const qp_block *b = &s->m->blocks[i / 2].block;
    return i % 2 ? &b->ffn : &b->mixer;
}

static void drop_state(qp_state *state) {
    for (int j = 0; j < QP_MAX_STATE; j++) {
        qp_drop(state->tensors[j]);
        qp_drop(state->next[j]);
    }
    *state = (qp_state){0};
}

static void destroy(void *thing) {
    qp_session *s = thing;
    free(s->states);
    free(s);
}

void qp_session_close(qp_session *s) {
    if (!s) return;
    qp_model *m = s->m;
    for (int64_t i = 0; i < state_count(s); i++) drop_state(&s->states[i]);
    qpi_disown(s->owned);
    destroy(s);
    qpi_model_release(m);
}

/* An empty state for branch i. */
static bool reserve(qp_session *s, int64_t i) {
    qp_ctx          *ctx = s->m->ctx;
    const qp_branch *b = branch_of(s, i);
    if (!b->type || b->type->pointwise) return true;
    if (!b->type->step) {
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "session: %s has no step form", b->type->part.name);
        return false;
    }
    qp_state *state = &s->states[i];
    qp_scope  scope = qp_enter(ctx);
    state->reserved = s->reserved;
    b->type->reserve(b->self, ctx, s->batch, s->reserved, state);
    if (state->count < 0 || state->count > QP_MAX_STATE)
        qp_fail(ctx, QP_ERR_ARGUMENT, "session: %s reserves %d tensors, at most %d", b->type->part.name, state->count,
                QP_MAX_STATE);
    if (qp_failed(ctx)) *state = (qp_state){0};
    for (int j = 0; j < state->count; j++) qp_keep(state->tensors[j]);
    qp_leave(scope);
    return !qp_failed(ctx);
}

qp_session *qp_session_new(qp_model *m, int64_t batch, int64_t positions) {
    qp_ctx *ctx = m->ctx;
    if (qp_failed(ctx)) return NULL;
    if (batch < 1 || positions < 1) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "session: batch %lld, positions %lld, expected at least 1", (long long)batch,
                (long long)positions);
        return NULL;
    }
    qp_session *s = calloc(1, sizeof *s);
    if (s) s->states = calloc(2 * (size_t)m->layers + 1, sizeof *s->states);
    if (!s || !s->states || !(s->owned = qpi_own(ctx, s, destroy))) {
        if (s) destroy(s);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: session");
        return NULL;
    }
    s->m = m;
    qpi_model_use(m);
    s->batch = batch;
    s->reserved = positions;
    for (int64_t i = 0; i < state_count(s); i++)
        if (!reserve(s, i)) {
            qp_session_close(s);
            return NULL;
        }
    return s;
}

static bool check(const qp_session *s, qp_tensor ids) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx)) return false;
    if (qp_ndim(ids) != 2 || qp_size(ids, 0) != s->batch || qp_size(ids, 1) < 1)
        return !qp_fail(ctx, QP_ERR_SHAPE, "session: ids must be [%lld, T], T at least 1", (long long)s->batch);
    if (qp_size(ids, 1) > s->reserved - s->length)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "session: %lld positions after %lld, room for %lld",
                        (long long)qp_size(ids, 1), (long long)s->length, (long long)s->reserved);
    return true;
}

/* All layers are done: the states are those behind these positions. After a failure they stay. */
static void commit(qp_session *s, int64_t count) {
    bool ok = !qp_failed(s->m->ctx);
    if (ok) s->length += count;
    for (int64_t i = 0; i < state_count(s); i++) {
        qp_state *state = &s->states[i];
        for (int j = 0; j < state->count; j++) {
            if (qp_is_none(state->next[j])) continue;
            qp_drop(ok ? state->tensors[j] : state->next[j]);
            if (ok) state->tensors[j] = state->next[j];
            state->next[j] = QP_NONE;
        }
        state->length = s->length;
    }
}

qp_tensor qp_session_hidden(qp_session *s, qp_tensor ids) {
    qp_model *m = s->m;
    qp_ctx   *ctx = m->ctx;
    if (!check(s, ids)) return qpi_poison(ctx);
    int64_t     count = qp_size(ids, 1);
    qp_scope    scope = qp_enter(ctx);
    bool        before = qp_no_grad(ctx, true);
    qp_sequence sequence = {.length = s->length + count};
    qp_tensor   positions = qp_affine(qp_arange(ctx, QP_I64, count), 1, (double)s->length);
    sequence.positions = qp_reshape(positions, 2, (int64_t[]){1, count});
    qp_record in = {0}, all = {0};
    sequence.in = &in;
    qp_tensor hidden = qpi_stack_forward(m, ids, &sequence, &all, s->states);
    qp_no_grad(ctx, before);
    commit(s, count);
    return qp_return(scope, hidden);
}

qp_tensor qp_session_feed(qp_session *s, qp_tensor ids) {
    qp_ctx   *ctx = s->m->ctx;
    qp_scope  scope = qp_enter(ctx);
    bool      before = qp_no_grad(ctx, true);
    qp_tensor hidden = qp_session_hidden(s, ids), last = qp_slice(hidden, 1, -1, INT64_MAX, 1);
    qp_tensor logits = qp_model_head(s->m, qp_reshape(last, 2, (int64_t[]){s->batch, s->m->width}));
    qp_no_grad(ctx, before);
    return qp_return(scope, logits);
}

qp_ctx *qp_session_ctx(const qp_session *s) { return s->m->ctx; }

int64_t qp_session_length(const qp_session *s) { return s->length; }
int64_t qp_session_room(const qp_session *s) { return s->reserved; }

static bool fixed(const qp_state *state) {
    for (int j = 0; j < state->count; j++)
        if (state->grows[j] < 0) return true;
    return false;
}

qp_status qp_session_truncate(qp_session *s, int64_t length) {
    qp_ctx *ctx = s->m->ctx;
    if (length < 0 || length > s->length)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "truncate: %lld positions of %lld", (long long)length, (long long)s->length);
    for (int64_t i = 0; i < state_count(s); i++)
        if (length && length < s->length && fixed(&s->states[i]))
            return qp_fail(ctx, QP_ERR_UNSUPPORTED, "truncate: the state of %s has a fixed size",
                           branch_of(s, i)->type->part.name);
    for (int64_t i = 0; i < state_count(s); i++) {
        if (!length && fixed(&s->states[i])) {
            drop_state(&s->states[i]);
            if (!reserve(s, i)) return qp_error_code(ctx);
        }
        s->states[i].length = length;
    }
    s->length = length;
    return QP_OK;
}
