/* Nodes and the walk. Nodes stand in one row in order of making, so a walk goes backward
 * along the row and looks only at those that the loss reaches. */
#include <string.h>

#include "core/core.h"

/* ---- Nodes ------------------------------------------------------------------------------ */

static qpi_node *node_new(qp_ctx *ctx, const qp_op *op, int nin, int nout, int edges) {
    size_t    saved = (size_t)(nin + nout) * sizeof(qpi_saved);
    size_t    bytes = sizeof(qpi_node) + saved + (size_t)nout * sizeof(qpi_sum) + (size_t)edges * sizeof(qpi_edge);
    qpi_node *n = qpi_alloc(ctx, bytes);
    if (!n) return NULL;
    memset(n, 0, bytes);
    n->op = op;
    n->nin = nin;
    n->nout = nout;
    n->edges = edges;
    n->saved = (qpi_saved *)(n + 1);
    n->grad = (qpi_sum *)(n->saved + nin + nout);
    n->in = (qpi_edge *)(n->grad + nout);
    n->order = ++ctx->node_order;
    if (op) {
        n->prev = ctx->last_node;
        if (n->prev) n->prev->next = n;
        else ctx->first_node = n;
        ctx->last_node = n;
    }
    return n;
}

void qpi_node_retain(qpi_node *n) {
    if (n) n->refs++;
}

static void free_saved(qp_ctx *ctx, qpi_node *n) {
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
            if (n->op) {
                if (n->prev) n->prev->next = n->next;
                else ctx->first_node = n->next;
                if (n->next) n->next->prev = n->prev;
                else ctx->last_node = n->prev;
            }
            free_saved(ctx, n);
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

void qpi_leaf_used(qp_ctx *ctx, qpi_leaves *leaves, qpi_node *leaf) {
    for (int i = 0; i < leaves->count; i++)
        if (leaves->node[i] == leaf) return;
    if (leaves->count == leaves->capacity) {
        int        capacity = leaves->capacity ? 2 * leaves->capacity : 32;
        qpi_node **node = qpi_alloc(ctx, (size_t)capacity * sizeof *node);
        if (!node) return;
        if (leaves->count) memcpy(node, leaves->node, (size_t)leaves->count * sizeof *node);
        qpi_free(ctx, leaves->node);
        leaves->node = node;
        leaves->capacity = capacity;
    }
    qpi_node_retain(leaf);
    leaves->node[leaves->count++] = leaf;
}

void qpi_record(const qp_call *call, const qpi_value *ins, const qpi_edge *edges, const qp_tensor *outs,
                const qpi_leaves *extra) {
    qp_ctx      *ctx = call->ctx;
    const qp_op *op = call->op;
    int          extras = extra ? extra->count : 0;
    bool         needed = extras > 0;
    for (int i = 0; i < call->nin; i++) needed |= edges[i].node != NULL;
    if (!needed || !op->backward || ctx->mode.no_grad) return;
    qpi_node *n = node_new(ctx, op, call->nin, call->nout, call->nin + extras);
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
        n->saved[i].value.view = ins[i].view;
        if (!(op->saves & (i < 24 ? QP_SAVE_IN(i) : 0)) || !ins[i].storage) continue;
        n->saved[i].value.storage = qpi_storage_retain(ins[i].storage);
        n->saved[i].version = ins[i].storage->version;
    }
    for (int i = 0; i < call->nout; i++) {
        qpi_slot *s = qpi_resolve(outs[i], op->name);
        if (!s) continue;
        qpi_saved *saved = &n->saved[call->nin + i];
        saved->value.view = s->value.view;
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
    for (const qpi_node *n = ctx->last_node; n && v->storage; n = n->prev)
        for (int i = 0; i < n->nin + n->nout; i++)
            if (n->saved[i].value.storage == v->storage && n->saved[i].value.view.data == v->view.data) return n->op;
    return NULL;
}

/* ---- Accumulation ------------------------------------------------------------------------- */

static qp_tensor borrow(qp_ctx *ctx, const qpi_value *v) {
    qpi_storage_retain(v->storage);
    return qpi_handle(ctx, *v);
}

/* dst and src through one of the core's own in-place ops. */
static void update(qp_ctx *ctx, const qp_op *op, const qpi_value *dst, const qpi_value *src) {
    qp_tensor t[2] = {borrow(ctx, dst), borrow(ctx, src)};
    qp_apply(op, 2, t, NULL);
    qp_drop(t[0]);
    qp_drop(t[1]);
}

/* A buffer of v's shape and elements, in the given type. */
static qpi_sum copy_sum(qp_ctx *ctx, const qpi_value *v, qp_dtype dtype) {
    qp_view shape = v->view;
    shape.dtype = dtype;
    qpi_sum sum = {qpi_value_new(ctx, &shape), true};
    if (sum.value.storage) update(ctx, &qp_op_copy, &sum.value, v);
    return sum;
}

/* Makes the sum a buffer that may be added into. */
static bool own_sum(qp_ctx *ctx, qpi_sum *sum) {
    const qpi_storage *s = sum->value.storage;
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
            *sum = (qpi_sum){{qpi_storage_retain(parent->value.storage), out}, true};
            return sum;
        }
    }
    *sum = (qpi_sum){qpi_value_new(ctx, &n->saved[n->nin + e.out].value.view), true};
    if (!sum->value.storage) return NULL;
    memset(sum->value.storage->data, 0, sum->value.storage->bytes);
    return sum;
}

