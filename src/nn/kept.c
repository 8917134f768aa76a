/* See kept.h. */
#include "nn/kept.h"

#include "core/core.h"
#include "nn/module.h"

void qpi_kept_init(qpi_kept *k, qp_build *b, int ndim, const int64_t *shape) {
    k->module = b->module;
    k->value = qp_module_keep(b->module, qp_empty(b->ctx, b->ctx->param_dtype, ndim, shape));
}

qp_tensor qpi_kept_value(qpi_kept *k, qp_tensor (*make)(const void *self), const void *self) {
    qp_ctx  *ctx = k->value.ctx;
    uint64_t stamp = qpi_module_stamp(k->module);
    if (k->stamp == stamp || qp_failed(ctx)) return k->value;
    qp_scope s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (qp_copy_to(k->value, make(self)) == QP_OK) k->stamp = stamp;
    qp_leave(s);
    return k->value;
}
