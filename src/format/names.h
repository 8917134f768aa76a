/* A hash table from texts to numbers. Its seed differs from table to table, so that no file
 * can be made to collide. */
#ifndef QUIPU_FORMAT_NAMES_H
#define QUIPU_FORMAT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    struct qpi_name *items; /* in order of adding */
    uint64_t        *slots; /* hash << 32 | item + 1, 0: empty */
    size_t           count, capacity, slot_count;
    uint64_t         seed; /* 0: chosen by chance */
} qpi_names;

#define QPI_NO_NAME UINT32_MAX

/* The value under a text, QPI_NO_NAME if there is none. */
uint32_t qpi_names_find(const qpi_names *t, const char *text, size_t n);

/* Adds a text, which must outlive the table, with a value below QPI_NO_NAME. False when there
 * is no memory. If the text was there, *before is its value (else QPI_NO_NAME) and stays. */
bool qpi_names_add(qpi_names *t, const char *text, size_t n, uint32_t value, uint32_t *before);

/* Gives a text that is there another value. */
void qpi_names_replace(qpi_names *t, const char *text, size_t n, uint32_t value);

void qpi_names_free(qpi_names *t);

/* A number that no file can foresee, for hash tables. */
uint64_t qpi_hash_seed(const void *salt);

#endif
