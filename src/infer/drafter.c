#include <stdlib.h>

#include "infer/drafter.h"

static void destroy(void *thing) {
    qp_drafter *d = thing;
    if (d->type->destroy) d->type->destroy(d);
    free(d);
}

void *qpi_drafter_new(const qpi_drafter_type *type, size_t bytes, qp_session *target, qp_drafter_options options) {
    qp_ctx *ctx = target->m->ctx;
    if (qp_failed(ctx)) return NULL;
    if (target->fixed) {
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "drafter: the model has states of a fixed size, which take no drafts back");
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

bool qpi_tree_add(qpi_tree *t, int32_t id, int64_t parent) {
    if (t->count >= t->limit) return false;
    t->ids[t->count] = id;
    t->parents[t->count++] = parent;
    return true;
}
