/* Nodes: what a recorded call leaves behind. They stand in one row in order of making, so that a
 * walk goes backward along the row and looks only at those that the loss reaches. */
#include <string.h>

#include "core/core.h"

qpi_node *qpi_node_new(qp_ctx *ctx, const qp_op *op, int nin, int nout, int edges) {
    size_t saved = (size_t)(nin + nout) * sizeof(qpi_saved);
    size_t bytes = sizeof(qpi_node) + saved + (size_t)nout * sizeof(qpi_sum) + (size_t)edges * sizeof(qpi_edge);
    qpi_node *n = qpi_alloc(ctx, bytes);
    if (!n) return NULL;
    memset(n, 0, bytes);
    n->op = op;
    n->device = &qpi_cpu;
    n->nin = nin;
    n->nout = nout;
    n->edges = edges;
    n->saved = (qpi_saved *)(n + 1);
    n->grad = (qpi_sum *)(n->saved + nin + nout);
    n->in = (qpi_edge *)(n->grad + nout);
    if (op) qpi_row_append(&ctx->nodes, n);
    return n;
}

void qpi_row_append(qpi_row *row, qpi_node *n) {
    n->prev = row->last;
    n->next = NULL;
    *(n->prev ? &n->prev->next : &row->first) = n;
    row->last = n;
}

void qpi_row_remove(qpi_row *row, qpi_node *n) {
    *(n->prev ? &n->prev->next : &row->first) = n->next;
    *(n->next ? &n->next->prev : &row->last) = n->prev;
}

void qpi_node_retain(qpi_node *n) {
    if (n) n->refs++;
}

void qpi_node_forget(qp_ctx *ctx, qpi_node *n) {
    for (int i = 0; i < n->nin + n->nout; i++) {
        qpi_storage_release(ctx, n->saved[i].value.storage);
        n->saved[i].value.storage = NULL;
    }
}

/* Chains are as long as a sequence, so the release of a chain is a loop: nodes whose last
 * reference went wait in a list made of their own `next`. */
void qpi_node_release(qp_ctx *ctx, qpi_node *n) {
    qpi_node *waiting = NULL;
    for (;;) {
        if (n && --n->refs == 0) {
            if (n->op) qpi_row_remove(&ctx->nodes, n);
            for (qpi_hook *h = n->hooks; h; h = h->next) h->fn = NULL;
            qpi_hooks_sweep(ctx, n);
            qpi_node_forget(ctx, n);
            for (int i = 0; i < n->nout; i++) qpi_value_release(ctx, &n->grad[i].value);
            n->next = waiting;
            waiting = n;
        }
        n = NULL;
        while (waiting && !n) {
            if (waiting->edges == 0) {
                qpi_node *done = waiting;
                waiting = done->next;
                qpi_free(ctx, done);
            } else {
                n = waiting->in[--waiting->edges].node;
            }
        }
        if (!n) return;
    }
}

/* False: it was there already, or there is no memory. */
static bool add_leaf(qp_ctx *ctx, qpi_leaves *leaves, qpi_node *leaf) {
    for (int i = 0; i < leaves->count; i++)
        if (leaves->node[i] == leaf) return false;
    if (leaves->count == leaves->capacity) {
        int        capacity = leaves->capacity ? 2 * leaves->capacity : 32;
        qpi_node **node = qpi_alloc(ctx, (size_t)capacity * sizeof *node);
        if (!node) return false;
        if (leaves->count) memcpy(node, leaves->node, (size_t)leaves->count * sizeof *node);
        qpi_free(ctx, leaves->node);
        leaves->node = node;
        leaves->capacity = capacity;
    }
    qpi_node_retain(leaf);
    leaves->node[leaves->count++] = leaf;
    return true;
}

void qpi_leaf_used(qp_ctx *ctx, qpi_leaves *leaves, qpi_node *leaf, const qpi_value *value) {
    if (!add_leaf(ctx, leaves, leaf)) return;
    for (int i = 0; i < leaves->nx; i++) {
        const qpi_slot *x = leaves->xs[i].ctx ? qpi_resolve(leaves->xs[i], "checkpoint") : NULL;
        if (x && x->node == leaf) return;
    }
    uint64_t place = (uint64_t)(uintptr_t)value->storage, version = value->storage->version;
    leaves->stamp += (place ^ version << 40 ^ version) * UINT64_C(0x9e3779b97f4a7c15);
}

void qpi_leaves_end(qp_ctx *ctx, qpi_leaves *leaves) {
    if (leaves->outer) leaves->outer->stamp += leaves->stamp;
    for (int i = 0; i < leaves->count; i++) {
        if (leaves->outer) add_leaf(ctx, leaves->outer, leaves->node[i]);
        qpi_node_release(ctx, leaves->node[i]);
    }
    qpi_free(ctx, leaves->node);
}

void qpi_record(const qp_call *call, const qpi_value *const *ins, const qpi_edge *edges, const qp_tensor *outs,
                const qpi_leaves *extra) {
    qp_ctx      *ctx = call->ctx;
    const qp_op *op = call->op;
    int          extras = extra ? extra->count : 0;
    bool         needed = extras > 0;
    for (int i = 0; i < call->nin; i++) needed |= edges[i].node != NULL;
    if (!needed || !op->backward || ctx->mode.no_grad) return;
    qpi_node *n = qpi_node_new(ctx, op, call->nin, call->nout, call->nin + extras);
    if (!n) return;
    memcpy(n->attr, call->attr, QP_MAX_ATTR);
    n->autocast = ctx->mode.autocast;
    for (int i = 0; i < extras; i++) {
        n->in[call->nin + i].node = extra->node[i];
        qpi_node_retain(extra->node[i]);
    }
    for (int i = 0; i < call->nin; i++) {
        n->in[i] = edges[i];
        qpi_node_retain(edges[i].node);
        n->saved[i].value.view = ins[i]->view;
        if (!(op->saves & (i < 24 ? QP_SAVE_IN(i) : 0)) || !ins[i]->storage) continue;
        n->saved[i].value.storage = qpi_storage_retain(ins[i]->storage);
        n->saved[i].version = ins[i]->storage->version;
    }
    for (int i = 0; i < call->nout; i++) {
        qpi_slot *s = qpi_resolve(outs[i], op->name);
        if (!s) continue;
        qpi_saved *saved = &n->saved[call->nin + i];
        saved->value.view = s->value.view;
        n->device = s->value.storage->device;
        if (op->saves & QP_SAVE_OUT(i)) {
            saved->value.storage = qpi_storage_retain(s->value.storage);
            saved->version = s->value.storage->version;
        }
        if (!qp_dtype_is_float(s->value.view.dtype) || (op->hidden & QP_SAVE_OUT(i))) continue;
        s->node = n;
        s->out = i;
        n->refs++;
    }
    if (n->refs == 0) {
        n->refs = 1;
        qpi_node_release(ctx, n);
    }
}

const qp_op *qpi_saved_by(const qp_ctx *ctx, const qpi_value *v) {
    for (const qpi_node *n = ctx->nodes.last; n && v->storage; n = n->prev)
        for (int i = 0; i < n->nin + n->nout; i++)
            if (n->saved[i].value.storage == v->storage && n->saved[i].value.view.data == v->view.data)
                return n->op;
    return NULL;
}
