/* Every byte from outside passes here: the bytes of a file, mapped or read into memory, and
 * a cursor that never leaves them. */
#ifndef QUIPU_FORMAT_READER_H
#define QUIPU_FORMAT_READER_H

#include <stdatomic.h>

#include "core/error.h"
#include "format/os.h"

typedef enum {
    QPI_MAP,  /* mapped read-only: nothing is copied, but a file that somebody truncates while
                 it is mapped makes the process fault when the lost part is touched */
    QPI_READ, /* read into memory */
} qpi_open_mode;

typedef struct {
    const char    *path;
    const uint8_t *data; /* never NULL, 64-byte aligned at least */
    uint64_t       size;
    atomic_int     refs;
    bool           mapped;
} qpi_bytes;

/* A regular file's bytes, counted; NULL after storing an error. */
qpi_bytes *qpi_bytes_open(const char *path, qpi_open_mode mode, qpi_error *e);
qpi_bytes *qpi_bytes_retain(qpi_bytes *b);
void qpi_bytes_release(void *bytes); /* NULL allowed; fits a release callback */

/* Little-endian reads at `at`, which they advance. The first failure is stored in error and
 * sets `failed`; after it every read yields 0 or NULL. */
typedef struct {
    const char    *name; /* for messages: the file */
    const uint8_t *data;
    uint64_t       size, at;
    bool           failed;
    qpi_error     *error;
} qpi_reader;

qpi_reader qpi_reader_over(const char *name, const void *data, uint64_t size, qpi_error *e);

/* `what` names the thing for the message: "header length". */
uint8_t qpi_read_u8(qpi_reader *r, const char *what);
uint32_t qpi_read_u32(qpi_reader *r, const char *what);
uint64_t qpi_read_u64(qpi_reader *r, const char *what);
const uint8_t *qpi_read_span(qpi_reader *r, uint64_t n, const char *what); /* n bytes in place */
static inline uint64_t qpi_reader_left(const qpi_reader *r) { return r->size - r->at; }

/* Stores "NAME: offset AT: ..." (QP_ERR_FORMAT) and sets failed; the format reads
 * "expected X, found Y". */
void qpi_read_fail(qpi_reader *r, uint64_t at, const char *format, ...) QP_PRINTF(3, 4);

#endif
