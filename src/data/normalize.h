/* Normalisation before tokenising: a chain of steps, each a text to a text. */
#ifndef QUIPU_DATA_NORMALIZE_H
#define QUIPU_DATA_NORMALIZE_H

#include "data/regex.h"
#include "format/json.h"

typedef enum { QPI_NFC, QPI_NFD, QPI_NFKC, QPI_NFKD } qpi_normal_form;

/* Appends a text in a normal form. Bytes that are not UTF-8 stay as they are; so do code points that
 * `tokenizers` does not normalise yet. */
void qpi_normal_form_of(qpi_normal_form form, const uint8_t *text, size_t n, qpi_buffer *out);

/* SentencePiece's table of replacements (charsmap.c). */
typedef struct {
    char     *text; /* the replacements, each ended by 0 */
    size_t    text_size;
    uint32_t *units; /* a double-array trie (darts-clone) */
    size_t    count;
    bool      plain[128]; /* this ASCII character stays as it is */
} qpi_charsmap;

bool qpi_charsmap_read(qpi_charsmap *m, const uint8_t *data, size_t n, const qpi_json *at);
void qpi_charsmap_apply(const qpi_charsmap *m, const uint8_t *text, size_t n, qpi_buffer *out);
void qpi_charsmap_free(qpi_charsmap *m);

struct qpi_normal_state;

typedef struct qpi_normal_step {
    const struct qpi_normal_type *type;
    /* What a type needs; the others are zero. */
    qpi_normal_form   form;
    bool              clean, chinese, accents, lower; /* BertNormalizer */
    bool              left, right;                    /* Strip */
    char             *pattern, *content;              /* Replace, Prepend */
    size_t            pattern_size, content_size;
    struct qpi_regex *regex; /* Replace with a pattern; otherwise pattern is a text */
    qpi_charsmap      map;   /* Precompiled */
} qpi_normal_step;

/* Adding a normalizer: a reader and an apply function in normalizers.c and an entry in the table there. */
typedef struct qpi_normal_type {
    const char *name;
    bool        ascii; /* ASCII passes unchanged */
    bool        local; /* a text cut before a space gives the same, cut in two */
    bool (*read)(qpi_normal_step *s, const qpi_json *at);
    /* Appends the result. *lead: where in text that begins which is now first. out->failed without memory; what
     * else goes wrong is stored in state->error. */
    void (*apply)(const qpi_normal_step *s, struct qpi_normal_state *state, size_t index, const uint8_t *text,
                  size_t n, qpi_buffer *out, size_t *lead);
} qpi_normal_type;

typedef struct {
    qpi_normal_step *steps;
    size_t           count, capacity;
    bool             local;
} qpi_normalizer;

/* What one thread needs; start with zeros and error. */
typedef struct qpi_normal_state {
    qpi_buffer               texts[4];
    struct qpi_regex_state **regex; /* by step */
    size_t                   regex_count;
    qpi_error               *error;
} qpi_normal_state;

/* The normalised text, in *text and *n: the text itself where nothing changes, otherwise the state's. *first
 * becomes false when what the text began with is gone. */
bool qpi_normalize(const qpi_normalizer *z, qpi_normal_state *state, const uint8_t **text, size_t *n,
                   bool *first);
void qpi_normal_state_free(qpi_normal_state *s);

/* Adds the steps of a tokenizer.json's component. */
bool qpi_normalizer_read(qpi_normalizer *z, const qpi_json *at);
void qpi_normalizer_free(qpi_normalizer *z);

bool qpi_is_ascii(const uint8_t *text, size_t n);

#endif
