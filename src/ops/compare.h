/* What the comparisons share. */
#ifndef QUIPU_OPS_COMPARE_H
#define QUIPU_OPS_COMPARE_H

#include "core/core.h"
#include "ops/op.h"

static inline void compare_shape(qp_call *c) {
    qpi_broadcast_shape(c, 0);
    c->out[0].dtype = QP_BOOL;
}

#define COMPARE_SAMPLES \
    {.in = "x[3,5] x[3,5]"}, {.in = "x[4,1,5] x[3,1]"}, {.in = "x[] x[2,3]"}, {.in = "x[0,3] x[3]"}, \
        {.in = "i3[67] i3[67]"}, {.in = "i3[2,5] i3[2,1]"}, {.in = "b[9] b[9]"}

#endif
