/* What the user asks of gradients: leaves, backward, grad, hooks. */
#include "core/core.h"

void qp_backward(qp_tensor loss) {
    qp_ctx *ctx = loss.ctx;
    if (!ctx || qp_failed(ctx)) return;
    qpi_slot *s = qpi_resolve(loss, "backward");
    if (!s) return;
    if (!s->node) {
        qp_fail(ctx, QP_ERR_STATE,
                "backward: the loss was not computed from anything that requires a gradient");
        return;
    }
    qp_scope scope = qp_enter(ctx);
    qpi_walk(ctx, 1, &loss, NULL, 0, NULL, NULL, false, "backward");
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

void qp_grad(int ny, const qp_tensor *ys, int nx, const qp_tensor *xs, qp_tensor *dxs,
             qp_grad_options options) {
    qp_ctx *ctx = ny > 0 ? ys[0].ctx : NULL;
    for (int i = 0; i < nx; i++) dxs[i] = ctx ? qpi_poison(ctx) : QP_NONE;
    if (!ctx || qp_failed(ctx)) return;
    if (nx > QP_MAX_IN || ny > QP_MAX_IN) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "grad: %d ys and %d xs, at most %d each", ny, nx, QP_MAX_IN);
        return;
    }
    qp_scope scope = qp_enter(ctx);
    bool     ok = true;
    for (int i = 0; i < nx && ok; i++) ok = grad_takes(ctx, xs[i]);
    for (int i = 0; i < ny && ok; i++) {
        ok = grad_takes(ctx, ys[i]);
        if (ok && options.seeds && !qp_is_none(options.seeds[i])) ok = seed_fits(ctx, ys[i], options.seeds[i]);
    }
    if (ok && !qp_failed(ctx)) qpi_walk(ctx, ny, ys, options.seeds, nx, xs, dxs, options.retain, "grad");
    qp_return_many(scope, dxs, nx);
}

void qp_require_grad(qp_tensor t, bool on) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "require_grad") : NULL;
    if (!s) return;
    if (s->node && s->node->op) {
        qp_fail(t.ctx, QP_ERR_STATE, "require_grad: the tensor is the result of %s, not a leaf",
                s->node->op->name);
    } else if (on && !s->node) {
        if (!qp_dtype_is_float(s->value.view.dtype)) {
            qp_fail(t.ctx, QP_ERR_TYPE, "require_grad: %s has no gradient", qp_dtype_name(s->value.view.dtype));
            return;
        }
        qpi_node *n = qpi_node_new(t.ctx, NULL, 0, 1, 0);
        if (!n) return;
        n->saved[0].value.view = s->value.view;
        n->device = qp_device_of(t);
        n->refs = 1;
        s->node = n;
        s->out = 0;
    } else if (!on && s->node) {
        qpi_node *n = s->node;
        s->node = NULL;
        for (qpi_hook *h = n->hooks; h; h = h->next) h->fn = NULL; /* records may still hold the leaf */
        if (t.ctx->walk_depth == 0) qpi_hooks_sweep(t.ctx, n);
        qpi_node_release(t.ctx, n);
    }
}

bool qp_requires_grad(qp_tensor t) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "requires_grad") : NULL;
    return s && s->node;
}

/* ---- Leaves and their gradients --------------------------------------------------------------- */

/* NULL if t is none. */
static qpi_node *leaf_at(qp_tensor t, const char *who) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, who) : NULL;
    return s && s->node && !s->node->op ? s->node : NULL;
}

static qpi_node *leaf_of(qp_tensor t, const char *who) {
    qpi_node *n = leaf_at(t, who);
    if (!n && t.ctx) qp_fail(t.ctx, QP_ERR_STATE, "%s: not a leaf that requires a gradient", who);
    return n;
}

qp_tensor qp_grad_of(qp_tensor t) {
    qpi_node *n = leaf_at(t, "grad_of");
    return n && n->grad[0].value.storage ? qpi_borrow(t.ctx, &n->grad[0].value) : QP_NONE;
}

