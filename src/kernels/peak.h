/* What the arithmetic units can do at most: the figure that bench sets beside products. */
#ifndef QUIPU_KERNELS_PEAK_H
#define QUIPU_KERNELS_PEAK_H

#include <stdint.h>

/* Runs `steps` rounds of multiply-adds in registers alone and returns how many floating point
 * operations that were; *sink receives a value that depends on all of them. One variant for
 * each instruction set: qk_peak_base, qk_peak_avx2, qk_peak_avx512. */
typedef double qk_peak_fn(int64_t steps, float *sink);

#endif
