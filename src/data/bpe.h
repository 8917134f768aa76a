/* Pair merges: the model of kind "bpe", over bytes or over characters. */
#ifndef QUIPU_DATA_BPE_H
#define QUIPU_DATA_BPE_H

#include "core/error.h"
#include "format/buffer.h"
#include "quipu/data.h"

typedef struct qpi_bpe qpi_bpe;
struct qpi_bpe_work;

/* The merges; the rest comes with the kind's build. */
qpi_bpe *qpi_bpe_new(qpi_error *e);
/* The pair (a, b) becomes id; the lower the rank the earlier. A later call for the same pair
 * wins. */
bool qpi_bpe_merge(qpi_bpe *m, int32_t a, int32_t b, uint32_t rank, int32_t id, qpi_error *e);

void qpi_bpe_work_free(struct qpi_bpe_work *w);

/* Appends the "model" object of tokenizer.json; m NULL: no merges. out->failed without memory. */
void qpi_bpe_print(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out);

#endif
