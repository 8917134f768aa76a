#include <stdlib.h>

#include "infer/drafter.h"
#include "infer/sampler.h"

static void destroy(void *thing) {
    qp_drafter *d = thing;
    if (d->type->destroy) d->type->destroy(d);
    free(d->p);
    free(d->from);
    free(d);
}

void *qpi_drafter_new(const qpi_drafter_type *type, size_t bytes, qp_session *target,
                      qp_drafter_options options) {
    qp_ctx *ctx = target->m->ctx;
    if (qp_failed(ctx)) return NULL;
    if (target->fixed) {
        qp_fail(ctx, QP_ERR_UNSUPPORTED,
                "drafter: the model has states of a fixed size, which take no drafts back");
        return NULL;
    }
    if (options.depth < 0 || options.depth >= QPI_MAX_DRAFTS || options.ngram < 0) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "drafter: depth %lld and ngram %lld, expected 0 to %d and 0 or more",
                (long long)options.depth, (long long)options.ngram, QPI_MAX_DRAFTS - 1);
        return NULL;
    }
    qp_drafter *d = calloc(1, bytes);
    if (d) *d = (qp_drafter){.type = type, .target = target, .options = options};
    if (d && (d->owned = qpi_own(ctx, d, destroy))) return d;
    free(d);
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    return NULL;
}

void qp_drafter_close(qp_drafter *d) {
    if (!d) return;
    if (d->type->close) d->type->close(d);
    qpi_disown(d->owned);
    destroy(d);
}

bool qpi_tree_add(qpi_tree *t, int32_t id, int64_t parent) { return qpi_tree_add_drawn(t, id, parent, NULL); }

bool qpi_tree_add_drawn(qpi_tree *t, int32_t id, int64_t parent, const qpi_chances *from) {
    if (t->count >= t->limit) return false;
    t->ids[t->count] = id;
    t->from[t->count] = from;
    t->parents[t->count++] = parent;
    return true;
}

bool qpi_drafter_room(qp_drafter *d, int64_t depth, int64_t count, const int32_t *ids) {
    size_t all = (size_t)(d->target->rows * depth);
    if (d->from) return true;
    d->p = malloc(all * (size_t)count * sizeof *d->p);
    d->from = d->p ? malloc(all * sizeof *d->from) : NULL;
    if (!d->from) {
        free(d->p);
        d->p = NULL;
        return !qp_fail(d->target->m->ctx, QP_ERR_MEMORY, "out of memory: drafter");
    }
    for (size_t i = 0; i < all; i++) d->from[i] = (qpi_chances){d->p + i * (size_t)count, ids, count};
    return true;
}

bool qpi_drafter_guess(qp_drafter *d, int n, qpi_tree *const *trees, int64_t k, int64_t depth, qp_tensor logits,
                       const int64_t *wanted, int32_t *ids, const qpi_chances **from) {
    int64_t V = d->target->m->vocabulary;
    bool    ok = qp_read(qp_argmax(logits, 1, false), QP_I32, ids, n) == QP_OK;
    for (int i = 0; i < n && ok; i++) {
        int64_t at = trees[i]->row * depth + k;
        from[i] = NULL;
        if (!trees[i]->sampler || (wanted && !wanted[i])) continue;
        qp_scope     s = qp_enter(logits.ctx);
        float       *own = qpi_drafter_room(d, depth, V, NULL) ? d->p + at * V : NULL;
        const float *row =
            own ? qp_data_of(qp_contiguous(qp_cast(qp_slice(logits, 0, i, i + 1, 1), QP_F32))) : NULL;
        if (row) {
            qpi_sampler_chances(trees[i]->sampler, row, own);
            ids[i] = qpi_sampler_guess(trees[i]->sampler, own, V);
            from[i] = &d->from[at];
        }
        qp_leave(s);
        ok = row != NULL;
    }
    return ok;
}
