/* Walking back: sums of gradients, rules, and the order of both. */
#include <string.h>

#include "core/core.h"

/* ---- Accumulation ------------------------------------------------------------------------- */

qp_tensor qpi_borrow(qp_ctx *ctx, const qpi_value *v) {
    qpi_storage_retain(v->storage);
    return qpi_handle(ctx, *v);
}

/* A buffer of v's shape and elements, in the given type. */
static qpi_sum copy_sum(qp_ctx *ctx, const qpi_value *v, qp_dtype dtype) {
    qp_view shape = v->view;
    shape.dtype = dtype;
    qpi_sum sum = {qpi_value_new(ctx, v->storage->device, &shape), true, false};
    if (sum.value.storage) qpi_update(ctx, &qp_op_copy, &sum.value, v);
    return sum;
}

/* Makes the sum a buffer that may be added into. */
static bool own_sum(qp_ctx *ctx, qpi_sum *sum) {
    const qpi_storage *s = sum->value.storage;
    sum->ones = false;
    if (s->count == 1 && !s->read_only && qpi_view_contiguous(&sum->value.view)) sum->in_place = true;
    if (sum->in_place) return true;
    qpi_sum own = copy_sum(ctx, &sum->value, sum->value.view.dtype);
    if (!own.value.storage) return false;
    qpi_value_release(ctx, &sum->value);
    *sum = own;
    return true;
}

#define MAX_REGION_DEPTH 32 /* of views of views: a chain of them may be longer than the stack */

/* The sum at e as a buffer to add into: what is there, a region of the parent's buffer, or
 * zeros. NULL after a failure. Within qp_grad no regions: the sum at a view may be asked for
 * by itself, and a leaf behind it must keep what it holds. */
static qpi_sum *sum_target_at(qp_ctx *ctx, qpi_edge e, int depth) {
    qpi_node *n = e.node;
    qpi_sum  *sum = &n->grad[e.out];
    if (sum->value.storage) return own_sum(ctx, sum) ? sum : NULL;
    if (depth < MAX_REGION_DEPTH && n->op && n->op->region && n->in[0].node && !ctx->walk_selects) {
        qpi_sum *parent = sum_target_at(ctx, n->in[0], depth + 1);
        if (!parent) return NULL;
        qp_view in = parent->value.view, out;
        qp_call call = {ctx, n->op, n->attr, 1, 1, &in, &out, NULL, QP_F32};
        n->op->shape(&call);
        if (!qp_failed(ctx)) n->op->view(&call);
        if (qp_failed(ctx)) return NULL;
        if (out.data) { /* a reshape may fit the value's strides but not the gradient's */
            *sum = (qpi_sum){{qpi_storage_retain(parent->value.storage), out}, true, false};
            return sum;
        }
    }
    *sum = (qpi_sum){qpi_value_new(ctx, n->device, &n->saved[n->nin + e.out].value.view), true, false};
    if (!sum->value.storage) return NULL;
    n->device->zero(ctx, sum->value.storage->data, sum->value.storage->bytes);
    return sum;
}

static qpi_sum *sum_target(qp_ctx *ctx, qpi_edge e) { return sum_target_at(ctx, e, 0); }

qp_tensor qp_grad_into(const qp_rule *rule, int i) {
    qpi_node *n = rule->core;
    qpi_sum  *sum = n->in[i].node && !qp_failed(rule->ctx) ? sum_target(rule->ctx, n->in[i]) : NULL;
    return sum ? qpi_borrow(rule->ctx, &sum->value) : qpi_poison(rule->ctx);
}

bool qp_grad_begun(const qp_rule *rule, int i) {
    const qpi_node *n = rule->core, *to = n->in[i].node;
    if (!to || to->grad[n->in[i].out].value.storage) return true;
    return to->op && to->op->region && !rule->ctx->walk_selects;
}

