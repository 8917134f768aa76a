/* A session: a model with carried state, fed position by position. */
#include <stdlib.h>

#include "models/model.h"

struct qp_session {
    qp_model *m;
    int64_t   batch, reserved, length;
    qp_state *states; /* of each layer */
};

static void destroy(void *thing) {
    qp_session *s = thing;
    free(s->states);
    free(s);
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
    if (s) s->states = calloc((size_t)m->layers + 1, sizeof *s->states);
    if (!s || !s->states || !qpi_own(ctx, s, destroy)) {
        if (s) destroy(s);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: session");
        return NULL;
    }
    s->m = m;
    s->batch = batch;
    s->reserved = positions;
    for (int64_t i = 0; i < m->layers && !qp_failed(ctx); i++) {
        const qpi_block *b = &m->blocks[i];
        if (!b->mixer_type->reserve) {
            qp_fail(ctx, QP_ERR_UNSUPPORTED, "session: %s has no step form", b->mixer_type->part.name);
            break;
        }
        s->states[i].reserved = positions;
        b->mixer_type->reserve(b->mixer, ctx, batch, positions, &s->states[i]);
    }
    return qp_failed(ctx) ? NULL : s;
}

qp_tensor qp_session_feed(qp_session *s, qp_tensor ids) {
    qp_model *m = s->m;
    qp_ctx   *ctx = m->ctx;
    if (qp_failed(ctx)) return qpi_poison(ctx);
    if (qp_ndim(ids) != 2 || qp_size(ids, 0) != s->batch || qp_size(ids, 1) < 1) {
        qp_fail(ctx, QP_ERR_SHAPE, "session: ids must be [%lld, T], T at least 1", (long long)s->batch);
        return qpi_poison(ctx);
    }
    int64_t count = qp_size(ids, 1);
    if (count > s->reserved - s->length) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "session: %lld positions after %lld, room for %lld", (long long)count,
                (long long)s->length, (long long)s->reserved);
        return qpi_poison(ctx);
    }
    qp_scope  scope = qp_enter(ctx);
    bool      before = qp_no_grad(ctx, true);
    qp_stream stream = {.length = s->length + count};
    qp_tensor positions = qp_affine(qp_arange(ctx, QP_I64, count), 1, (double)s->length);
    stream.positions = qp_reshape(positions, 2, (int64_t[]){1, count});
    qp_tensor hidden = qpi_stack_forward(m, ids, &stream, s->states);
    qp_tensor last = qp_reshape(qp_slice(hidden, 1, count - 1, count, 1), 2, (int64_t[]){s->batch, m->width});
    qp_tensor logits = qp_linear(last, m->head, QP_NONE, QP_ACT_NONE, QP_NONE);
    qp_no_grad(ctx, before);
    if (!qp_failed(ctx)) s->length += count;
    for (int64_t i = 0; i < m->layers; i++) s->states[i].length = s->length; /* a failure leaves some ahead */
    return qp_return(scope, logits);
}

qp_ctx *qp_session_ctx(const qp_session *s) { return s->m->ctx; }

int64_t qp_session_length(const qp_session *s) { return s->length; }

qp_status qp_session_truncate(qp_session *s, int64_t length) {
    if (length < 0 || length > s->length)
        return qp_fail(s->m->ctx, QP_ERR_ARGUMENT, "truncate: %lld positions of %lld", (long long)length,
                       (long long)s->length);
    for (int64_t i = 0; i < s->m->layers; i++)
        for (int j = 0; j < s->states[i].count; j++) {
            if (s->states[i].grows[j] >= 0) continue;
            if (length)
                return qp_fail(s->m->ctx, QP_ERR_UNSUPPORTED, "truncate: a part's state has a fixed size");
            qp_init(s->states[i].tensors[j], "zeros");
        }
    for (int64_t i = 0; i < s->m->layers; i++) s->states[i].length = length;
    s->length = length;
    return QP_OK;
}
