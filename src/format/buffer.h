/* Growing memory: arrays, bytes, and an arena for many small things freed together. */
#ifndef QUIPU_FORMAT_BUFFER_H
#define QUIPU_FORMAT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* items with room for `need` of `bytes` each, *capacity updated; NULL (items still valid) when
 * memory or the size's range is exhausted:
 *     T *p = qpi_grown(v->items, &v->capacity, v->count + 1, sizeof *p);
 *     if (!p) return false;
 *     v->items = p; */
void *qpi_grown(void *items, size_t *capacity, size_t need, size_t bytes);

/* failed: some call had no memory, even if later ones had. So a row of puts is checked once. */
typedef struct {
    char  *data;
    size_t count, capacity;
    bool   failed;
} qpi_buffer;

bool qpi_buffer_reserve(qpi_buffer *b, size_t more);
bool qpi_buffer_put(qpi_buffer *b, const void *data, size_t n);
bool qpi_put_text(qpi_buffer *b, const char *text);
void qpi_buffer_free(qpi_buffer *b);

typedef struct {
    struct qpi_arena_block *blocks;
    size_t                  used; /* of the first block */
} qpi_arena;

/* 8-byte aligned, NULL when there is no memory; all of it is freed by qpi_arena_free. */
void *qpi_arena_take(qpi_arena *a, size_t bytes);
char *qpi_arena_text(qpi_arena *a, const char *text, size_t n); /* a copy, 0 behind it */
void qpi_arena_free(qpi_arena *a);

#endif
