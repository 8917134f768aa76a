/* Rows of floats as 8-bit whole numbers with a scale each, and their products with 8-bit weights. */
#ifndef QUIPU_KERNELS_INT8_H
#define QUIPU_KERNELS_INT8_H

#include <math.h>
#include <stdint.h>

#include "core/isa.h"
#include "quipu/op.h"

#define QK_INT8_MAX_K 65536 /* sums of so many products fit into 32 bits */

#define QK_INT8_LEAST 1e-30f /* a row of less is 0: 127 / most must fit into f32 */

/* What 127 stands for in a row whose largest magnitude is `most`, and a value in these units: single
 * precision and ties to even everywhere, so that every instruction set gets the same numbers. */
static inline float qk_int8_scale(float most) { return most / 127.0f; }
static inline float qk_int8_inverse(float most) {
    return most > QK_INT8_LEAST && most < INFINITY ? 127.0f / most : 0.0f;
}
static inline float qk_int8_round(float x, float inverse) { return rintf(x * inverse); }

typedef struct {
    int64_t       m, n, k;
    const float  *x; /* [m, k], rows x_row apart */
    int64_t       x_row;
    const int8_t *w; /* [n, k], rows w_row apart */
    int64_t       w_row;
    const float  *scale, *bias; /* [n]; bias may be NULL */
    float        *y;            /* [m, n] */
} qk_int8_args;

size_t QK(qk_int8_scratch)(int64_t m, int64_t k);
/* y = (x's rows as 8-bit numbers) w^T, times their scales and w's, + bias. */
void QK(qk_int8_product)(const qp_exec *exec, const qk_int8_args *a);

#endif
