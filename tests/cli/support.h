/* Running the built command: its status and what it wrote. */
#ifndef TESTS_CLI_SUPPORT_H
#define TESTS_CLI_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "quipu/quipu.h"

typedef struct {
    int    status; /* of exit, or 128 + the signal */
    char  *out, *err;
    size_t out_bytes, err_bytes;
} outcome; /* valid until the next run */

extern char folder[64]; /* made for the tests, removed afterwards */

int make_folder(void **state); /* with models: see models.c */
int remove_folder(void **state);

/* The same, with a context of one thread. */
extern qp_ctx *ctx;
int make_context(void **state);
int remove_context(void **state);

/* Arguments end with NULL; a "%" at the start of one stands for the folder. */
outcome run(const char *first, ...);
outcome run_with(const void *input, size_t bytes, const char *first, ...);
outcome run_list(const void *input, size_t bytes, const char *const *arguments);

/* path in the folder; four of them stay valid. */
const char *in_folder(const char *name);
void write_file(const char *name, const void *data, size_t bytes);
void write_text(const char *name, const char *text);
char *read_file(const char *path, size_t *bytes); /* malloc'ed, 0 behind it */

/* Fails unless the command wrote one line "quipu: ..." on stderr, nothing on stdout, and ended
 * with this status. */
void expect_message(outcome o, int status, const char *part);
void expect_success(outcome o);
/* stdout as one JSON object on one line. */
json_t *expect_json(outcome o);
/* What an object has under a key; fails unless it is that. */
json_int_t integer_of(const json_t *o, const char *key);
double number_of(const json_t *o, const char *key);
const char *text_of(const json_t *o, const char *key);

/* A model of bytes, two layers, fresh weights. */
extern const char byte_config[];

/* A model of this config, fresh weights, in a folder of the folder. 0: it is there. */
int save_model(const char *name, const char *config);

#endif
