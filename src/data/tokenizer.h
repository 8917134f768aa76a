/* A tokenizer, opened: what all kinds share, and the table entry that makes a kind. */
#ifndef QUIPU_DATA_TOKENIZER_H
#define QUIPU_DATA_TOKENIZER_H

#include <pthread.h>

#include "data/added.h"
#include "data/decoder.h"
#include "data/normalize.h"
#include "data/pretokenize.h"
#include "data/around.h"
#include "data/vocab.h"
#include "data/word_cache.h"
#include "quipu/chat.h"
#include "quipu/op.h"

/* What one thread needs while encoding; taken from the tokenizer and given back. */
typedef struct qpi_encoder {
    struct qpi_encoder  *next;
    qpi_error            error;
    qp_ids              *out;
    qpi_split_state      split;
    qpi_normal_state     normal;
    qpi_buffer           scratch;
    qpi_word_cache      *cache;
    struct qpi_bpe_work *bpe;
} qpi_encoder;

/* The members of a tokenizer.json's model, whatever its kind; merges are read into `merges`. */
typedef struct {
    char   *unknown, *prefix, *suffix; /* NULL: absent */
    bool    fuse_unknown, byte_fallback, ignore_merges;
    int64_t longest;    /* WordPiece: characters of a word; -1: absent */
    int64_t unknown_id; /* Unigram; -1: absent */
    double *scores;     /* Unigram, by id */
} qpi_model_options;

typedef struct {
    const char *name, *type; /* as qp_tokenizer_kind and as tokenizer.json say it */
    /* Makes t->model when the vocabulary and the pre-tokenizer are complete. */
    bool (*build)(qp_tokenizer *t, qpi_model_options *o, qpi_error *e);
    /* Appends the ids of text, in which there are no added tokens, to w->out. */
    bool (*encode)(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first);
    /* Appends the "model" object of tokenizer.json; out->failed without memory. */
    void (*save)(const qp_tokenizer *t, qpi_buffer *out);
    void (*free)(void *model);
} qpi_tokenizer_kind;

extern const qpi_tokenizer_kind qpi_tokenizer_byte, qpi_tokenizer_bpe, qpi_tokenizer_wordpiece,
    qpi_tokenizer_unigram, qpi_tokenizer_wordlevel;

/* Components of a tokenizer.json as text, to be written again as they came. */
typedef enum {
    QPI_PART_TRUNCATION,
    QPI_PART_PADDING,
    QPI_PART_ADDED,
    QPI_PART_NORMALIZER,
    QPI_PART_PRETOKENIZER,
    QPI_PART_POST,
    QPI_PART_DECODER,
    QPI_PARTS
} qpi_part;
extern const char *const qpi_part_keys[QPI_PARTS];

struct qp_tokenizer {
    const qpi_tokenizer_kind *kind;
    void                     *model; /* the kind's */
    qpi_vocab                 vocab;
    qpi_added                *added;
    size_t                    added_count, added_capacity;
    qpi_matcher               matchers[2]; /* added tokens found before and after normalisation */
    qpi_normalizer            normalizer;
    qpi_pretokenizer          pretokenizer;
    qpi_around                single, pair;
    qpi_decoder               decoder;
    int32_t                   begin, end;
    int32_t                   ends[QP_MAX_ENDS];
    int                       end_count;
    char                     *parts[QPI_PARTS]; /* NULL: absent */

    pthread_mutex_t   lock;
    qpi_encoder      *idle; /* under lock */
    struct qpi_owned *owned;
};

/* An empty tokenizer; NULL when there is no memory. */
qp_tokenizer *qpi_tokenizer_new(const qpi_tokenizer_kind *kind, int64_t id_limit, qpi_error *e);
void qpi_tokenizer_free(void *tokenizer);
/* Registers an added token whose id is in the vocabulary. */
bool qpi_tokenizer_add(qp_tokenizer *t, qpi_added token, qpi_error *e);
/* Reads components from their JSON text (NULL: absent) and keeps the texts. In this order: normalizer, added tokens,
 * pre-tokenizer, post-processor, decoder. */
