/* Columns of a product shared out to threads: each takes its own part from the front, so that what it
 * fetches ahead is its own; who is done helps the others. */
#ifndef QUIPU_KERNELS_SHARE_H
#define QUIPU_KERNELS_SHARE_H

#include <stdatomic.h>

#include "core/order.h"
#include "kernels/gemm_sizes.h"

typedef struct {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
} share;

_Static_assert(sizeof(share) == SHARE_FLOATS * sizeof(float), "room for shares");
#define SHARE_BYTES 16384 /* of weights worth a thread, for a tile of rows */
#define FETCH_BYTES 12288 /* ahead: less comes too late */

/* How many of at most `threads` parts n columns are worth, `unit` at a time; `bytes` are read in all. */
static inline int share_out(share *all, int threads, int64_t n, int64_t unit, int64_t bytes) {
    int64_t units = gemm_parts(n, unit);
    int     count = (int)gemm_max(1, gemm_min(threads, gemm_min(units, bytes / SHARE_BYTES)));
    for (int i = 0; i < count; i++) {
        atomic_init(&all[i].next, units * i / count * unit);
        all[i].end = gemm_min(n, units * (i + 1) / count * unit);
    }
    return count;
}

/* The next columns for who began with part `own`: their first, -1 when none are left. */
static inline int64_t share_take(share *all, int count, int64_t own, int64_t unit) {
    for (int i = 0; i < count; i++) {
        share  *s = &all[(own + i) % count];
        int64_t j = atomic_load_explicit(&s->next, memory_order_relaxed);
        if (j < s->end && (j = atomic_fetch_add_explicit(&s->next, unit, memory_order_relaxed)) < s->end)
            return j;
    }
    return -1;
}

/* What to fetch while `unit` of n columns are read from j on, which lie `line` bytes apart from `data` on: columns some
 * way on, or, behind the end of their part, the same part of what is read after them all. Parts are computed: a look at
 * another thread's would wait for it. */
static inline const char *share_ahead(int count, int64_t n, int64_t j, int64_t unit, const char *data,
                                      int64_t line, qpi_region next) {
    int64_t units = gemm_parts(n, unit), part = ((j / unit + 1) * count - 1) / units;
    int64_t end = gemm_min(n, units * (part + 1) / count * unit);
    int64_t to = j + gemm_parts(FETCH_BYTES, gemm_max(1, unit * line)) * unit;
    if (!next.data || to < end) return data + to * line;
    return next.data + next.bytes * part / count + (to - end) * line;
}

#endif
