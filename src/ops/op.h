/* What every op's file includes. */
#ifndef QUIPU_OPS_OP_H
#define QUIPU_OPS_OP_H

#include <math.h>
#include <string.h>

#include "core/isa.h"
#include "core/simd.h"
#include "quipu/op.h"
#include "quipu/ops.h"

/* QP_CALL(softmax, &a, x, y): one output; QP_CALL_MANY fills outs. */
#define QP_CALL(op, attr, ...) \
    qp_apply(&qp_op_##op, (int)(sizeof((qp_tensor[]){__VA_ARGS__}) / sizeof(qp_tensor)), \
             (qp_tensor[]){__VA_ARGS__}, attr)
#define QP_CALL_MANY(op, attr, outs, ...) \
    qp_apply_many(&qp_op_##op, (int)(sizeof((qp_tensor[]){__VA_ARGS__}) / sizeof(qp_tensor)), \
                  (qp_tensor[]){__VA_ARGS__}, attr, outs)

#endif
