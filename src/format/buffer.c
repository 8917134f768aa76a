#include "format/buffer.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)64 << 10)

typedef struct qpi_arena_block {
    struct qpi_arena_block *next;
    size_t                  capacity;
    char                    data[];
} block;

void *qpi_grown(void *items, size_t *capacity, size_t need, size_t bytes) {
    if (items && need <= *capacity) return items;
    size_t target = *capacity + *capacity / 2;
    if (target < need) target = need;
    if (target < 16) target = 16;
    if (target > PTRDIFF_MAX / bytes) return NULL;
    void *p = realloc(items, target * bytes);
    if (p) *capacity = target;
    return p;
}

bool qpi_buffer_reserve(qpi_buffer *b, size_t more) {
    char *p = more > PTRDIFF_MAX - b->count ? NULL : qpi_grown(b->data, &b->capacity, b->count + more, 1);
    if (p) b->data = p;
    else b->failed = true;
    return p;
}

bool qpi_buffer_put(qpi_buffer *b, const void *data, size_t n) {
    if (!qpi_buffer_reserve(b, n)) return false;
    if (n) memcpy(b->data + b->count, data, n);
    b->count += n;
    return true;
}

bool qpi_put_text(qpi_buffer *b, const char *text) { return qpi_buffer_put(b, text, strlen(text)); }

void qpi_buffer_free(qpi_buffer *b) {
    free(b->data);
    *b = (qpi_buffer){0};
}

void *qpi_arena_take(qpi_arena *a, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return NULL;
    bytes = (bytes + 7) & ~(size_t)7;
    if (!a->blocks || a->blocks->capacity - a->used < bytes) {
        size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block *b = malloc(sizeof *b + capacity);
        if (!b) return NULL;
        *b = (block){.next = a->blocks, .capacity = capacity};
        a->blocks = b;
        a->used = 0;
    }
    void *p = a->blocks->data + a->used;
    a->used += bytes;
    return p;
}

char *qpi_arena_text(qpi_arena *a, const char *text, size_t n) {
    char *p = n < PTRDIFF_MAX / 2 ? qpi_arena_take(a, n + 1) : NULL;
    if (!p) return NULL;
    if (n) memcpy(p, text, n);
    p[n] = 0;
    return p;
}

void qpi_arena_free(qpi_arena *a) {
    for (block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (qpi_arena){0};
}
