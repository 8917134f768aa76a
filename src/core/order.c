/* The order of reading, learnt: for each region the one that came after it. */
#include "core/order.h"

#include <stdlib.h>

#include "core/core.h"

#define PLACES 2048 /* of regions; the largest models have about a thousand matrices */
#define TRIES 4     /* places that a region may have */

typedef struct {
    const char *data;
    qpi_region  next;
    bool        again; /* it was so the time before, too */
} entry;

struct qpi_order {
    entry  entries[PLACES];
    entry *last;
};

static bool same(const qpi_region *a, const qpi_region *b) {
    bool yes = true;
    for (int i = 0; i < QPI_SPANS; i++) yes = yes && a->data[i] == b->data[i] && a->bytes[i] == b->bytes[i];
    return yes;
}

static entry *entry_of(qpi_order *o, const char *data) {
    uint64_t place = (uint64_t)(uintptr_t)data / 64 * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    for (uint64_t i = 0; i < TRIES; i++) {
        entry *e = &o->entries[(place + i) % PLACES];
        if (e->data == data) return e;
        if (e->data) continue;
        e->data = data;
        return e;
    }
    entry *e = &o->entries[place % PLACES];
    *e = (entry){.data = data};
    return e;
}

qpi_region qpi_order_next(qp_ctx *ctx, qpi_region now) {
    if (!ctx->order) ctx->order = calloc(1, sizeof *ctx->order);
    qpi_order *o = ctx->order;
    if (!o) return (qpi_region){0}; /* it only makes reading faster */
    if (o->last) {
        o->last->again = same(&o->last->next, &now);
        o->last->next = now;
    }
    o->last = entry_of(o, now.data[0]);
    return o->last->again ? o->last->next : (qpi_region){0};
}