static qpi_sum *sum_target(qp_ctx *ctx, qpi_edge e) { return sum_target_at(ctx, e, 0); }

qp_tensor qp_grad_into(const qp_rule *rule, int i) {
    qpi_node *n = rule->core;
    qpi_sum  *sum = n->in[i].node && !qp_failed(rule->ctx) ? sum_target(rule->ctx, n->in[i]) : NULL;
    return sum ? borrow(rule->ctx, &sum->value) : qpi_poison(rule->ctx);
}

/* The sum at e grows by g: the first is adopted if it is of the value's type, later ones are
 * added. A leaf's gradient is its own, since optimisers work on it in place: it adopts g only
 * if nobody but the handle g holds it. */
static void contribute(qp_ctx *ctx, qpi_edge e, qp_tensor g) {
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
        if (leaf && (sum->value.storage->count > 2 || !qpi_view_contiguous(&sum->value.view))) own_sum(ctx, sum);
    } else if (!(sum->in_place && sum->value.view.data == s->value.view.data)) {
        qpi_value g_value = s->value;
        if (own_sum(ctx, sum)) update(ctx, &qp_op_accumulate, &sum->value, &g_value);
    }
}

/* ---- The walk ------------------------------------------------------------------------------- */

/* One contribution less to wait for; the last one calls the hook, with zeros if none came. */
static void leaf_contributed(qp_ctx *ctx, qpi_node *leaf) {
    if (leaf->op || --leaf->pending || !leaf->hook || ctx->walk_selects || qp_failed(ctx)) return;
    qpi_sum *sum = sum_target(ctx, (qpi_edge){leaf, 0});
    if (!sum) return;
    qp_tensor t = borrow(ctx, &sum->value);
    leaf->hook(leaf->hook_user, t);
    qp_drop(t);
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
        *t = s->value.view.ndim < 0 ? QP_NONE : borrow(ctx, &s->value);
        if (s->value.storage && s->value.storage->version != s->version) {
            qp_fail(ctx, QP_ERR_STATE, "backward of %s: %s %d was changed in place after it was used", n->op->name,
                    i < n->nin ? "input" : "output", i < n->nin ? i : i - n->nin);
            return false;
        }
    }
    return true;
}