/* The sum at e grows by g: the first is adopted if it is of the value's type, later ones are
 * added. A leaf's gradient is its own, since optimisers work on it in place: it adopts g only
 * if nobody but the handle g holds it. */
void qpi_contribute(qp_ctx *ctx, qpi_edge e, qp_tensor g) {
    qpi_slot *s = qpi_resolve(g, "backward");
    if (!s) return;
    if (!s->value.storage) {
        qp_fail(ctx, QP_ERR_STATE, "backward: a gradient %s", qpi_no_elements(&s->value));
        return;
    }
    qpi_sum *sum = &e.node->grad[e.out];
    qp_dtype dtype = e.node->saved[e.node->nin + e.out].value.view.dtype;
    if (!sum->value.storage && s->value.view.dtype != dtype) {
        qpi_value g_value = s->value;
        *sum = copy_sum(ctx, &g_value, dtype);
    } else if (!sum->value.storage) {
        sum->value = s->value;
        qpi_storage_retain(sum->value.storage);
        bool leaf = !e.node->op;
        if (leaf && (sum->value.storage->count > 2 || sum->value.storage->read_only ||
                     !qpi_view_contiguous(&sum->value.view)))
            own_sum(ctx, sum);
    } else if (!(sum->in_place && sum->value.view.data == s->value.view.data)) {
        qpi_value g_value = s->value;
        if (own_sum(ctx, sum)) qpi_update(ctx, &qp_op_accumulate, &sum->value, &g_value);
    }
}

/* ---- The walk ------------------------------------------------------------------------------- */

/* The leaf's gradient is complete: zeros if none came. */
static void call_hooks(qp_ctx *ctx, qpi_node *leaf) {
    for (qpi_hook *h = leaf->hooks; h && !qp_failed(ctx); h = h->next) {
        qpi_sum *sum = h->fn ? sum_target(ctx, (qpi_edge){leaf, 0}) : NULL;
        if (!sum) continue;
        qp_tensor t = qpi_borrow(ctx, &sum->value);
        h->fn(h->user, t);
        qp_drop(t);
    }
}

/* One contribution less to wait for. */
static void leaf_contributed(qp_ctx *ctx, qpi_node *leaf) {
    if (leaf->op || --leaf->pending || ctx->walk_selects) return;
    call_hooks(ctx, leaf);
}

/* At the end of the outermost walk: leaves that it did not reach. */
static void call_unreached(qp_ctx *ctx) {
    for (qpi_node *n = ctx->hooked.first, *next; n; n = next) {
        qpi_node_retain(n);
        if (n->walk < ctx->first_walk) call_hooks(ctx, n);
        next = n->next;
        qpi_hooks_sweep(ctx, n);
        qpi_node_release(ctx, n);
    }
}

static void contributed(qp_ctx *ctx, const qpi_node *n) {
    for (int i = 0; i < n->edges; i++)
        if (n->in[i].node) leaf_contributed(ctx, n->in[i].node);
}

/* Handles for what the rule may see; false if a saved value has changed since. */
static bool open_saved(qp_ctx *ctx, const qpi_node *n, qp_tensor *in, qp_tensor *out) {
    for (int i = 0; i < n->nin + n->nout; i++) {
        const qpi_saved *s = &n->saved[i];
        qp_tensor       *t = i < n->nin ? &in[i] : &out[i - n->nin];
        *t = s->value.view.ndim < 0 ? QP_NONE : qpi_borrow(ctx, &s->value);
        if (s->value.storage && s->value.storage->version != s->version) {
            qp_fail(ctx, QP_ERR_STATE, "backward of %s: %s %d was changed in place after it was used",
                    n->op->name, i < n->nin ? "input" : "output", i < n->nin ? i : i - n->nin);
            return false;
        }
    }
    return true;
}

/* What the rule has read is let go before its gradients are handed on: a leaf adopts a buffer
 * that nobody else holds. */
