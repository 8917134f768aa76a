/* Will a call on these inputs leave a node? Ops ask that can save work where none follows. */
#ifndef QUIPU_OPS_RECORDING_H
#define QUIPU_OPS_RECORDING_H

#include "core/core.h"

static inline bool recording(const qp_ctx *ctx, int n, const qp_tensor *xs) {
    bool needed = false;
    if (!ctx || ctx->mode.no_grad) return false;
    for (int i = 0; i < n; i++) needed |= !qp_is_none(xs[i]) && qp_requires_grad(xs[i]);
    return needed;
}

#endif
