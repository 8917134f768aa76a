/* Ids back to text: a chain of stages, each a token's text to another; behind one that joins all tokens the text is
 * a single token. Where a stage of `tokenizers` would put U+FFFD for bytes that are no UTF-8, the bytes stay. */
#ifndef QUIPU_DATA_DECODER_H
#define QUIPU_DATA_DECODER_H

#include "data/component.h"
#include "quipu/data.h"

typedef struct { /* a token on its way */
    const char *text;
    size_t      size;
    int64_t     index; /* 0: the first one */
    bool        last;
} qpi_spoken;

struct qpi_decode_type;

typedef struct {
    const struct qpi_decode_type *type;
    /* What a type needs; the others are zero. */
    char             *text, *pattern, *pad, *delimiter;
    size_t            text_size, pattern_size, pad_size, delimiter_size;
    struct qpi_regex *regex;
    bool              cleanup, keep; /* keep: Metaspace leaves the first token's marks */
    int64_t           start, stop;
} qpi_decode_stage;

/* Adding a decoder: a reader and an apply function in decoders.c and an entry in the table there. */
typedef struct qpi_decode_type {
    const char *name;
    bool        joins, needs_last;
    bool        drops; /* a token that becomes nothing is no longer one */
    bool (*read)(qpi_decode_stage *s, const qpi_json *at);
    /* Appends what the token becomes. out->failed without memory; what else goes wrong is stored in *e. */
    void (*apply)(const qpi_decode_stage *s, qpi_spoken token, qpi_buffer *out, qpi_error *e);
} qpi_decode_type;

typedef struct {
    qpi_decode_stage stages[QPI_MAX_COMPONENTS];
    int              count;
    int              joined;     /* stages up to the first that joins; count if none does */
    int              strip;      /* a Strip behind it that can be done as text comes; -1: there is none */
    bool             bytes;      /* ByteLevel alone: a token's bytes are known beforehand */
    bool             none;       /* no decoder: tokens with spaces between them */
    bool             needs_last; /* a stage asks whether a token is the last */
    bool             whole;      /* stages behind the join need all of the text */
    bool             distinct;   /* CTC: a token that repeats the one before is left out */
} qpi_decoder;

bool qpi_decoder_read(qpi_decoder *d, const qpi_json *at); /* adds stages */
void qpi_decoder_finish(qpi_decoder *d);                   /* after the last */
void qpi_decoder_free(qpi_decoder *d);

#endif
