/* Words that were encoded before, with their ids: text repeats itself. Small words of few tokens, one place for
 * each hash. */
#ifndef QUIPU_DATA_WORD_CACHE_H
#define QUIPU_DATA_WORD_CACHE_H

#include <stdint.h>
#include <string.h>

#define QPI_CACHE_BITS 15
#define QPI_CACHE_WORD 16 /* most bytes of a word that is remembered */
#define QPI_CACHE_IDS 3   /* and most of its tokens */

typedef struct {
    uint64_t head, tail; /* the word's bytes */
    int32_t  ids[QPI_CACHE_IDS];
    uint8_t  size, count; /* size 0: empty */
} qpi_known_word;

typedef struct {
    qpi_known_word words[1 << QPI_CACHE_BITS];
} qpi_word_cache;

static inline uint64_t qpi_load_bytes(const uint8_t *p, size_t bytes) {
    uint64_t x = 0;
    memcpy(&x, p, bytes);
    return x;
}

/* The place of a word of 1 to 16 bytes; its bytes as two numbers that with its size determine it. */
static inline qpi_known_word *qpi_cached(qpi_word_cache *c, const uint8_t *p, size_t n, uint64_t *head,
                                         uint64_t *tail) {
    if (n >= 8) *head = qpi_load_bytes(p, 8), *tail = qpi_load_bytes(p + n - 8, 8);
    else if (n >= 4) *head = qpi_load_bytes(p, 4), *tail = qpi_load_bytes(p + n - 4, 4);
    else *head = (uint64_t)p[0] | (uint64_t)p[n / 2] << 8, *tail = p[n - 1];
    uint64_t hash = (*head ^ (*tail << 29 | *tail >> 35) ^ (uint64_t)n << 59) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
    return &c->words[hash >> (64 - QPI_CACHE_BITS)];
}

#endif
