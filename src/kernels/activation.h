/* Activations and their slopes, one vector at a time. Each needs one exponential, with limits
 * right at both ends; x^2 is bounded where its infinity would meet a zero. */
#ifndef QUIPU_KERNELS_ACTIVATION_H
#define QUIPU_KERNELS_ACTIVATION_H

#include "core/simd.h"

/* x Phi(x), arXiv:1606.08415 */
static inline vf qk_gelu(vf x) {
    vf half = 0.5f * x;
    return vf_fma(half, vf_erf(x * 0.707106781f), half);
}
static inline vf qk_gelu_slope(vf x) {
    vf density = 0.398942280f * vf_exp(-0.5f * x * x);
    return vf_fma(x, density, vf_fma(vf_set1(0.5f), vf_erf(x * 0.707106781f), vf_set1(0.5f)));
}

/* x / (1 + e^-u), u = sqrt(8 / pi) (x + 0.044715 x^3): 1 + tanh(u / 2) is twice the sigmoid of u */
static inline vf qk_gelu_tanh(vf x) {
    vf u = x * vf_fma(x * x, vf_set1(0.0713548163f), vf_set1(1.59576912f));
    return x / (1.0f + vf_exp(-u));
}
static inline vf qk_gelu_tanh_slope(vf x) {
    vf square = vf_min(x * x, vf_set1(1e4f));
    vf u = x * vf_fma(square, vf_set1(0.0713548163f), vf_set1(1.59576912f));
    vf du = vf_fma(square, vf_set1(0.214064449f), vf_set1(1.59576912f));
    vf s = 1.0f / (1.0f + vf_exp(-u));
    return vf_fma(x * du, s * (1.0f - s), s);
}

/* x s(x), arXiv:1702.03118 */
static inline vf qk_silu(vf x) { return x / (1.0f + vf_exp(-x)); }
static inline vf qk_silu_slope(vf x) {
    vf s = 1.0f / (1.0f + vf_exp(-x));
    return s * vf_fma(x, 1.0f - s, vf_set1(1.0f));
}

/* log(1 + e^x) */
static inline vf qk_softplus(vf x) { return vf_max(x, (vf){0}) + vf_log1p(vf_exp(-vf_abs(x))); }

#endif
