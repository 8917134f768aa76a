/* A JSON reader that builds no tree: for tables of megabytes (vocabularies, merges) and for
 * JSON lines. As strict as json.h, except that duplicate keys are the caller's to notice.
 *
 *     if (qpi_stream_open(&s, '{'))
 *         while (qpi_stream_key(&s, &key)) ... read or skip one value ...
 *     if (s.failed) ...
 */
#ifndef QUIPU_FORMAT_JSON_STREAM_H
#define QUIPU_FORMAT_JSON_STREAM_H

#include "core/error.h"
#include "format/buffer.h"

#define QPI_JSON_DEPTH 63 /* that documents may be nested */

typedef struct {
    const char *data;
    size_t      size;
} qpi_span;

typedef struct {
    const char *name;
    const char *data;
    size_t      size, at;
    size_t      line; /* of data's first byte, counted from 1, when a part of a file is read */
    int         depth;
    uint64_t    arrays; /* bit d: the container at depth d is an array */
    bool        fresh;  /* just inside a container: no comma yet */
    bool        failed;
    qpi_buffer  text; /* of the last string that had escapes */
    qpi_error  *error;
} qpi_stream;

qpi_stream qpi_stream_over(const char *name, const void *data, size_t size, qpi_error *e);
void qpi_stream_free(qpi_stream *s);

/* What comes next: '{' '[' '"' '0' (a number) 't' 'f' 'n', or 0 at the end or after failure. */
char qpi_stream_peek(qpi_stream *s);

bool qpi_stream_open(qpi_stream *s, char kind);          /* '{' or '[' */
bool qpi_stream_key(qpi_stream *s, qpi_span *key);       /* the next key; false after '}' */
bool qpi_stream_item(qpi_stream *s);                     /* is there another? false after ']' */
bool qpi_stream_string(qpi_stream *s, qpi_span *text);   /* valid until the next string */
bool qpi_stream_number(qpi_stream *s, qpi_span *digits); /* where one comes next */
bool qpi_stream_integer(qpi_stream *s, int64_t *value);
bool qpi_stream_skip(qpi_stream *s, qpi_span *raw); /* any value, checked; raw may be NULL */
bool qpi_stream_end(qpi_stream *s);                 /* nothing but blanks is left */

/* Stores "NAME: line L column C: ..." for the byte at `at`; returns false. */
bool qpi_stream_fail(qpi_stream *s, size_t at, const char *format, ...) QP_PRINTF(3, 4);

bool qpi_span_is(qpi_span s, const char *text);

#endif