static void run_rule(qp_ctx *ctx, qpi_node *n) {
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
    for (int i = 0; i < n->nin; i++) {
        need[i] = n->in[i].node && (!ctx->walk_selects || n->in[i].node->wanted);
        din[i] = QP_NONE;
        any |= need[i];
    }
    for (int i = n->nin; i < n->edges; i++) any |= !ctx->walk_selects || n->in[i].node->wanted;
    for (int j = 0; j < n->nout; j++) dout[j] = n->grad[j].value.storage ? borrow(ctx, &n->grad[j].value) : QP_NONE;
    qp_rule rule = {ctx, n->attr, n->nin, n->nout, in, out, dout, need, din, n};
    if (any && open_saved(ctx, n, in, out) && !qp_failed(ctx)) n->op->backward(&rule);
    for (int i = 0; i < n->nin; i++) {
        if (need[i] && !qp_is_none(din[i]) && !qp_failed(ctx)) {
            qpi_slot *s = qpi_resolve(din[i], "backward");
            if (s && !qpi_view_same_shape(&s->value.view, &n->saved[i].value.view))
                qp_fail(ctx, QP_ERR_SHAPE, "backward of %s: the gradient of input %d has another shape than the input",
                        n->op->name, i);
            else contribute(ctx, n->in[i], din[i]);
        }
    }
    qp_leave(scope);
    contributed(ctx, n);
}

static void mark(qp_ctx *ctx, qpi_node *n, uint32_t id) {
    if (n->op && n->walk == id) return;
    if (n->op && n->walk) {
        qp_fail(ctx, QP_ERR_STATE, "checkpoint: fn uses a result of %s that is not among xs", n->op->name);
        return;
    }
    if (n->op) {
        qpi_node_retain(n);
    } else {
        if (n->walk < ctx->first_walk) n->pending = 0;
        n->pending++;
    }
    n->walk = id;
}

/* Marks and retains all that the ys reach. */
static bool mark_all(qp_ctx *ctx, uint32_t id, const char *who) {
    bool spent = false;
    for (qpi_node *n = ctx->last_node; n; n = n->prev) {
        if (n->walk != id) continue;
        spent |= n->spent;
        for (int i = 0; i < n->edges; i++)
            if (n->in[i].node) mark(ctx, n->in[i].node, id);
    }
    if (spent) qp_fail(ctx, QP_ERR_STATE, "%s: the record was freed by an earlier backward (ask it to retain)", who);
    return !qp_failed(ctx);
}

static void mark_wanted(qp_ctx *ctx, uint32_t id) {
    for (qpi_node *n = ctx->first_node; n; n = n->next) {
        if (n->walk != id) continue;
        for (int i = 0; i < n->edges; i++) n->wanted |= n->in[i].node && n->in[i].node->wanted;
    }
}

static void walk_back(qp_ctx *ctx, uint32_t id, int nx, qpi_slot **xs, qpi_value *found, bool retain) {
    for (qpi_node *n = ctx->last_node, *prev; n; n = prev) {
        bool ours = n->walk == id;
        if (ours) {
            bool reached = false;
            for (int j = 0; j < n->nout; j++) reached |= n->grad[j].value.storage != NULL;
            for (int i = 0; i < nx; i++)
                if (xs[i] && xs[i]->node == n && n->grad[xs[i]->out].value.storage) {
                    found[i] = n->grad[xs[i]->out].value;
                    qpi_storage_retain(found[i].storage);
                }
            if (reached && !qp_failed(ctx) && !ctx->cancelled) run_rule(ctx, n);
            else contributed(ctx, n);
            for (int j = 0; j < n->nout; j++) {
                qpi_value_release(ctx, &n->grad[j].value);
                n->grad[j].in_place = false;
            }
            n->wanted = false;
            n->walk = 0;
            if (!retain) {
                n->spent = true;
                free_saved(ctx, n);
            }
        }
        prev = n->prev;
        if (ours) qpi_node_release(ctx, n);
    }
    if (ctx->cancelled) qp_fail(ctx, QP_ERR_CANCELLED, "cancelled");
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
            qpi_slot *s = qpi_resolve(xs[i], "grad");
            dxs[i] = s ? qp_zeros(ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape) : qpi_poison(ctx);
        }
    }
}

