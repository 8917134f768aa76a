/* Recomputation: Chen et al. 2016, arXiv:1604.06174. One node stands for all that fn did; its
 * rule runs fn again, recorded this time, and walks what that made. The leaves that fn uses
 * are noted, so that a walk knows beforehand where contributions will come from. */
#include <string.h>

#include "core/core.h"

typedef struct {
    qp_checkpoint_fn fn;
    uint64_t         seed, position;
    uint64_t         stamp; /* of the leaves that fn used */
    char             data[QP_CHECKPOINT_DATA];
} attr;
_Static_assert(sizeof(attr) <= QP_MAX_ATTR, "attributes fit");

static void backward(qp_rule *r) {
    attr      a = *(const attr *)r->attr;
    qp_ctx   *ctx = r->ctx;
    qp_tensor xs[QP_MAX_IN], ys[QP_MAX_OUT];
    if (ctx->walk_selects) {
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "grad: not through a checkpoint; use backward");
        return;
    }
    for (int i = 0; i < r->nin; i++) {
        xs[i] = qp_detach(r->in[i]);
        if (r->need[i]) qp_require_grad(xs[i], true);
    }
    for (int j = 0; j < r->nout; j++) ys[j] = QP_NONE;
    uint64_t seed = ctx->seed, position = ctx->random_position;
    qp_set_random(ctx, a.seed, a.position);
    qpi_leaves leaves = {.outer = ctx->leaves, .xs = xs, .nx = r->nin};
    bool       before = qp_no_grad(ctx, false);
    ctx->leaves = &leaves;
    a.fn(a.data, xs, ys);
    ctx->leaves = leaves.outer;
    qp_no_grad(ctx, before);
    qp_set_random(ctx, seed, position);
    if (leaves.stamp != a.stamp)
        qp_fail(ctx, QP_ERR_STATE, "checkpoint: a parameter that fn uses was changed before backward");
    qpi_leaves_end(ctx, &leaves);
    for (int j = 0; j < r->nout && !qp_failed(ctx); j++)
        if (qp_is_none(ys[j])) qp_fail(ctx, QP_ERR_STATE, "checkpoint: run again, fn left result %d alone", j);
    if (qp_failed(ctx)) return;
    qpi_walk(ctx, r->nout, ys, r->dout, 0, NULL, NULL, false, "checkpoint");
    for (int i = 0; i < r->nin; i++)
        if (r->need[i]) r->din[i] = qp_grad_of(xs[i]);
}

static const qp_op op_checkpoint = {.name = "checkpoint",
                                    .source = "arXiv:1604.06174",
                                    .max_in = QP_MAX_IN,
                                    .attr_bytes = sizeof(attr),
                                    .saves = QP_SAVE_ALL_IN,
                                    .backward = backward};

/* Results with handles of their own (one may be an input handed through), and how many there are. */
static int results_of(qp_ctx *ctx, int ny, qp_tensor *ys) {
    int n = ny;
    while (n > 0 && qp_is_none(ys[n - 1])) n--;
    for (int i = 0; i < n; i++)
        if (qp_is_none(ys[i])) qp_fail(ctx, QP_ERR_ARGUMENT, "checkpoint: fn left result %d of %d alone", i, n);
    if (qp_failed(ctx)) n = ny;
    for (int i = 0; i < n; i++) ys[i] = qp_failed(ctx) ? qpi_poison(ctx) : qp_detach(ys[i]);
    return n;
}

void qp_checkpoint(qp_ctx *ctx, qp_checkpoint_fn fn, const void *data, size_t bytes, int nx,
                   const qp_tensor *xs, int ny, qp_tensor *ys) {
    for (int i = 0; i < ny; i++) ys[i] = qp_failed(ctx) ? qpi_poison(ctx) : QP_NONE;
    if (qp_failed(ctx)) return;
    if (nx > 24 || ny > QP_MAX_OUT || bytes > QP_CHECKPOINT_DATA) {
        qp_fail(ctx, QP_ERR_ARGUMENT,
                "checkpoint: %d inputs, %d outputs, %zu bytes of data: at most 24, %d and %d", nx, ny, bytes,
                QP_MAX_OUT, QP_CHECKPOINT_DATA);
        for (int i = 0; i < ny; i++) ys[i] = qpi_poison(ctx);
        return;
    }
    attr a = {.fn = fn, .seed = ctx->seed, .position = ctx->random_position};
    if (bytes) memcpy(a.data, data, bytes);
    qpi_leaves leaves = {.outer = ctx->leaves, .xs = xs, .nx = nx};
    qp_scope   scope = qp_enter(ctx);
    bool       before = qp_no_grad(ctx, true);
    ctx->leaves = &leaves;
    fn(a.data, xs, ys);
    ctx->leaves = leaves.outer;
    qp_no_grad(ctx, before);
    a.stamp = leaves.stamp;
    int results = results_of(ctx, ny, ys);
    if (!qp_failed(ctx)) {
        const qpi_value *values[QP_MAX_IN];
        qpi_edge         edges[QP_MAX_IN];
        char             attrs[QP_MAX_ATTR] = {0};
        memcpy(attrs, &a, sizeof a);
        for (int i = 0; i < nx; i++) {
            qpi_slot *s = xs[i].ctx ? qpi_resolve(xs[i], "checkpoint") : NULL;
            values[i] = s ? &s->value : &qpi_absent;
            edges[i] = s ? (qpi_edge){s->node, s->out} : (qpi_edge){0};
        }
        qp_call call = {.ctx = ctx, .op = &op_checkpoint, .attr = attrs, .nin = nx, .nout = results};
        if (!qp_failed(ctx)) qpi_record(&call, values, edges, ys, &leaves);
    }
    qpi_leaves_end(ctx, &leaves);
    qp_return_many(scope, ys, results);
}
