/* Sums over any set of axes of an f32 view with any strides. */
#ifndef QUIPU_KERNELS_SUM_H
#define QUIPU_KERNELS_SUM_H

#include "core/isa.h"
#include "quipu/op.h"

/* out[0] = scale * the sum of in[0] over the axes whose bits are set. out[0] is contiguous and
 * holds the other axes in their order (axes of size 1 may stand among them). */
void QK(qk_sum)(const qp_call *c, uint32_t axes, double scale);

/* Bytes of scratch that qk_sum needs; the same for every instruction set. */
size_t qk_sum_scratch(const qp_call *c, uint32_t axes);

/* x's axes that are summed over (reduced) and the others (kept), both on x's data. */
void qk_sum_split(const qp_view *x, uint32_t axes, qp_view *kept, qp_view *reduced);

#endif
