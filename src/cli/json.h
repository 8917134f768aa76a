/* JSON that the command prints. */
#ifndef QUIPU_CLI_JSON_H
#define QUIPU_CLI_JSON_H

#include <jansson.h>
#include <stddef.h>

/* One line on stdout; takes over value. Returns the exit status (NULL: no memory). */
int cli_json_print(json_t *value);
/* A number; null where JSON has none (NaN, infinities). */
json_t *cli_json_number(double x);
/* The same of a logarithm of a probability: that of 0 is -9999, as servers write it. */
json_t *cli_json_logprob(float x);
/* A text that need not be UTF-8: what is not becomes U+FFFD. */
json_t *cli_json_text(const char *text, size_t bytes);
json_t *cli_json_name(const char *name); /* the same up to its 0: of paths, messages; NULL: null */
/* A member of an object: "" and NaN where it is not there or of another kind. */
const char *cli_json_text_in(const json_t *object, const char *key);
double cli_json_number_in(const json_t *object, const char *key);

#endif
