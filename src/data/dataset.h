/* A data set, opened. */
#ifndef QUIPU_DATA_DATASET_H
#define QUIPU_DATA_DATASET_H

#include "core/error.h"
#include "data/prefetch.h"
#include "format/buffer.h"
#include "quipu/data.h"

struct qp_data {
    qp_ctx           *ctx;
    const qp_source  *type;
    void             *source;
    qp_data_options   options; /* with defaults filled in; texts and lists in it are not kept */
    qp_field          fields[QP_MAX_FIELDS];
    size_t            offsets[QP_MAX_FIELDS], row_bytes[QP_MAX_FIELDS];
    int               field_count;
    uint64_t          samples, position;
    qpi_queue        *queue;
    qpi_buffer        state;
    qp_data          *validation; /* owned */
    struct qpi_owned *owned;      /* NULL for a validation part */
};

/* A data set that no context owns yet; closes the source on failure. */
qp_data *qpi_data_new(qp_ctx *ctx, const qp_source *type, void *source, const qp_data_options *options,
                      qpi_error *e);
void qpi_data_free(void *data);
/* Hands it over to the context; NULL: passes the error on. */
qp_data *qpi_data_give(qp_ctx *ctx, qp_data *d, const qpi_error *e);

/* text_source.c */
extern const qp_source qpi_text_source;
int64_t qpi_text_tokens(const void *source);
int64_t qpi_text_bytes(const void *source);

#endif
