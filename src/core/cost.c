/* What a call costs, by its op's word, and who is told when it has run; the clock. */
#define _POSIX_C_SOURCE 200809L
#include <time.h>

#include "core/core.h"

double qpi_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double qp_call_flops(const qp_call *call) {
    double sum = 0;
    if (call->op->flops) return call->op->flops(call);
    for (int i = 0; i < call->nout; i++) sum += (double)qp_view_count(&call->out[i]);
    return sum;
}

/* Elements that lie in memory: those along a broadcast axis are one. */
static double bytes_of(const qp_view *v) {
    if (v->ndim < 0) return 0;
    double n = (double)qp_dtype_bytes(v->dtype) / qp_dtype_block(v->dtype);
    for (int i = 0; i < v->ndim; i++)
        if (v->stride[i] != 0 || v->shape[i] == 0) n *= (double)v->shape[i];
    return n;
}

double qp_call_bytes(const qp_call *call) {
    const qp_op *op = call->op;
    double       sum = 0;
    if (op->bytes) return op->bytes(call);
    for (int i = 0; i < call->nin; i++) sum += bytes_of(&call->in[i]) * (op->mutates >> i & 1 ? 2 : 1);
    for (int i = 0; i < call->nout && !op->mutates; i++) sum += bytes_of(&call->out[i]);
    return sum;
}

void qp_observe(qp_ctx *ctx, qp_observer *fn, void *user) {
    if (!ctx) return;
    ctx->observer = fn;
    ctx->observer_user = user;
}

void qpi_run_observed(void (*run)(const qp_call *call), const qp_call *call) {
    double start = qpi_now();
    run(call);
    call->ctx->observer(call->ctx->observer_user, call, qpi_now() - start);
}
