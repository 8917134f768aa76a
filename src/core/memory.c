/* The context's heap: two-level segregated fit (Masmano et al. 2004) over segments from the
 * system. Bins are fine, so allocation and release take a few steps; neighbours merge;
 * segments stay until the context closes (or its cap wants their room), so after the first
 * steps a training loop asks the system for nothing.
 *
 * Under AddressSanitizer free payloads are poisoned and each block ends in a poisoned zone,
 * so that kernels are watched as if each tensor came from malloc. */
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/core.h"
#include "core/watched.h"

#define ZONE (QPI_WATCHED ? 64u : 0u)
#define ALIGN 64u
#define SL_BITS 4
#define SL_COUNT (1 << SL_BITS)
#define FL_COUNT 48

typedef struct block {
    struct block *before; /* physical neighbour, NULL at a segment's start */
    size_t        size;   /* payload bytes, a multiple of ALIGN */
    bool          free, last;
    struct block *next, *prev; /* in its free list */
} block;

typedef struct segment {
    struct segment *next;
    size_t          bytes;
} segment;

_Static_assert(sizeof(block) <= ALIGN && sizeof(segment) <= ALIGN, "headers fill one line");

struct qpi_heap {
    segment *segments;
    block   *bins[FL_COUNT][SL_COUNT];
    uint64_t fl_map;
    uint32_t sl_map[FL_COUNT];
    size_t   used, peak, reserved, cap;
    uint64_t system_calls;
};

static void *payload(block *b) { return (char *)b + ALIGN; }
static block *header(void *p) { return (block *)((char *)p - ALIGN); }
static block *after(block *b) { return b->last ? NULL : (block *)((char *)payload(b) + b->size); }

static int high_bit(size_t x) { return 63 - __builtin_clzll((unsigned long long)x); }

static void bin_of(size_t size, int *fl, int *sl) {
    size_t units = size / ALIGN;
    if (units < SL_COUNT) {
        *fl = 0;
        *sl = (int)units;
    } else {
        int h = high_bit(units);
        *fl = h - SL_BITS + 1;
        *sl = (int)(units >> (h - SL_BITS)) & (SL_COUNT - 1);
    }
}

static void bin_insert(qpi_heap *h, block *b) {
    int fl, sl;
    bin_of(b->size, &fl, &sl);
    b->free = true;
    b->prev = NULL;
    b->next = h->bins[fl][sl];
    if (b->next) b->next->prev = b;
    h->bins[fl][sl] = b;
    h->fl_map |= 1ull << fl;
    h->sl_map[fl] |= 1u << sl;
}

static void bin_remove(qpi_heap *h, block *b) {
    int fl, sl;
    bin_of(b->size, &fl, &sl);
    if (b->prev) b->prev->next = b->next;
    else h->bins[fl][sl] = b->next;
    if (b->next) b->next->prev = b->prev;
    if (!h->bins[fl][sl] && !(h->sl_map[fl] &= ~(1u << sl))) h->fl_map &= ~(1ull << fl);
    b->free = false;
}

/* The first that fits in size's own bin, otherwise any block of a higher one. */
static block *find(qpi_heap *h, size_t size) {
    int fl, sl;
    bin_of(size, &fl, &sl);
    for (block *b = h->bins[fl][sl]; b; b = b->next)
        if (b->size >= size) return b;
    uint32_t low = sl + 1 < SL_COUNT ? h->sl_map[fl] & (~0u << (sl + 1)) : 0;
    if (!low) {
        uint64_t high = fl + 1 < 64 ? h->fl_map & (~0ull << (fl + 1)) : 0;
        if (!high) return NULL;
        fl = __builtin_ctzll(high);
        low = h->sl_map[fl];
    }
    return h->bins[fl][__builtin_ctz(low)];
}

static bool grow(qpi_heap *h, size_t size) {
    size_t want = h->reserved / 4;
    if (want < (256u << 10)) want = 256u << 10;
    if (want > (64u << 20)) want = 64u << 20;
    if (want < size) want = size;
    size_t page = want >= (4u << 20) ? 2u << 20 : 4096u;
    size_t bytes = (want + 2 * ALIGN + page - 1) & ~(page - 1);
    if (h->cap && bytes > h->cap - h->reserved) {
        bytes = (size + 2 * ALIGN + 4095) & ~(size_t)4095;
        page = 4096;
        if (h->reserved > h->cap || bytes > h->cap - h->reserved) return false;
    }
    segment *s = aligned_alloc(page, bytes);
    if (!s) return false;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (page > 4096) madvise(s, bytes, MADV_HUGEPAGE);
#endif
    s->next = h->segments;
    s->bytes = bytes;
    h->segments = s;
    h->reserved += bytes;
    h->system_calls++;
    block *b = (block *)((char *)s + ALIGN);
    *b = (block){.size = bytes - 2 * ALIGN, .last = true};
    bin_insert(h, b);
    qpi_watch(payload(b), 0, b->size);
    return true;
}

