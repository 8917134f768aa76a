/* The texts of a file: the whole of it, or one field of each JSON line. */
#ifndef QUIPU_DATA_DOCUMENTS_H
#define QUIPU_DATA_DOCUMENTS_H

#include "core/error.h"

typedef struct {
    const uint8_t *text;
    size_t         size;
} qpi_document;

/* Calls fn with one batch of documents after the other, each of some megabytes if there is as
 * much, until it returns false (after storing an error). Files named *.jsonl or *.ndjson hold
 * JSON lines, of which `field` (NULL: "text") is taken; blank lines are passed over. *bytes
 * and *checksum (NULL both, or neither): of the file. */
typedef bool qpi_documents_fn(void *arg, const qpi_document *documents, size_t n);
bool qpi_documents_read(const char *path, const char *field, uint64_t *bytes, uint64_t *checksum,
                        qpi_documents_fn *fn, void *arg, qpi_error *e);

/* JSON lines in memory. */
bool qpi_documents_parse(const char *name, const void *data, size_t size, const char *field,
                         qpi_documents_fn *fn, void *arg, qpi_error *e);

#endif
