/* Copies between any two layouts: contiguous rows as they are, transpositions by tiles. */
#ifndef QUIPU_KERNELS_COPY_H
#define QUIPU_KERNELS_COPY_H

#include "core/isa.h"
#include "quipu/op.h"

/* dst's elements become src's; equal shapes and types. */
#define qk_copy QK(qk_copy)
void qk_copy(const qp_exec *exec, qp_view dst, qp_view src);

/* For ops that only move elements: every type will do. */
static inline bool qk_copy_takes(const qp_call *c) {
    (void)c;
    return true;
}

/* The part of v that is `count` places long from `start` along an axis. */
static inline qp_view qk_part(qp_view v, int axis, int64_t start, int64_t count) {
    v.shape[axis] = count;
    v.data = (char *)v.data + start * v.stride[axis] * (int64_t)qp_dtype_bytes(v.dtype);
    return v;
}

#endif
