/* Which memory follows which: a step of decoding reads the same weights in the same order as the step before. Kernels
 * fetch the beginning of what comes next while they read the end of what they have: docs/decisions.md. */
#ifndef QUIPU_CORE_ORDER_H
#define QUIPU_CORE_ORDER_H

#include "quipu/op.h"

#define QPI_SPANS 3

/* Memory that is read together, in up to QPI_SPANS pieces; the others' bytes are 0. */
typedef struct {
    const char
           *data[QPI_SPANS]; /* [0] NULL: not known. It may have been freed since: to be fetched, not read */
    int64_t bytes[QPI_SPANS];
} qpi_region;

typedef struct qpi_order qpi_order;

/* What has followed `now` the last two times; `now` follows what was given before it. */
qpi_region qpi_order_next(qp_ctx *ctx, qpi_region now);

#endif
