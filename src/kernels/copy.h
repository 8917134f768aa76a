/* Copies between any two layouts: contiguous rows as they are, transpositions by tiles. */
#ifndef QUIPU_KERNELS_COPY_H
#define QUIPU_KERNELS_COPY_H

#include "core/isa.h"
#include "quipu/op.h"

/* dst's elements become src's; equal shapes and types. */
#define qk_copy QK(qk_copy)
void qk_copy(const qp_exec *exec, qp_view dst, qp_view src);

#endif