void qpi_walk(qp_ctx *ctx, int ny, const qp_tensor *ys, const qp_tensor *seeds, int nx, const qp_tensor *xs,
              qp_tensor *dxs, bool retain, const char *who) {
    selection sel;
    uint32_t  id = ++ctx->walk;
    bool      no_grad = ctx->mode.no_grad, selects = ctx->walk_selects;
    if (ctx->walk_depth++ == 0) ctx->first_walk = id;
    if (xs) select_xs(&sel, nx, xs);
    for (int i = 0; i < ny; i++) {
        qpi_slot *s = qpi_resolve(ys[i], who);
        if (s && s->node) mark(ctx, s->node, id);
    }
    if (mark_all(ctx, id, who)) {
        if (xs) mark_wanted(ctx, id);
        ctx->mode.no_grad = true;
        ctx->walk_selects = xs != NULL;
        for (int i = 0; i < ny && !qp_failed(ctx); i++) {
            qpi_slot *s = qpi_resolve(ys[i], who);
            if (!s || !s->node) continue;
            if (!(xs && !s->node->wanted) && !qp_is_none(seeds[i]))
                contribute(ctx, (qpi_edge){s->node, s->out}, seeds[i]);
            leaf_contributed(ctx, s->node);
        }
    }
    walk_back(ctx, id, xs ? nx : 0, sel.slot, sel.found, retain);
    ctx->mode.no_grad = no_grad;
    ctx->walk_selects = selects;
    if (xs) deselect_xs(ctx, &sel, nx, xs, dxs);
    ctx->walk_depth--;
}

/* ---- Public --------------------------------------------------------------------------------- */

static qp_tensor ones_like(qp_tensor y, const char *who) {
    qpi_slot *s = qpi_resolve(y, who);
    if (!s) return qpi_poison(y.ctx);
    if (qp_view_count(&s->value.view) != 1) {
        char text[96];
        qpi_view_describe(&s->value.view, text, sizeof text);
        qp_fail(y.ctx, QP_ERR_SHAPE, "%s: the loss is %s, expected one element (or give seeds)", who, text);
        return qpi_poison(y.ctx);
    }
    return qp_full(y.ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape, 1);
}

void qp_backward(qp_tensor loss) {
    qp_ctx *ctx = loss.ctx;
    if (!ctx || qp_failed(ctx)) return;
    qpi_slot *s = qpi_resolve(loss, "backward");
    if (!s) return;
    if (!s->node) {
        qp_fail(ctx, QP_ERR_STATE, "backward: the loss was not computed from anything that requires a gradient");
        return;
    }
    qp_scope  scope = qp_enter(ctx);
    qp_tensor seed = ones_like(loss, "backward");
    if (!qp_failed(ctx)) qpi_walk(ctx, 1, &loss, &seed, 0, NULL, NULL, false, "backward");
    qp_leave(scope);
}

static bool grad_takes(qp_ctx *ctx, qp_tensor t) {
    if (t.ctx == ctx) return qpi_resolve(t, "grad") != NULL;
    qp_fail(ctx, QP_ERR_ARGUMENT, "grad: a tensor is missing or belongs to another context");
    return false;
}

static bool seed_fits(qp_ctx *ctx, qp_tensor y, qp_tensor seed) {
    if (!grad_takes(ctx, seed)) return false;
    const qp_view *v = &qpi_resolve(y, "grad")->value.view, *s = &qpi_resolve(seed, "grad")->value.view;
    if (qpi_view_same_shape(v, s) && v->dtype == s->dtype) return true;
    char a[96], b[96];
    qpi_view_describe(v, a, sizeof a);
    qpi_view_describe(s, b, sizeof b);
    qp_fail(ctx, QP_ERR_SHAPE, "grad: a y is %s, its seed %s", a, b);
    return false;
}

