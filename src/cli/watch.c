#include "cli/watch.h"

#include <stdlib.h>

#include "core/core.h"
#include "models/model.h"

/* Stands in a block in the place of a branch. */
typedef struct {
    qp_branch_type     type; /* as the branch's, but for forward */
    qp_branch          branch;
    const cli_watcher *watcher;
    int64_t            layer;
    bool               ffn;
} stand_in;

struct cli_watch {
    qp_model *m;
    stand_in  all[];
};

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    stand_in          *b = self;
    const cli_watcher *w = b->watcher;
    if (w->before) w->before(w->user, b->layer, b->ffn, x);
    qp_tensor y = b->branch.type->forward(b->branch.self, x, QP_NONE, s);
    if (w->after) w->after(w->user, b->layer, b->ffn, y);
    return qp_is_none(residual) ? y : qp_add(residual, y);
}

static bool causal(const void *self) {
    const qp_branch *b = &((const stand_in *)self)->branch;
    return b->type->causal && b->type->causal(b->self);
}

static qp_branch *branch_of(qp_model *m, int64_t i) {
    qp_block *block = &m->blocks[i / 2].block;
    return i % 2 ? &block->ffn : &block->mixer;
}

cli_watch *cli_watch_model(qp_model *m, const cli_watcher *watcher) {
    cli_watch *w = calloc(1, sizeof *w + (size_t)m->layers * 2 * sizeof *w->all);
    if (!w) {
        qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: watch");
        return NULL;
    }
    w->m = m;
    for (int64_t i = 0; i < 2 * m->layers; i++) {
        qp_branch *b = branch_of(m, i);
        if (!b->type) continue;
        w->all[i] = (stand_in){*b->type, *b, watcher, i / 2, i % 2};
        w->all[i].type.forward = forward;
        w->all[i].type.causal = causal;
        *b = (qp_branch){&w->all[i].type, &w->all[i]};
    }
    return w;
}

void cli_unwatch(cli_watch *w) {
    for (int64_t i = 0; w && i < 2 * w->m->layers; i++)
        if (w->all[i].branch.type) *branch_of(w->m, i) = w->all[i].branch;
    free(w);
}