static void drop_grad(qp_ctx *ctx, qpi_node *leaf) {
    qpi_value_release(ctx, &leaf->grad[0].value);
    leaf->grad[0] = (qpi_sum){0};
}

void qp_zero_grad(qp_tensor t) {
    qpi_node *n = leaf_at(t, "zero_grad");
    if (n) drop_grad(t.ctx, n);
}

void qp_set_grad(qp_tensor t, qp_tensor g) {
    qpi_node *n = leaf_of(t, "set_grad");
    if (!n || qp_failed(t.ctx)) return;
    if (!qp_is_none(g)) {
        if (g.ctx != t.ctx) {
            qp_fail(t.ctx, QP_ERR_ARGUMENT, "set_grad: the gradient belongs to another context");
            return;
        }
        qpi_slot *s = qpi_resolve(g, "set_grad");
        if (!s) return;
        if (!qpi_view_same_shape(&s->value.view, &n->saved[0].value.view) ||
            !qp_dtype_is_float(s->value.view.dtype)) {
            char a[96], b[96];
            qpi_view_describe(&n->saved[0].value.view, a, sizeof a);
            qpi_view_describe(&s->value.view, b, sizeof b);
            qp_fail(t.ctx, QP_ERR_SHAPE, "set_grad: the leaf is %s, the gradient %s", a, b);
            return;
        }
    }
    drop_grad(t.ctx, n);
    if (!qp_is_none(g)) qpi_contribute(t.ctx, (qpi_edge){n, 0}, g);
}

/* ---- Hooks ------------------------------------------------------------------------------------- */

int qp_on_grad(qp_tensor t, void (*fn)(void *user, qp_tensor grad), void *user) {
    qpi_node *n = leaf_of(t, "on_grad");
    qpi_hook *h = n ? qpi_alloc(t.ctx, sizeof *h) : NULL;
    if (!h) return 0;
    *h = (qpi_hook){.id = ++t.ctx->hook_ids, .fn = fn, .user = user};
    if (!n->hooks) qpi_row_append(&t.ctx->hooked, n);
    qpi_hook **end = &n->hooks;
    while (*end) end = &(*end)->next;
    *end = h;
    return h->id;
}

/* During a walk someone may stand on the list. */
void qp_off_grad(qp_tensor t, int id) {
    qpi_node *n = leaf_of(t, "off_grad");
    qpi_hook *h = n ? n->hooks : NULL;
    while (h && !(h->id == id && h->fn)) h = h->next;
    if (!h) {
        if (n) qp_fail(t.ctx, QP_ERR_ARGUMENT, "off_grad: the leaf has no hook %d", id);
        return;
    }
    h->fn = NULL;
    if (t.ctx->walk_depth == 0) qpi_hooks_sweep(t.ctx, n);
}

void qpi_hooks_sweep(qp_ctx *ctx, qpi_node *leaf) {
    bool any = leaf->hooks != NULL;
    for (qpi_hook **at = &leaf->hooks, *h; (h = *at);) {
        if (h->fn) {
            at = &h->next;
        } else {
            *at = h->next;
            qpi_free(ctx, h);
        }
    }
    if (any && !leaf->hooks) qpi_row_remove(&ctx->hooked, leaf);
}

/* ---- The mode ------------------------------------------------------------------------------------ */

bool qp_no_grad(qp_ctx *ctx, bool on) {
    if (!ctx) return false;
    bool before = ctx->mode.no_grad;
    ctx->mode.no_grad = on;
    return before;
}

qp_dtype qp_autocast(qp_ctx *ctx, qp_dtype dtype) {
    if (!ctx) return QP_F32;
    qp_dtype before = ctx->mode.autocast;
    if (dtype == QP_F32 || dtype == QP_BF16 || dtype == QP_F16) ctx->mode.autocast = dtype;
    else qp_fail(ctx, QP_ERR_ARGUMENT, "autocast: %s, expected bf16, f16 or f32 (off)", qp_dtype_name(dtype));
    return before;
}
