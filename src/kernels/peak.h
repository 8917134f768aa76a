/* What the arithmetic units can do at most: the figure that bench sets beside products. */
#ifndef QUIPU_KERNELS_PEAK_H
#define QUIPU_KERNELS_PEAK_H

#include <stdint.h>

#include "quipu/core.h"

/* Runs `steps` rounds of multiply-adds in registers alone and returns how many operations that
 * were; *sink receives a value that depends on all of them. QP_F32; QP_BF16 and QP_U8 are the
 * instructions that sum products of bf16 into f32 and of bytes into int32: 0 where there are none.
 * One variant for each instruction set: qk_peak_base, qk_peak_avx2, qk_peak_avx512. */
typedef double qk_peak_fn(qp_dtype type, int64_t steps, float *sink);

#endif