static void let_go(qp_ctx *ctx, qpi_node *n, const qp_rule *r) {
    for (int i = 0; i < r->nin + r->nout; i++) {
        qp_tensor t = i < r->nin ? r->in[i] : r->out[i - r->nin];
        bool      handed_on = qp_is_none(t);
        for (int k = 0; k < r->nin && !handed_on; k++)
            handed_on = r->din[k].ctx && r->din[k].slot == t.slot && r->din[k].generation == t.generation;
        if (!handed_on) qp_drop(t);
    }
    qpi_node_forget(ctx, n);
}

static void hand_on(qp_ctx *ctx, qpi_node *n, const qp_rule *r) {
    for (int i = 0; i < n->nin && !qp_failed(ctx); i++) {
        if (!r->need[i] || qp_is_none(r->din[i])) continue;
        qpi_slot *s = qpi_resolve(r->din[i], "backward");
        if (s && !qpi_view_same_shape(&s->value.view, &n->saved[i].value.view))
            qp_fail(ctx, QP_ERR_SHAPE,
                    "backward of %s: the gradient of input %d has another shape than the input", n->op->name,
                    i);
        else qpi_contribute(ctx, n->in[i], r->din[i]);
    }
}

static void run_rule(qp_ctx *ctx, qpi_node *n, bool retain) {
    qp_tensor in[QP_MAX_IN], out[QP_MAX_OUT], dout[QP_MAX_OUT], din[QP_MAX_IN];
    bool      need[QP_MAX_IN], any = false;
    /* the gradient has been written into the parent's buffer already */
    if (n->op->region && n->in[0].node && n->grad[0].in_place && n->grad[0].value.storage &&
        n->grad[0].value.storage == n->in[0].node->grad[n->in[0].out].value.storage) {
        contributed(ctx, n);
        return;
    }
    qp_scope scope = qp_enter(ctx);
    ctx->mode.autocast = n->autocast;
    const qp_device *device = ctx->device;
    ctx->device = n->device;
    for (int i = 0; i < n->nin; i++) {
        need[i] = n->in[i].node && (!ctx->walk_selects || n->in[i].node->wanted);
        din[i] = in[i] = QP_NONE;
        any |= need[i];
    }
    for (int i = n->nin; i < n->edges; i++) any |= !ctx->walk_selects || n->in[i].node->wanted;
    for (int j = 0; j < n->nout; j++) {
        out[j] = QP_NONE;
        dout[j] = n->grad[j].value.storage ? qpi_borrow(ctx, &n->grad[j].value) : QP_NONE;
    }
    qp_rule rule = {ctx, n->attr, n->nin, n->nout, in, out, dout, need, din, n->grad[0].ones, n};
    if (any && open_saved(ctx, n, in, out) && !qp_failed(ctx)) n->op->backward(&rule);
    ctx->device = device;
    if (!retain) let_go(ctx, n, &rule);
    hand_on(ctx, n, &rule);
    qp_leave(scope);
    contributed(ctx, n);
}

/* Is n a recorded call that this walk had not reached yet? */
static bool mark(qp_ctx *ctx, qpi_node *n, uint64_t id) {
    bool fresh = n->op && n->walk != id;
    if (fresh && n->walk) {
        qp_fail(ctx, QP_ERR_STATE, "checkpoint: fn uses a result of %s that is not among xs", n->op->name);
        return false;
    }
    if (fresh) qpi_node_retain(n);
    if (!n->op) {
        if (n->walk < ctx->first_walk) n->pending = 0;
        n->pending++;
    }
    n->walk = id;
    return fresh;
}

/* Marks and retains all that the ys reach, `count` calls being marked already. Returns the
 * oldest, NULL if there is none. */
