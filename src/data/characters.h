/* A table from code points to tokens: pages of 64, of which only those with tokens are there. */
#ifndef QUIPU_DATA_CHARACTERS_H
#define QUIPU_DATA_CHARACTERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define QPI_CHARACTER_PAGES (0x110000 / 64)

typedef struct {
    int32_t *pages[QPI_CHARACTER_PAGES];
} qpi_character_table;

typedef struct {
    qpi_character_table *table; /* NULL: empty */
} qpi_characters;

static inline int32_t qpi_characters_get(const qpi_characters *c, uint32_t code) {
    const int32_t *page = c->table && code < 0x110000 ? c->table->pages[code / 64] : NULL;
    return page ? page[code % 64] - 1 : -1;
}

static inline bool qpi_characters_set(qpi_characters *c, uint32_t code, int32_t id) {
    if (!c->table && !(c->table = calloc(1, sizeof *c->table))) return false;
    int32_t **page = &c->table->pages[code / 64];
    if (!*page && !(*page = calloc(64, sizeof **page))) return false;
    (*page)[code % 64] = id + 1; /* 0: none */
    return true;
}

static inline void qpi_characters_free(qpi_characters *c) {
    for (int i = 0; c->table && i < QPI_CHARACTER_PAGES; i++) free(c->table->pages[i]);
    free(c->table);
    c->table = NULL;
}

#endif
