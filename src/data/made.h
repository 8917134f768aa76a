/* Tokenizers from files other than tokenizer.json: put together from the same components, so that they save and
 * behave like one. */
#ifndef QUIPU_DATA_MADE_H
#define QUIPU_DATA_MADE_H

#include "data/tokenizer.h"
#include "quipu/format.h"

/* As SentencePiece and GGUF number them. */
typedef enum { QPI_NORMAL = 1, QPI_UNKNOWN, QPI_SPECIAL, QPI_USER, QPI_UNUSED, QPI_BYTE } qpi_piece_type;

typedef struct {
    qp_tokenizer     *t;
    qpi_model_options options;
    qpi_buffer        json; /* of the part at hand */
    const char       *name; /* of the file */
    qpi_error        *error;
    uint8_t          *types; /* by id */
    size_t            type_capacity;
    /* What the file says of SentencePiece's ways. */
    bool           prefix_space, single_spaces, byte_fallback;
    const uint8_t *charsmap;
    size_t         charsmap_size;
    int64_t        begin, end; /* tokens put around a text, -1: none */
} qpi_made;

/* Room for `count` tokens; false after storing an error. */
bool qpi_made_start(qpi_made *m, const char *name, const qpi_tokenizer_kind *kind, size_t count, qpi_error *e);
/* The next token, ids from 0; special and user-defined ones are added tokens. */
bool qpi_made_token(qpi_made *m, const char *text, size_t n, double score, qpi_piece_type type);
/* A part's JSON, in pieces up to NULL. */
bool qpi_made_part(qpi_made *m, qpi_part part, const char *json, ...);
/* The template: begin and end (-1: none) around a text, after `pair` texts apart by end, of two types. */
bool qpi_made_around(qpi_made *m, int64_t begin, int64_t end, bool pair);
/* The parts of a SentencePiece tokenizer, pair merges (from scores) or Unigram. */
bool qpi_made_sentencepiece(qpi_made *m);
qp_tokenizer *qpi_made_finish(qpi_made *m, bool ok); /* NULL if not ok or after an error; frees the rest */

#define QPI_GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* The name (up to a space) under which GGUF files cut text by these patterns, each what the ones before left; whole:
 * a word that is a token is that token. NULL: there is none. */
const char *qpi_gguf_cut_name(const char *const *patterns, int count, bool whole); /* gguf_vocab.c */

qp_tokenizer *qpi_tokenizer_gguf(const char *path, qpi_error *e); /* gguf_vocab.c */
qp_tokenizer *qpi_tokenizer_sentencepiece(const char *name, const void *data, size_t n,
                                          qpi_error *e); /* sentencepiece.c */

#endif
