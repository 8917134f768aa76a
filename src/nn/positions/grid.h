/* Positions of a grid that is read row by row: place p stands in row p / width, column p % width. */
#ifndef QUIPU_NN_POSITIONS_GRID_H
#define QUIPU_NN_POSITIONS_GRID_H

#include "core/core.h"
#include "nn/part.h"

/* i64, of the positions' shape; column: or the row. */
static inline qp_tensor grid_axis(qp_tensor positions, int64_t width, bool column) {
    int64_t   n = qp_count(positions);
    qp_tensor t = qp_empty(positions.ctx, QP_I64, 1, &n);
    int64_t  *p = qp_data_write(t);
    if (!p || qp_read(positions, QP_I64, p, n) != QP_OK) return qpi_poison(positions.ctx);
    for (int64_t i = 0; i < n; i++) p[i] = column ? p[i] % width : p[i] / width;
    return qp_reshape(t, 2, (int64_t[]){qp_size(positions, 0), qp_size(positions, 1)});
}

#endif
