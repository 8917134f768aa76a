#define _GNU_SOURCE /* sched_getaffinity */
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "core/core.h"
#include "core/handles.h"

struct qpi_owned {
    qpi_owned *next, **link; /* link: what points here */
    void (*destroy)(void *thing);
    void *thing;
};

static int processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return 1;
}

const char *qp_version(void) { return QP_VERSION; }

qp_ctx *qp_open(qp_options options) {
    qp_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx) return NULL;
    qp_isa best = qpi_cpu_isa();
    if (options.isa == QP_ISA_BEST || options.isa > best) options.isa = best;
    if (options.threads <= 0) options.threads = processors();
    ctx->options = options;
    ctx->seed = options.seed;
    ctx->device = &qpi_cpu;
    ctx->free_slot = QPI_NO_INDEX;
    ctx->pool_shared = options.share_threads != NULL;
    ctx->pool = options.share_threads ? options.share_threads->pool : qpi_pool_new(options.threads);
    ctx->heap = qpi_heap_new(options.memory_cap);
    if (!ctx->heap || !ctx->pool) {
        qp_close(ctx);
        return NULL;
    }
    ctx->exec = (qp_exec){.pool = ctx->pool, .threads = qpi_pool_threads(ctx->pool)};
    return ctx;
}

void qp_close(qp_ctx *ctx) {
    if (!ctx) return;
    while (ctx->owned) {
        qpi_owned o = *ctx->owned;
        qpi_disown(ctx->owned);
        o.destroy(o.thing);
    }
    if (ctx->heap) qpi_handles_close(ctx);
    if (!ctx->pool_shared) qpi_pool_free(ctx->pool);
    qpi_heap_free(ctx->heap);
    free(ctx->order);
    free(ctx);
}

qpi_owned *qpi_own(qp_ctx *ctx, void *thing, void (*destroy)(void *)) {
    qpi_owned *o = ctx ? malloc(sizeof *o) : NULL;
    if (!o) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory");
        return NULL;
    }
    *o = (qpi_owned){.next = ctx->owned, .link = &ctx->owned, .destroy = destroy, .thing = thing};
    if (o->next) o->next->link = &o->next;
    ctx->owned = o;
    return o;
}

void qpi_disown(qpi_owned *o) {
    if (!o) return;
    *o->link = o->next;
    if (o->next) o->next->link = o->link;
    free(o);
}

qp_stats qp_stats_of(const qp_ctx *ctx) {
    if (!ctx) return (qp_stats){0};
    qp_stats s = {.threads = ctx->exec.threads, .isa = ctx->options.isa};
    qpi_heap_stats(ctx->heap, &s);
    return s;
}

void qp_reset_peak(qp_ctx *ctx) {
    if (ctx) qpi_heap_reset_peak(ctx->heap);
}
