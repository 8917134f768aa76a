/* Patterns that come with a file, matched by PCRE2 under limits of time and memory. */
#ifndef QUIPU_DATA_REGEX_H
#define QUIPU_DATA_REGEX_H

#include "core/error.h"
#include "format/buffer.h"

/* NULL after storing an error; literal: the pattern is a text and means itself. */
struct qpi_regex *qpi_regex_new(const char *pattern, bool literal, qpi_error *e);
void qpi_regex_free(struct qpi_regex *r);

/* regex_syntax.c: appends the pattern in PCRE2's words, ended by 0. */
bool qpi_regex_translate(const char *pattern, qpi_buffer *out, qpi_error *e);

/* What one thread needs to match; made on first use. */
struct qpi_regex_state;
struct qpi_regex_state *qpi_regex_state_new(const struct qpi_regex *r, qpi_error *e);
void qpi_regex_state_free(struct qpi_regex_state *s);

/* The matches in a text, one after the other, as `tokenizers` finds them: none is empty where the one before
 * ended. The text need not be UTF-8; n and the places are those of the text. */
typedef struct {
    const struct qpi_regex *regex;
    struct qpi_regex_state *state;
    const uint8_t          *text;
    size_t                  n, at, last;
    bool                    matched;
    qpi_error              *error;
} qpi_finder;

bool qpi_find_in(qpi_finder *f, const struct qpi_regex *r, struct qpi_regex_state **s, const uint8_t *text,
                 size_t n, qpi_error *e);
int qpi_find_next(qpi_finder *f, size_t *begin, size_t *end); /* 1, 0: no more, -1 after an error */

#endif