static qpi_node *mark_all(qp_ctx *ctx, uint64_t id, int64_t count, const char *who) {
    bool      spent = false;
    qpi_node *oldest = NULL;
    for (qpi_node *n = ctx->nodes.last; n && count > 0; n = n->prev) {
        if (n->walk != id) continue;
        oldest = n;
        count--;
        spent |= n->spent;
        for (int i = 0; i < n->edges; i++)
            if (n->in[i].node) count += mark(ctx, n->in[i].node, id);
    }
    if (spent)
        qp_fail(ctx, QP_ERR_STATE, "%s: the record was freed by an earlier backward (ask it to retain)", who);
    return oldest;
}

static void mark_wanted(qpi_node *oldest, uint64_t id) {
    for (qpi_node *n = oldest; n; n = n->next) {
        if (n->walk != id) continue;
        for (int i = 0; i < n->edges; i++) n->wanted |= n->in[i].node && n->in[i].node->wanted;
    }
}

/* The gradients of n's outputs that qp_grad was asked for. */
static void note_found(const qpi_node *n, int nx, qpi_slot **xs, qpi_value *found) {
    for (int i = 0; i < nx; i++)
        if (xs[i] && xs[i]->node == n && n->grad[xs[i]->out].value.storage) {
            found[i] = n->grad[xs[i]->out].value;
            qpi_storage_retain(found[i].storage);
        }
}

/* The walk has passed n. */
static void leave_node(qp_ctx *ctx, qpi_node *n, bool retain) {
    for (int j = 0; j < n->nout; j++) {
        qpi_value_release(ctx, &n->grad[j].value);
        n->grad[j] = (qpi_sum){0};
    }
    n->wanted = false;
    n->walk = 0;
    if (!retain) {
        n->spent = true;
        qpi_node_forget(ctx, n);
    }
}

static void walk_back(qp_ctx *ctx, uint64_t id, qpi_node *oldest, int nx, qpi_slot **xs, qpi_value *found,
                      bool retain) {
    bool end = !oldest;
    for (qpi_node *n = ctx->nodes.last, *prev; !end; n = prev) {
        bool ours = n->walk == id, reached = false;
        end = n == oldest;
        if (ours) {
            for (int j = 0; j < n->nout; j++) reached |= n->grad[j].value.storage != NULL;
            note_found(n, nx, xs, found);
            if (qpi_cancelled(ctx)) qp_fail(ctx, QP_ERR_CANCELLED, "cancelled");
            if (reached && !qp_failed(ctx)) run_rule(ctx, n, retain);
            else contributed(ctx, n);
            leave_node(ctx, n, retain);
        }
        prev = n->prev;
        if (ours) qpi_node_release(ctx, n);
    }
}

/* The gradients that leaves among xs hold are put aside during qp_grad. */
typedef struct {
    qpi_slot *slot[QP_MAX_IN];
    qpi_sum   aside[QP_MAX_IN];
    qpi_value found[QP_MAX_IN];
} selection;

static void select_xs(selection *sel, int nx, const qp_tensor *xs) {
    for (int i = 0; i < nx; i++) {
        sel->slot[i] = qpi_resolve(xs[i], "grad");
        sel->aside[i] = (qpi_sum){0};
        sel->found[i] = (qpi_value){0};
        qpi_node *n = sel->slot[i] ? sel->slot[i]->node : NULL;
        if (!n) continue;
        if (!n->op && !n->wanted) {
            sel->aside[i] = n->grad[0];
            n->grad[0] = (qpi_sum){0};
        }
        n->wanted = true;
    }
}

static qp_tensor zeros_like(qp_tensor x) {
    qp_ctx   *ctx = x.ctx;
    qpi_slot *s = qpi_resolve(x, "grad");
    if (!s || qp_failed(ctx)) return qpi_poison(ctx);
    const qp_device *device = s->value.storage ? s->value.storage->device : ctx->device;
    qpi_value        v = qpi_value_new(ctx, device, &s->value.view);
    if (!v.storage) return qpi_poison(ctx);
    device->zero(ctx, v.view.data, v.storage->bytes);
    return qpi_handle(ctx, v);
}

