/* Cutting text into the words within which a tokenizer merges. */
#ifndef QUIPU_DATA_PRETOKENIZE_H
#define QUIPU_DATA_PRETOKENIZE_H

#include "core/error.h"
#include "format/buffer.h"

typedef enum {
    QPI_SPLIT_NONE, /* the text is one word */
    QPI_SPLIT_GPT2, /* the patterns of GPT-2, Llama 3 and Qwen 2, by hand */
    QPI_SPLIT_LLAMA3,
    QPI_SPLIT_QWEN2,
    QPI_SPLIT_REGEX,  /* any other pattern, by PCRE2 */
    QPI_SPLIT_DIGITS, /* numbers apart from the rest */
} qpi_split_kind;

typedef struct {
    qpi_split_kind    kind;
    bool              prefix_space; /* put a space before a text that does not start with one */
    bool              drop_gaps;    /* REGEX: what lies between matches is left out */
    bool              each_digit;   /* DIGITS: every digit is a word */
    struct qpi_regex *regex;
} qpi_split;

#define QPI_MAX_SPLITS 8

/* Stages, each applied to every piece of the one before. */
typedef struct {
    qpi_split stages[QPI_MAX_SPLITS];
    int       count;
} qpi_pretokenizer;

/* The kind that stands for a pattern, QPI_SPLIT_REGEX if none does. */
qpi_split_kind qpi_split_of(const char *pattern);
const char    *qpi_split_pattern(qpi_split_kind kind); /* NULL if it has none */

/* What one thread needs while cutting. */
typedef struct {
    qpi_buffer              prefixed[QPI_MAX_SPLITS], valid[QPI_MAX_SPLITS];
    struct qpi_regex_state *regex[QPI_MAX_SPLITS];
    qpi_error              *error;
} qpi_split_state;

void qpi_split_state_free(qpi_split_state *s);

/* Calls word(arg, text, n) for each word, in order, until it returns false. False then, and
 * after storing an error in state->error. */
typedef bool qpi_word_fn(void *arg, const uint8_t *text, size_t n);
bool         qpi_pretokenize(const qpi_pretokenizer *p, qpi_split_state *state, const uint8_t *text, size_t n,
                             qpi_word_fn *word, void *arg);

/* The first place at or after `from` where the text can be cut in two that are pretokenised
 * apart with the same result; n if there is none. */
size_t qpi_pretokenizer_cut(const qpi_pretokenizer *p, const uint8_t *text, size_t n, size_t from);

void qpi_pretokenizer_free(qpi_pretokenizer *p);

/* regex.c */
struct qpi_regex       *qpi_regex_new(const char *pattern, qpi_error *e);
void                    qpi_regex_free(struct qpi_regex *r);
struct qpi_regex_state *qpi_regex_state_new(const struct qpi_regex *r, qpi_error *e);
void                    qpi_regex_state_free(struct qpi_regex_state *s);
/* The next match at or after `from` in valid UTF-8: 1 with its place, 0 if there is none, -1
 * after an error. */
int qpi_regex_next(const struct qpi_regex *r, struct qpi_regex_state *s, const uint8_t *text, size_t n,
                   size_t from, size_t *begin, size_t *end, qpi_error *e);

#endif
