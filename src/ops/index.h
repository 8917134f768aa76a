/* Integer tensors as indices: i64 or i32, each value checked before it is used. */
#ifndef QUIPU_OPS_INDEX_H
#define QUIPU_OPS_INDEX_H

#include "quipu/op.h"

static inline int64_t index_at(const qp_view *v, int64_t offset) {
    return v->dtype == QP_I64 ? ((const int64_t *)v->data)[offset] : ((const int32_t *)v->data)[offset];
}

/* For `shape`: input i holds integers. */
static inline bool index_check_type(const qp_call *c, int i) {
    if (c->in[i].dtype == QP_I64 || c->in[i].dtype == QP_I32) return true;
    qp_call_fail(c, QP_ERR_TYPE, "input %d is %s, expected i64 or i32", i, qp_dtype_name(c->in[i].dtype));
    return false;
}

/* For kernels and `plain`, before the loop: the values of input i are 0 to n - 1. */
static inline bool index_check(const qp_call *c, int i, int64_t n) {
    const qp_view *v = &c->in[i];
    int64_t        count = qp_view_count(v);
    for (int64_t at = 0; at < count; at++) {
        int64_t value = index_at(v, qp_view_offset(v, at));
        if (value >= 0 && value < n) continue;
        qp_call_fail(c, QP_ERR_ARGUMENT, "input %d holds %lld, expected 0 to %lld", i, (long long)value,
                     (long long)n - 1);
        return false;
    }
    return true;
}

#endif