static void deselect_xs(qp_ctx *ctx, selection *sel, int nx, const qp_tensor *xs, qp_tensor *dxs) {
    for (int i = 0; i < nx; i++) {
        qpi_node *n = sel->slot[i] ? sel->slot[i]->node : NULL;
        if (n && !n->op && n->grad[0].value.storage) {
            sel->found[i] = n->grad[0].value;
            qpi_storage_retain(sel->found[i].storage);
        }
    }
    for (int i = 0; i < nx; i++) {
        qpi_node *n = sel->slot[i] ? sel->slot[i]->node : NULL;
        if (n && !n->op && n->wanted) {
            qpi_value_release(ctx, &n->grad[0].value);
            n->grad[0] = sel->aside[i];
        }
        if (n) n->wanted = false;
        if (sel->found[i].storage && !qp_failed(ctx)) {
            dxs[i] = qpi_handle(ctx, sel->found[i]);
        } else {
            qpi_value_release(ctx, &sel->found[i]);
            dxs[i] = zeros_like(xs[i]);
        }
    }
}

static qp_tensor ones_like(qp_tensor y, const char *who) {
    qpi_slot *s = qpi_resolve(y, who);
    if (!s) return qpi_poison(y.ctx);
    if (qp_view_count(&s->value.view) != 1) {
        char text[96];
        qpi_view_describe(&s->value.view, text, sizeof text);
        qp_fail(y.ctx, QP_ERR_SHAPE, "%s: the loss is %s, expected one element (or give seeds)", who, text);
        return qpi_poison(y.ctx);
    }
    qp_tensor one = qp_full(y.ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape, 1);
    s = qpi_resolve(y, who);
    return s && s->value.storage ? qp_to(one, s->value.storage->device) : one;
}

/* Where the walk begins. */
static void plant(qp_ctx *ctx, qp_tensor y, const qp_tensor *seed, const char *who) {
    qpi_slot *s = qpi_resolve(y, who);
    if (!s || !s->node) return;
    qpi_edge  e = {s->node, s->out};
    qpi_sum  *sum = &e.node->grad[e.out];
    qp_tensor g = seed ? *seed : ones_like(y, who);
    bool      first = e.node->op && !sum->value.storage;
    if (!(ctx->walk_selects && !e.node->wanted) && !qp_is_none(g) && !qp_failed(ctx)) {
        qpi_contribute(ctx, e, g);
        sum->ones = first && !seed;
    }
    leaf_contributed(ctx, e.node);
}

void qpi_walk(qp_ctx *ctx, int ny, const qp_tensor *ys, const qp_tensor *seeds, int nx, const qp_tensor *xs,
              qp_tensor *dxs, bool retain, const char *who) {
    selection sel;
    uint64_t  id = ++ctx->walk;
    int64_t   count = 0;
    bool      no_grad = ctx->mode.no_grad, selects = ctx->walk_selects;
    if (ctx->walk_depth++ == 0) ctx->first_walk = id;
    if (xs) select_xs(&sel, nx, xs);
    for (int i = 0; i < ny; i++) {
        qpi_slot *s = qpi_resolve(ys[i], who);
        if (s && s->node) count += mark(ctx, s->node, id);
    }
    qpi_node *oldest = mark_all(ctx, id, count, who);
    ctx->mode.no_grad = true;
    ctx->walk_selects = xs != NULL;
    if (xs) mark_wanted(oldest, id);
    for (int i = 0; i < ny && !qp_failed(ctx); i++) plant(ctx, ys[i], seeds ? &seeds[i] : NULL, who);
    walk_back(ctx, id, oldest, xs ? nx : 0, sel.slot, sel.found, retain);
    if (ctx->walk_depth == 1 && !xs) call_unreached(ctx);
    ctx->mode.no_grad = no_grad;
    ctx->walk_selects = selects;
    if (xs) deselect_xs(ctx, &sel, nx, xs, dxs);
    ctx->walk_depth--;
}
