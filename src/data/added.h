/* Added tokens: texts that are one token wherever they stand. */
#ifndef QUIPU_DATA_ADDED_H
#define QUIPU_DATA_ADDED_H

#include "core/error.h"
#include "data/trie.h"

typedef struct {
    const char *text;
    size_t      size;
    int32_t     id;
    bool        special, normalized, single_word, strip_left, strip_right;
} qpi_added;

/* Finds the leftmost and there the longest of a set of texts. */
typedef struct {
    qpi_trie trie; /* values are places in the list of added tokens */
    bool     any;
    int      only; /* the one byte that they begin with, -1: there are several */
} qpi_matcher;

#define QPI_ADDED_LONGEST 512 /* bytes of one text: bounds the time at each place */

/* Of a list's tokens those that are normalized, or those that are not. Where two have the same text the first
 * counts. */
bool qpi_matcher_make(qpi_matcher *m, const qpi_added *list, size_t n, bool normalized, qpi_error *e);
/* The next text at or after `from`; false if there is none. */
bool qpi_matcher_next(const qpi_matcher *m, const uint8_t *text, size_t n, size_t from, size_t *begin,
                      size_t *end, uint32_t *value);
void qpi_matcher_free(qpi_matcher *m);

#endif
