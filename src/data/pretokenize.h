/* Cutting text into the words that a model then works on: stages, each applied to every piece that the one
 * before gives. */
#ifndef QUIPU_DATA_PRETOKENIZE_H
#define QUIPU_DATA_PRETOKENIZE_H

#include "data/component.h"
#include "format/buffer.h"

/* What becomes of the matches of a pattern and of what lies between them. */
typedef enum {
    QPI_ISOLATED,    /* each is a piece */
    QPI_REMOVED,     /* matches are left out */
    QPI_CONTIGUOUS,  /* runs of matches are one piece */
    QPI_WITH_BEFORE, /* a match belongs to the piece before it */
    QPI_WITH_NEXT,   /* or to the one behind */
} qpi_split_behavior;

/* May a text be cut before a space (behind a letter or sign) without any change of pieces? */
typedef enum {
    QPI_CUT_NEVER,
    QPI_CUT_PASSES, /* if another stage cuts there anyway */
    QPI_CUT_SPACE,  /* this one does */
    QPI_CUT_GPT2,   /* and so do the patterns of GPT-2 and its like, at line ends too */
    QPI_CUT_MODERN,
} qpi_split_cut;

typedef struct {
    const uint8_t *text, *end;
    bool           first; /* it begins where the whole text began */
} qpi_stretch;

struct qpi_split;
struct qpi_splitting;

typedef bool qpi_split_fn(const struct qpi_splitting *j, int stage, qpi_stretch s);
/* The end of the piece that starts at p, for patterns that cut everything into pieces. */
typedef const uint8_t *qpi_next_fn(const uint8_t *p, const uint8_t *end);

typedef struct qpi_split {
    qpi_split_fn *split;
    qpi_split_cut cut;
    /* What a kind of stage needs; the others are zero. */
    qpi_next_fn       *next;
    qpi_split_behavior behavior;
    bool               invert;       /* what is no match counts as one */
    bool               prefix_space; /* ByteLevel: put a space before a text that does not start with one */
    bool               each;         /* Digits: every digit is a word */
    bool               cuts;         /* Metaspace: each replacement begins a word */
    enum { QPI_ALWAYS, QPI_FIRST, QPI_NEVER } prepend;
    char              mark[4]; /* Metaspace: the replacement; CharDelimiterSplit: the delimiter */
    size_t            mark_size;
    int64_t           length;  /* FixedLength */
    char             *pattern; /* Split: a text, or NULL with regex */
    size_t            pattern_size;
    struct qpi_regex *regex;
} qpi_split;

typedef struct {
    qpi_split stages[QPI_MAX_COMPONENTS];
    int       count;
    bool      byte_level; /* the last one is ByteLevel: words stand for their bytes */
} qpi_pretokenizer;

/* What one thread needs while cutting. */
typedef struct {
    qpi_buffer              texts[QPI_MAX_COMPONENTS];
    struct qpi_regex_state *regex[QPI_MAX_COMPONENTS];
    qpi_error              *error;
} qpi_split_state;

void qpi_split_state_free(qpi_split_state *s);

/* Calls word(arg, text, n) for each word, in order, until it returns false. False then, and after storing an
 * error in state->error. first: the text is the beginning of all that is encoded. */
typedef bool qpi_word_fn(void *arg, const uint8_t *text, size_t n);
bool qpi_pretokenize(const qpi_pretokenizer *p, qpi_split_state *state, const uint8_t *text, size_t n,
                     bool first, qpi_word_fn *word, void *arg);

/* The first place at or after `from` where the text can be cut in two that are pretokenised
 * apart with the same result; n if there is none. */
size_t qpi_pretokenizer_cut(const qpi_pretokenizer *p, const uint8_t *text, size_t n, size_t from);

/* Adds the stages of a tokenizer.json's component. */
bool qpi_pretokenizer_read(qpi_pretokenizer *p, const qpi_json *at);
/* For a model that does not take bytes: makes them characters in a stage of its own. */
bool qpi_pretokenizer_unfold(qpi_pretokenizer *p, const qpi_json *at);
void qpi_pretokenizer_free(qpi_pretokenizer *p);

/* For stages (pretokenize.c). */
typedef struct qpi_splitting {
    const qpi_pretokenizer *p;
    qpi_split_state        *state;
    qpi_word_fn            *word;
    void                   *arg;
} qpi_splitting;

/* Gives a piece of s to the next stage, or to the model; empty ones are left out. */
bool qpi_pass_on(const qpi_splitting *j, int stage, qpi_stretch s, const uint8_t *begin, const uint8_t *end);

/* Takes matches and what lies between them, in order, and passes pieces on as the behavior says. Start with
 * {j, stage, s}. */
typedef struct {
    const qpi_splitting *j;
    int                  stage;
    qpi_stretch          s;
    const uint8_t       *begin, *end; /* a piece that waits for what follows it */
    bool                 waits, was_match;
} qpi_pieces_of;
bool qpi_put_piece(qpi_pieces_of *p, const uint8_t *begin, const uint8_t *end, bool match);
bool qpi_end_pieces(qpi_pieces_of *p);

qpi_split_fn qpi_split_by_next, qpi_split_by_pattern, qpi_split_byte_level;

/* patterns.c: the patterns of GPT-2, Llama 3 and Qwen 2, by hand. Makes s a stage for a pattern as it is written;
 * false if it is none of them. */
bool qpi_split_known(const char *pattern, qpi_split *s);
const char *qpi_pattern_named(const char *name); /* "gpt2", "llama3", "qwen2"; NULL: none */

#endif
