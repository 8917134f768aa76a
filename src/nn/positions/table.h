/* What learned absolute positions have in common: a table [P, D]. Positions beyond it are an error. */
#ifndef QUIPU_NN_POSITIONS_TABLE_H
#define QUIPU_NN_POSITIONS_TABLE_H

#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor table; /* [P, D] */
} position_table;

static void table_init(void *self, qp_build *b) {
    position_table *p = self;
    p->table = qp_param(b->module, "weight", b->init, 2, (int64_t[]){b->max_positions, b->width});
}

/* The rows of the positions, [B, T, D] of x's type: the table may be kept in 16 bits. */
static qp_tensor table_rows(void *self, qp_tensor x, const qp_sequence *s) {
    position_table *p = self;
    if (s->length <= qp_size(p->table, 0)) return qp_cast(qp_embedding(p->table, s->positions), qp_dtype_of(x));
    qp_fail(x.ctx, QP_ERR_ARGUMENT, "positions: %lld positions, the model has %lld", (long long)s->length,
            (long long)qp_size(p->table, 0));
    return qpi_poison(x.ctx);
}

#endif