void qp_grad(int ny, const qp_tensor *ys, int nx, const qp_tensor *xs, qp_tensor *dxs, qp_grad_options options) {
    qp_ctx *ctx = ny > 0 ? ys[0].ctx : NULL;
    for (int i = 0; i < nx; i++) dxs[i] = ctx ? qpi_poison(ctx) : QP_NONE;
    if (!ctx || qp_failed(ctx)) return;
    if (nx > QP_MAX_IN || ny > QP_MAX_IN) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "grad: %d ys and %d xs, at most %d each", ny, nx, QP_MAX_IN);
        return;
    }
    qp_scope  scope = qp_enter(ctx);
    qp_tensor seeds[QP_MAX_IN];
    bool      ok = true;
    for (int i = 0; i < nx && ok; i++) ok = grad_takes(ctx, xs[i]);
    for (int i = 0; i < ny && ok; i++) {
        ok = grad_takes(ctx, ys[i]);
        seeds[i] = !ok ? QP_NONE : options.seeds ? options.seeds[i] : ones_like(ys[i], "grad");
        ok = ok && (qp_is_none(seeds[i]) || seed_fits(ctx, ys[i], seeds[i]));
    }
    if (ok && !qp_failed(ctx)) qpi_walk(ctx, ny, ys, seeds, nx, xs, dxs, options.retain, "grad");
    qp_return_many(scope, dxs, nx);
}

void qp_require_grad(qp_tensor t, bool on) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "require_grad") : NULL;
    if (!s) return;
    if (s->node && s->node->op) {
        qp_fail(t.ctx, QP_ERR_STATE, "require_grad: the tensor is the result of %s, not a leaf", s->node->op->name);
    } else if (on && !s->node) {
        if (!qp_dtype_is_float(s->value.view.dtype)) {
            qp_fail(t.ctx, QP_ERR_TYPE, "require_grad: %s has no gradient", qp_dtype_name(s->value.view.dtype));
            return;
        }
        qpi_node *n = node_new(t.ctx, NULL, 0, 1, 0);
        if (!n) return;
        n->saved[0].value.view = s->value.view;
        n->refs = 1;
        s->node = n;
        s->out = 0;
    } else if (!on && s->node) {
        qpi_node *n = s->node;
        s->node = NULL;
        qpi_node_release(t.ctx, n);
    }
}

bool qp_requires_grad(qp_tensor t) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "requires_grad") : NULL;
    return s && s->node;
}

static qpi_node *leaf_of(qp_tensor t, const char *who) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, who) : NULL;
    if (s && s->node && !s->node->op) return s->node;
    if (s) qp_fail(t.ctx, QP_ERR_STATE, "%s: not a leaf that requires a gradient", who);
    return NULL;
}

qp_tensor qp_grad_of(qp_tensor t) {
    qpi_node *n = leaf_of(t, "grad_of");
    return n && n->grad[0].value.storage ? borrow(t.ctx, &n->grad[0].value) : QP_NONE;
}

void qp_zero_grad(qp_tensor t) {
    qpi_node *n = leaf_of(t, "zero_grad");
    if (!n) return;
    qpi_value_release(t.ctx, &n->grad[0].value);
    n->grad[0] = (qpi_sum){0};
}

void qp_on_grad(qp_tensor t, void (*fn)(void *user, qp_tensor t), void *user) {
    qpi_node *n = leaf_of(t, "on_grad");
    if (!n) return;
    n->hook = fn;
    n->hook_user = user;
}

bool qp_no_grad(qp_ctx *ctx, bool on) {
    bool before = ctx->mode.no_grad;
    ctx->mode.no_grad = on;
    return before;
}

qp_dtype qp_autocast(qp_ctx *ctx, qp_dtype dtype) {
    qp_dtype before = ctx->mode.autocast;
    if (dtype == QP_F32 || dtype == QP_BF16 || dtype == QP_F16) ctx->mode.autocast = dtype;
    else qp_fail(ctx, QP_ERR_ARGUMENT, "autocast: %s, expected bf16, f16 or f32 (off)", qp_dtype_name(dtype));
    return before;
}
