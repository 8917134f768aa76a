/* x summed over the axes along which it was broadcast from like's shape: the adjoint of
 * broadcasting. Equal shapes cost nothing. */
#include "ops/reduce.h"

#if QP_BODY
extern const qp_op qp_op_sum;

static qp_tensor no_fit(const qp_view *x, const qp_view *like, qp_ctx *ctx) {
    char a[96], b[96];
    qpi_view_describe(x, a, sizeof a);
    qpi_view_describe(like, b, sizeof b);
    qp_fail(ctx, QP_ERR_SHAPE, "sum_to: %s does not broadcast to %s", b, a);
    return qpi_poison(ctx);
}

qp_tensor qp_sum_to(qp_tensor x, qp_tensor like) {
    qpi_slot *xs = x.ctx ? qpi_resolve(x, "sum_to") : NULL, *ls = like.ctx ? qpi_resolve(like, "sum_to") : NULL;
    if (!xs || !ls) return x.ctx ? qpi_poison(x.ctx) : QP_NONE;
    const qp_view *v = &xs->value.view, *l = &ls->value.view;
    reduce_attr    a = {.keep = true, .drop = v->ndim - l->ndim};
    if (a.drop < 0) return no_fit(v, l, x.ctx);
    for (int i = 0; i < v->ndim; i++) {
        int64_t size = i < a.drop ? 1 : l->shape[i - a.drop];
        if (i >= a.drop && size == v->shape[i]) continue;
        if (size != 1) return no_fit(v, l, x.ctx);
        a.axes[a.naxes++] = i;
    }
    return a.naxes ? QP_CALL(sum, &a, x) : qp_alias(x);
}
#endif
