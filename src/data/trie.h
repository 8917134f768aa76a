/* A set of texts with numbers, for all the prefixes of a text that are in the set. Never changes once made. */
#ifndef QUIPU_DATA_TRIE_H
#define QUIPU_DATA_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t *first;     /* node -> its first child; children stand in order of their bytes */
    uint8_t  *byte;      /* that leads to the node */
    int32_t  *value;     /* of the text that ends here; -1: none */
    uint32_t  root[256]; /* children of the root, 0: none */
    size_t    count;
} qpi_trie;

typedef struct {
    const char *text;
    size_t      size;
    int32_t     value;
} qpi_trie_text;

/* Sorts the texts, which must differ and not be empty. Their length bounds the time at each place of a text, so
 * whoever takes them from a file sets a limit. False without memory. */
bool qpi_trie_make(qpi_trie *t, qpi_trie_text *texts, size_t n);
void qpi_trie_free(qpi_trie *t);

/* The node behind another (0: the root) for a byte; 0: there is none. */
static inline uint32_t qpi_trie_step(const qpi_trie *t, uint32_t at, uint8_t byte) {
    if (at == 0) return t->root[byte];
    uint32_t low = t->first[at], high = t->first[at + 1];
    while (high - low > 8) {
        uint32_t middle = low + (high - low) / 2;
        if (t->byte[middle] <= byte) low = middle;
        else high = middle;
    }
    for (; low < high; low++)
        if (t->byte[low] == byte) return low;
    return 0;
}

#endif