/* Gives segments without a block in use back to the system; false if there were none. */
static bool trim(qpi_heap *h) {
    size_t before = h->reserved;
    for (segment **at = &h->segments, *s; (s = *at);) {
        block *b = (block *)((char *)s + ALIGN);
        if (!b->free || !b->last) {
            at = &s->next;
            continue;
        }
        bin_remove(h, b);
        *at = s->next;
        h->reserved -= s->bytes;
        free(s);
    }
    return h->reserved < before;
}

qpi_heap *qpi_heap_new(size_t cap) {
    qpi_heap *h = calloc(1, sizeof *h);
    if (h) h->cap = cap;
    return h;
}

void qpi_heap_free(qpi_heap *h) {
    if (!h) return;
    for (segment *s = h->segments, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    free(h);
}

void qpi_heap_stats(const qpi_heap *h, qp_stats *out) {
    out->bytes = h->used;
    out->peak_bytes = h->peak;
    out->reserved_bytes = h->reserved;
    out->system_calls = h->system_calls;
}

void qpi_heap_reset_peak(qpi_heap *h) { h->peak = h->used; }

static void split(qpi_heap *h, block *b, size_t size) {
    if (b->size < size + 2 * ALIGN) return;
    block *rest = (block *)((char *)payload(b) + size);
    qpi_watch(rest, sizeof *rest, sizeof *rest);
    *rest = (block){.before = b, .size = b->size - size - ALIGN, .last = b->last};
    b->size = size;
    b->last = false;
    if (after(rest)) after(rest)->before = rest;
    bin_insert(h, rest);
}

void *qpi_alloc(qp_ctx *ctx, size_t bytes) {
    qpi_heap *h = ctx->heap;
    size_t    size = bytes < ALIGN ? ALIGN + ZONE : (bytes + ZONE + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    block    *b = NULL;
    if ((uint64_t)bytes < UINT64_C(1) << 46) {
        b = find(h, size);
        if (!b && (grow(h, size) || (trim(h) && grow(h, size)))) b = find(h, size);
    }
    if (!b) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %zu bytes wanted, %zu in use%s", bytes, h->used,
                h->cap ? " (the context has a memory cap)" : "");
        return NULL;
    }
    bin_remove(h, b);
    split(h, b, size);
    h->used += b->size;
    if (h->used > h->peak) h->peak = h->used;
    qpi_watch(payload(b), bytes, bytes);
    return payload(b);
}

/* Small pages: what is resident is what was used. */
static void *pages(size_t bytes) {
#if defined(__linux__)
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
#if defined(MADV_NOHUGEPAGE)
    madvise(p, bytes, MADV_NOHUGEPAGE);
#endif
    return p;
#else
    return calloc(1, bytes);
#endif
}

static void release_pages(void *p, size_t bytes) {
#if defined(__linux__)
    munmap(p, bytes);
#else
    (void)bytes;
    free(p);
#endif
}

void *qpi_map(qp_ctx *ctx, size_t bytes) {
    qpi_heap *h = ctx->heap;
    size_t    size = bytes ? bytes : 1;
    bool      fits = (uint64_t)bytes < UINT64_C(1) << 46;
    if (fits && h->cap && (h->reserved > h->cap || size > h->cap - h->reserved)) trim(h);
    fits = fits && (!h->cap || (h->reserved <= h->cap && size <= h->cap - h->reserved));
    void *p = fits ? pages(size) : NULL;
    if (!p) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %zu bytes wanted, %zu in use%s", bytes, h->used,
                h->cap ? " (the context has a memory cap)" : "");
        return NULL;
    }
    h->used += size;
    h->reserved += size;
    h->system_calls++;
    if (h->used > h->peak) h->peak = h->used;
    return p;
}

void qpi_unmap(qp_ctx *ctx, void *p, size_t bytes) {
    size_t size = bytes ? bytes : 1;
    ctx->heap->used -= size;
    ctx->heap->reserved -= size;
    release_pages(p, size);
}

void qpi_free(qp_ctx *ctx, void *p) {
    if (!p) return;
    qpi_heap *h = ctx->heap;
    block    *b = header(p), *n = after(b);
    h->used -= b->size;
    if (n && n->free) {
        bin_remove(h, n);
        b->size += n->size + ALIGN;
        b->last = n->last;
    }
    if (b->before && b->before->free) {
        block *m = b->before;
        bin_remove(h, m);
        m->size += b->size + ALIGN;
        m->last = b->last;
        b = m;
    }
    if (after(b)) after(b)->before = b;
    bin_insert(h, b);
    qpi_watch(payload(b), 0, b->size);
}
