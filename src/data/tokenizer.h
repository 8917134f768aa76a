/* A tokenizer, opened: what all kinds share, and the table entry that makes a kind. */
#ifndef QUIPU_DATA_TOKENIZER_H
#define QUIPU_DATA_TOKENIZER_H

#include <pthread.h>

#include "data/added.h"
#include "data/normalize.h"
#include "data/pretokenize.h"
#include "data/vocab.h"
#include "quipu/chat.h"
#include "quipu/op.h"

/* What one thread needs while encoding; taken from the tokenizer and given back. */
typedef struct qpi_encoder {
    struct qpi_encoder  *next;
    qpi_error            error;
    qp_ids              *out;
    qpi_split_state      split;
    qpi_buffer           normal; /* the normalised text */
    qpi_buffer           scratch;
    struct qpi_bpe_work *bpe;
} qpi_encoder;

typedef struct {
    const char *name;
    /* Appends the ids of text, in which there are no added tokens, to w->out. */
    bool (*encode)(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n);
    /* Where a long text may be cut without any change of ids, at or after `from`; n: nowhere. */
    size_t (*cut)(const qp_tokenizer *t, const uint8_t *text, size_t n, size_t from);
    /* Appends the "model" object of tokenizer.json. */
    bool (*save)(const qp_tokenizer *t, qpi_buffer *out);
    void (*free)(void *model);
} qpi_tokenizer_kind;

extern const qpi_tokenizer_kind qpi_tokenizer_byte, qpi_tokenizer_bpe;

struct qp_tokenizer {
    const qpi_tokenizer_kind *kind;
    void                     *model; /* the kind's */
    qpi_vocab                 vocab;
    qpi_added                *added;
    size_t                    added_count, added_capacity;
    /* Added tokens found before and after normalisation, all and without the special ones. */
    qpi_matcher      matchers[2][2]; /* [normalized][literal] */
    qpi_normalizer   normalizer;
    qpi_pretokenizer pretokenizer;
    int32_t         *wrap_before, *wrap_after; /* what the template adds */
    size_t           wrap_before_count, wrap_after_count;
    int32_t          end;
    /* Components as JSON text, to be written again as they came. */
    char *normalizer_json, *pretokenizer_json, *post_json, *decoder_json;

    pthread_mutex_t   lock;
    qpi_encoder      *idle; /* under lock */
    struct qpi_owned *owned;
};

/* An empty tokenizer; NULL when there is no memory. */
qp_tokenizer *qpi_tokenizer_new(const qpi_tokenizer_kind *kind, int64_t id_limit, qpi_error *e);
void          qpi_tokenizer_free(void *tokenizer);
/* Registers an added token whose id is in the vocabulary. */
bool qpi_tokenizer_add(qp_tokenizer *t, qpi_added token, qpi_error *e);
/* A pre-tokenizer and the decoder ByteLevel, for a tokenizer that comes from no file. */
bool qpi_tokenizer_describe(qp_tokenizer *t, const char *pretokenizer_json, qpi_error *e);
/* After the last token: guesses the end-of-text token. */
void qpi_tokenizer_finish(qp_tokenizer *t);
/* Hands it over to the context (frees it on failure); NULL stays NULL. */
qp_tokenizer *qpi_tokenizer_give(qp_ctx *ctx, qp_tokenizer *t, const qpi_error *e);

qpi_encoder *qpi_encoder_take(const qp_tokenizer *t, qpi_error *e);
void         qpi_encoder_give(const qp_tokenizer *t, qpi_encoder *w);

/* Texts to encode one after the other, cut small enough to be shared out to threads. */
typedef struct {
    const uint8_t *text;
    size_t         size;
    int32_t        id;    /* text NULL: this token */
    bool           whole; /* added tokens are still to be found in it */
} qpi_piece;
/* What of a text comes from strangers: special tokens there, or partly there, are ordinary text. */
typedef struct {
    const uint8_t *text;
    size_t         size;
    const qp_span *spans; /* in order */
    size_t         count;
} qpi_foreign;
typedef struct {
    qpi_piece         *items;
    size_t             count, capacity;
    const qpi_foreign *foreign; /* NULL: none */
} qpi_pieces;

/* Appends the pieces of a text, which must outlive them. */
bool qpi_pieces_add(const qp_tokenizer *t, qpi_pieces *p, const uint8_t *text, size_t n, bool literal,
                    qpi_error *e);
bool qpi_pieces_add_token(qpi_pieces *p, int32_t id, qpi_error *e);
/* Appends the ids of all pieces, which it forgets. */
bool qpi_pieces_encode(const qp_tokenizer *t, const qp_exec *exec, qpi_pieces *p, bool literal, qp_ids *out,
                       qpi_error *e);
void qpi_pieces_free(qpi_pieces *p);

bool qpi_ids_reserve(qp_ids *ids, size_t more);

/* A number that changes with anything that changes ids. */
uint64_t qpi_tokenizer_fingerprint(const qp_tokenizer *t, qpi_error *e);

/* tokenizer_load.c, tokenizer_save.c */
qp_tokenizer *qpi_tokenizer_load(const char *path, qpi_error *e);
qp_tokenizer *qpi_tokenizer_parse(const char *name, const void *data, size_t size, qpi_error *e);
bool          qpi_tokenizer_print(const qp_tokenizer *t, qpi_buffer *out);

#endif
