/* Columns of products with the same rows shared out to threads: each takes its own part from the front, so that what it
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

/* The columns of all matrices one behind the other, each matrix from a multiple of `unit` on; columns lie `line` bytes
 * apart. */
typedef struct {
    const char *data[QK_GEMM_MANY];
    int64_t     start[QK_GEMM_MANY], end; /* end: of all */
    int64_t     line, unit;
    int         count;
} share_columns;

static inline void share_add(share_columns *c, const void *data, int64_t n) {
    c->data[c->count] = data;
    c->start[c->count++] = c->end;
    c->end += gemm_parts(n, c->unit) * c->unit;
}

/* The matrix that column j is of. */
static inline int share_matrix(const share_columns *c, int64_t j) {
    int i = c->count - 1;
    while (i > 0 && j < c->start[i]) i--;
    return i;
}

static inline const char *share_at(const share_columns *c, int64_t j) {
    int i = share_matrix(c, j);
    return c->data[i] + (j - c->start[i]) * c->line;
}

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

typedef struct {
    int64_t j;    /* the first column */
    int64_t end;  /* of the part that it is of, */
    int     part; /* this one */
} share_piece;

/* The next columns for who began with part `own`; false when none are left. */
static inline bool share_take(share *all, int count, int own, int64_t unit, share_piece *p) {
    for (int i = 0; i < count; i++) {
        int     part = own + i < count ? own + i : own + i - count;
        share  *s = &all[part];
        int64_t j = atomic_load_explicit(&s->next, memory_order_relaxed);
        if (j >= s->end || (j = atomic_fetch_add_explicit(&s->next, unit, memory_order_relaxed)) >= s->end)
            continue;
        *p = (share_piece){j, s->end, part};
        return true;
    }
    return false;
}

/* What is fetched while columns are read: those so many ahead, and what is read after them all. */
typedef struct {
    int64_t    ahead;
    qpi_region next;
    int        count; /* of parts */
} share_fetch;

static inline share_fetch share_fetch_of(const share_columns *c, qpi_region next, int count) {
    int64_t units = gemm_parts(FETCH_BYTES, gemm_max(1, c->unit * c->line));
    return (share_fetch){units * c->unit, next, count};
}

/* Where a part of a region begins. */
static inline const char *share_part_of(const qpi_region *r, int part, int count) {
    int64_t all = 0, at;
    int     i = 0;
    for (int k = 0; k < QPI_SPANS; k++) all += r->bytes[k];
    for (at = all * part / count; i < QPI_SPANS - 1 && at >= r->bytes[i] && r->bytes[i + 1]; i++)
        at -= r->bytes[i];
    return r->data[i] + at;
}

/* For column j of piece p: columns some way on, or, behind the end of their part, the same part of what is next. */
static inline const char *share_ahead(const share_fetch *f, const share_columns *c, const share_piece *p,
                                      int64_t j) {
    int64_t to = j + f->ahead;
    if (!f->next.data[0] || to < p->end) return share_at(c, to);
    return share_part_of(&f->next, p->part, f->count) + (to - p->end) * c->line;
}

#endif
