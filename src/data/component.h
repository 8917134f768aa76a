/* What the readers of tokenizer.json's components share. */
#ifndef QUIPU_DATA_COMPONENT_H
#define QUIPU_DATA_COMPONENT_H

#include "data/regex.h"
#include "format/json.h"

#define QPI_MAX_COMPONENTS 16 /* of a sequence of components */

/* "WHERE: WHAT is not supported"; false. */
bool qpi_unsupported(const qpi_json *at, const char *what);

/* A member's text, copied (0 behind it), its size in *n. */
bool qpi_json_copy(const qpi_json *at, const char *key, char **text, size_t *n);

/* A member that is one character. */
bool qpi_json_character(const qpi_json *at, const char *key, uint32_t *code);

/* The member "pattern": {"String": TEXT} or {"Regex": EXPRESSION}. The text is copied. */
bool qpi_json_pattern(const qpi_json *at, char **text, size_t *n, bool *literal);
struct qpi_regex *qpi_json_compile(const qpi_json *at, const char *text,
                                   bool literal); /* NULL after an error */

/* What JSON takes for a number, rounded as the reader of `tokenizers` (serde_json) rounds: digits as a 64-bit integer, then one
 * product or quotient with a power of ten. Not always the nearest double; infinite where that one fails. */
double qpi_decimal(const char *text, size_t n);

/* Calls read for every member of at's array under key. */
bool qpi_json_each(const qpi_json *at, const char *key, void *to, bool (*read)(void *to, const qpi_json *at));

#endif
