/* quipu/record.h: a record is a few tensors with names: a batch of data, what a model takes and
 * what it gives.
 */
#ifndef QUIPU_RECORD_H
#define QUIPU_RECORD_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QP_MAX_FIELDS 16

/* Names live as long as the context; tensors in the scope in which they were made. */
typedef struct {
    int         count;
    const char *names[QP_MAX_FIELDS];
    qp_tensor   tensors[QP_MAX_FIELDS];
} qp_record;

/* The tensor of that name, QP_NONE if there is none. */
QP_API qp_tensor qp_record_get(const qp_record *r, const char *name);

/* Sets a field, a new one or in place of the one of that name; QP_NONE takes it out. The name is
 * copied into t's context. Errors: ARGUMENT (more than QP_MAX_FIELDS), MEMORY. */
QP_API void qp_record_set(qp_record *r, const char *name, qp_tensor t);

#ifdef __cplusplus
}
#endif
#endif
