/* Byte-level pair merges: the model of kind "bpe". */
#ifndef QUIPU_DATA_BPE_H
#define QUIPU_DATA_BPE_H

#include "core/error.h"
#include "format/buffer.h"
#include "quipu/data.h"

typedef struct qpi_bpe qpi_bpe;
struct qpi_bpe_work;

typedef struct {
    bool    ignore_merges; /* a word that is a token is that token, whatever the merges say */
    bool    fuse_unknown;  /* a run of unknown bytes is one token */
    int32_t unknown;       /* the token of bytes that have none; QPI_NO_TOKEN: they are dropped */
} qpi_bpe_flags;

qpi_bpe *qpi_bpe_new(qpi_error *e);
/* The pair (a, b) becomes id; the lower the rank the earlier. A later call for the same pair
 * wins. */
bool qpi_bpe_merge(qpi_bpe *m, int32_t a, int32_t b, uint32_t rank, int32_t id, qpi_error *e);
/* After the last merge: finds the 256 byte tokens in t's vocabulary. */
void qpi_bpe_finish(qpi_bpe *m, const qp_tokenizer *t, qpi_bpe_flags flags);
bool qpi_bpe_is_bytes(const qpi_bpe *m); /* every byte has its value as id */

void qpi_bpe_work_free(struct qpi_bpe_work *w);

/* Appends the "model" object of tokenizer.json; m NULL: no merges. */
bool qpi_bpe_print(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out);

#endif
