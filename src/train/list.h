/* Calls of ops over lists (kernels/list.h), filled group by group and run whenever they are full. */
#ifndef QUIPU_TRAIN_LIST_H
#define QUIPU_TRAIN_LIST_H

#include <string.h>

#include "quipu/op.h"

typedef struct {
    const qp_op *op;
    qp_tensor    in[QP_MAX_IN];
    int          first, count; /* inputs before the list; all so far */
} qpi_list;

static inline void qpi_list_run(qpi_list *l) {
    if (l->count > l->first) qp_apply(l->op, l->count, l->in, NULL);
    l->count = l->first;
}

static inline void qpi_list_add(qpi_list *l, int n, const qp_tensor *group) {
    if (l->count + n > l->op->max_in) qpi_list_run(l);
    memcpy(l->in + l->count, group, (size_t)n * sizeof *group);
    l->count += n;
}

#endif
