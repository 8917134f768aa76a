/* The tokens of a tokenizer, by id and by text. */
#ifndef QUIPU_DATA_VOCAB_H
#define QUIPU_DATA_VOCAB_H

#include "core/error.h"
#include "format/buffer.h"
#include "format/names.h"

#define QPI_NO_TOKEN (-1)

enum {
    QPI_TOKEN_MODEL = 1,   /* in the model's own vocabulary */
    QPI_TOKEN_ADDED = 2,   /* matched in the text as it stands */
    QPI_TOKEN_SPECIAL = 4, /* added, and left out of decoded text on demand */
    QPI_TOKEN_AGAIN = 8,   /* to qpi_vocab_add: a text may come twice; the last id is found by it */
};

typedef struct {
    const char *text;  /* as files write it; NULL: no token has this id */
    const char *bytes; /* what it decodes to */
    uint32_t    text_size, bytes_size;
    uint32_t    flags;
} qpi_token;

typedef struct {
    qpi_arena  arena;
    qpi_token *tokens;
    size_t     size, capacity; /* ids lie below size */
    int64_t    id_limit;       /* what size may grow to: a table must not outgrow the file that
                                  asks for it */
    size_t     count;          /* tokens there are */
    qpi_names  by_text;
} qpi_vocab;

/* Adds a token; ids may come in any order. Errors: FORMAT (text or id twice, id not below
 * id_limit), named with `who`. */
bool qpi_vocab_add(qpi_vocab *v, const char *who, const char *text, size_t n, int64_t id, uint32_t flags,
                   qpi_error *e);
int32_t qpi_vocab_find(const qpi_vocab *v, const char *text, size_t n); /* QPI_NO_TOKEN if absent */
const qpi_token *qpi_vocab_at(const qpi_vocab *v, int64_t id);          /* NULL if absent */

/* Sets what a token decodes to: its text itself, or the bytes that a byte-level text stands
 * for. */
void qpi_vocab_set_plain(qpi_vocab *v, int32_t id);
bool qpi_vocab_set_byte_level(qpi_vocab *v, int32_t id, qpi_error *e);
void qpi_vocab_free(qpi_vocab *v);

/* The byte-level alphabet of GPT-2: printable Latin-1 bytes stand for themselves, the others
 * for U+0100 and on. */
uint32_t qpi_byte_to_code(uint8_t byte);
int qpi_code_to_byte(uint32_t code); /* -1: stands for none */

/* Appends the byte-level text of some bytes. */
bool qpi_byte_level(qpi_buffer *out, const uint8_t *bytes, size_t n);

#endif
