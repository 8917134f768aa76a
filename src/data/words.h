/* Counting the distinct words of a text, which is all that training sees of it. */
#ifndef QUIPU_DATA_WORDS_H
#define QUIPU_DATA_WORDS_H

#include "data/documents.h"
#include "data/pretokenize.h"
#include "format/buffer.h"
#include "quipu/op.h"

typedef struct {
    const uint8_t *text;
    uint32_t       size, hash;
    int64_t        count;
} qpi_word;

typedef struct {
    qpi_arena arena;
    qpi_word *items;
    uint32_t *slots; /* item + 1, 0: empty */
    size_t    count, capacity, slot_count;
    uint64_t  seed;
} qpi_words;

/* Adds the words of some documents, with the threads of exec. */
bool qpi_words_count(qpi_words *w, const qpi_pretokenizer *p, const qp_exec *exec,
                     const qpi_document *documents, size_t n, qpi_error *e);
void qpi_words_free(qpi_words *w);

#endif