bool qpi_tokenizer_part(qp_tokenizer *t, qpi_part part, const char *name, const char *json, size_t n,
                        qpi_error *e);
/* Appends the names of the components, in order, of a part that is there: "NFC, Lowercase". False without memory. */
bool qpi_part_names(const qp_tokenizer *t, qpi_part part, qpi_buffer *out);
/* Makes the model, then what rests on the whole vocabulary; guesses the token that ends a text. */
bool qpi_tokenizer_finish(qp_tokenizer *t, qpi_model_options *o, qpi_error *e);
/* Adds a token that ends a text, if it is one and not there yet; the first is qp_tokenizer_end. */
void qpi_tokenizer_add_end(qp_tokenizer *t, int64_t id);
/* Hands it over to the context (frees it on failure); NULL stays NULL. */
qp_tokenizer *qpi_tokenizer_give(qp_ctx *ctx, qp_tokenizer *t, const qpi_error *e);

qpi_encoder *qpi_encoder_take(const qp_tokenizer *t, qpi_error *e);
void qpi_encoder_give(const qp_tokenizer *t, qpi_encoder *w);
void qpi_encoder_free(qpi_encoder *w);

/* For kinds that work on words. Each word, through the cache: encode_word appends the ids of one that is new. */
typedef bool qpi_encode_word_fn(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n);
bool qpi_encode_words(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first,
                      qpi_encode_word_fn *encode_word);
bool qpi_encode_cached(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n,
                       qpi_encode_word_fn *one); /* one word, or a part of one */
bool qpi_put_ids(qpi_encoder *w, const int32_t *ids, size_t n);
/* The token of the model itself with a text; QPI_NO_TOKEN: none. */
int32_t qpi_model_token(const qp_tokenizer *t, const char *text, size_t n);
/* The tokens <0x00> to <0xFF>; QPI_NO_TOKEN where one is missing. */
void qpi_byte_tokens(const qp_tokenizer *t, int32_t ids[256]);
/* A trie of the model's tokens, by id; UNSUPPORTED if one is longer than that. */
bool qpi_model_trie(const qp_tokenizer *t, qpi_trie *trie, size_t longest, qpi_error *e);
/* Stores that a word is unknown and the vocabulary lacks the token for that (by name; NULL: it has none); false. */
bool qpi_no_unknown(qpi_encoder *w, const char *name);
/* Appends "vocab":{...}, without a comma behind it; out->failed without memory. */
void qpi_print_vocab(const qp_tokenizer *t, qpi_buffer *out);

/* Texts to encode one after the other, cut small enough to be shared out to threads. */
typedef struct {
    const uint8_t *text;
    size_t         size;
    int32_t        id;    /* text NULL: this token */
    bool           whole; /* added tokens are still to be found in it */
    bool           first; /* it is the beginning of a text */
} qpi_piece;
/* What of a text comes from strangers: special tokens there, or partly there, are ordinary text. */
typedef struct {
    const uint8_t *text;
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
/* Where a text without added tokens may be cut at or after `from` without any change of ids; n: nowhere. */
size_t qpi_tokenizer_cut(const qp_tokenizer *t, const uint8_t *text, size_t n, size_t from);

bool qpi_ids_reserve(qp_ids *ids, size_t more);

/* tokenizer_load.c, tokenizer_save.c */
qp_tokenizer *qpi_tokenizer_load(const char *path, qpi_error *e);
qp_tokenizer *qpi_tokenizer_parse(const char *name, const void *data, size_t size, qpi_error *e);
bool qpi_tokenizer_print(const qp_tokenizer *t, qpi_buffer *out);
/* tokenizer_config.c: what the other files of a model's folder say about its tokens. */
bool qpi_tokenizer_configure(qp_tokenizer *t, const char *folder, qpi_error *e);

#endif
