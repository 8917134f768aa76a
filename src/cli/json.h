/* JSON that the command prints. */
#ifndef QUIPU_CLI_JSON_H
#define QUIPU_CLI_JSON_H

#include <jansson.h>

/* One line on stdout; takes over value. */
void cli_json_print(json_t *value);
/* A number; null where JSON has none (NaN, infinities). */
json_t *cli_json_number(double x);

#endif
