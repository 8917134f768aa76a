#define _POSIX_C_SOURCE 200809L
#include "format/names.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/buffer.h"
#include "format/checksum.h"

typedef struct qpi_name {
    const char *text;
    uint32_t    size, value;
} item;

uint64_t qpi_hash_seed(const void *salt) {
    struct timespec t = {0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t parts[3] = {(uint64_t)(uintptr_t)salt, (uint64_t)(uintptr_t)&t,
                         (uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 30};
    return qpi_checksum_of(0, parts, sizeof parts);
}

/* The slot that holds the text, or the empty one where it belongs. */
static uint64_t *find(const qpi_names *t, const char *text, size_t n, uint64_t hash) {
    size_t mask = t->slot_count - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        uint64_t slot = t->slots[i];
        if (!slot) return &t->slots[i];
        const item *it = &t->items[(uint32_t)slot - 1];
        if (slot >> 32 == hash >> 32 && it->size == n && memcmp(it->text, text, n) == 0) return &t->slots[i];
    }
}

uint32_t qpi_names_find(const qpi_names *t, const char *text, size_t n) {
    if (!t->count || n >= UINT32_MAX) return QPI_NO_NAME;
    uint64_t slot = *find(t, text, n, qpi_checksum_of(t->seed, text, n));
    return slot ? t->items[(uint32_t)slot - 1].value : QPI_NO_NAME;
}

/* Twice as many slots, of which no more than half are used. Numbers of items have 32 bits. */
static bool grow(qpi_names *t) {
    size_t    slots = t->slot_count ? 2 * t->slot_count : 16;
    uint64_t *fresh = t->count < UINT32_MAX / 2 ? calloc(slots, sizeof *fresh) : NULL;
    if (!fresh) return false;
    free(t->slots);
    t->slots = fresh;
    t->slot_count = slots;
    if (!t->seed) t->seed = qpi_hash_seed(t) | 1;
    for (size_t i = 0; i < t->count; i++) {
        uint64_t hash = qpi_checksum_of(t->seed, t->items[i].text, t->items[i].size);
        *find(t, t->items[i].text, t->items[i].size, hash) = hash >> 32 << 32 | (i + 1);
    }
    return true;
}

bool qpi_names_add(qpi_names *t, const char *text, size_t n, uint32_t value, uint32_t *before) {
    if (n >= UINT32_MAX || (t->count >= t->slot_count / 2 && !grow(t))) return false;
    uint64_t  hash = qpi_checksum_of(t->seed, text, n);
    uint64_t *slot = find(t, text, n, hash);
    *before = *slot ? t->items[(uint32_t)*slot - 1].value : QPI_NO_NAME;
    if (*slot) return true;
    item *items = qpi_grown(t->items, &t->capacity, t->count + 1, sizeof *items);
    if (!items) return false;
    t->items = items;
    items[t->count] = (item){text, (uint32_t)n, value};
    *slot = hash >> 32 << 32 | ++t->count;
    return true;
}

void qpi_names_replace(qpi_names *t, const char *text, size_t n, uint32_t value) {
    if (!t->count || n >= UINT32_MAX) return;
    uint64_t slot = *find(t, text, n, qpi_checksum_of(t->seed, text, n));
    if (slot) t->items[(uint32_t)slot - 1].value = value;
}

void qpi_names_free(qpi_names *t) {
    free(t->items);
    free(t->slots);
    *t = (qpi_names){0};
}
