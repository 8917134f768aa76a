/* What is put around one text, or two: the post-processors of tokenizer.json. */
#ifndef QUIPU_DATA_AROUND_H
#define QUIPU_DATA_AROUND_H

#include "data/component.h"

typedef struct {
    int     text; /* 1: the first text, 2: the second, 0: a token */
    int32_t id;   /* of the token */
    int32_t type; /* what tells an encoder the texts apart */
} qpi_around_item;

typedef struct {
    qpi_around_item *items;
    size_t           count, capacity;
} qpi_around;

/* Adds n items. */
bool qpi_around_add(qpi_around *t, const qpi_around_item *items, size_t n, qpi_error *e);

/* Reads a component into templates for one text and for two. `pair` stays empty if the file has none for two. */
bool qpi_around_read(qpi_around *single, qpi_around *pair, const qpi_json *at);
/* Where the file has no component that puts anything around texts. */
bool qpi_around_default(qpi_around *single, qpi_around *pair, qpi_error *e);
void qpi_around_free(qpi_around *t);

#endif
