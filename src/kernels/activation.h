/* Activations and their slopes, one vector at a time, with the right limits at both ends. Errors
 * are those of f32: about 1e-7 of 1 for a slope and of |x| for a value. */
#ifndef QUIPU_KERNELS_ACTIVATION_H
#define QUIPU_KERNELS_ACTIVATION_H

#include "core/simd.h"

/* 1 / (1 + e^-x) */
static inline vf qk_sigmoid(vf x) { return 1.0f / (1.0f + vf_exp(-x)); }

/* 1/2 + x P(x^2) / Q(x^2), x held within the bound; np and nq coefficients. Quotients of half the
 * length of a polynomial as good. */
static inline __attribute__((always_inline)) vf qk_half_odd(vf x, float bound, const float *p, int np,
                                                            const float *q, int nq) {
    x = vf_min(vf_set1(bound), vf_max(vf_set1(-bound), x));
    vf square = x * x;
    return x * vf_poly(square, p, np) / vf_poly(square, q, nq) + 0.5f;
}

/* x Phi(x), arXiv:1606.08415. Phi and the slope Phi + x phi are minimax quotients up to where they
 * are 0 or 1. */
static inline vf qk_gelu(vf x) {
    static const float p[] = {3.989422619e-01f, 3.293584660e-02f, 4.627997987e-03f,
                              1.603352721e-04f, 6.379076694e-06f, 2.405029953e-08f};
    static const float q[] = {1.000000000e+00f, 2.492241561e-01f, 2.813886292e-02f,
                              1.836575801e-03f, 7.135262422e-05f, 1.237169386e-06f};
    vf                 y = x * qk_half_odd(x, 5.3f, p, 6, q, 6);
    return vf_select(vf_lt(x, vf_set1(-5.3f)), (vf){0}, y);
}
static inline vf qk_gelu_slope(vf x) {
    static const float p[] = {7.978847027e-01f, -4.371521994e-02f, 1.460875664e-02f, -1.840440091e-04f,
                              3.267214197e-05f, -1.596811074e-07f, 3.398432646e-09f, -1.894527243e-11f};
    static const float q[] = {1.000000000e+00f, 2.785461247e-01f, 3.615383059e-02f,
                              2.839319641e-03f, 1.419000619e-04f, 4.957571491e-06f};
    return qk_half_odd(x, 5.8f, p, 8, q, 6);
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
    vf s = qk_sigmoid(u);
    return vf_fma(x * du, s * (1.0f - s), s);
}

/* x s(x), arXiv:1702.03118 */
static inline vf qk_silu(vf x) { return x / (1.0f + vf_exp(-x)); }
static inline vf qk_silu_slope(vf x) {
    vf s = qk_sigmoid(x);
    return s * vf_fma(x, 1.0f - s, vf_set1(1.0f));
}

/* log(1 + e^x) = max(x, 0) + log(u) + (what u lost in rounding) / u, u = 1 + e^-|x|; the line stands
 * for 1 / u on 1..2 */
static inline vf qk_softplus(vf x) {
    vf e = vf_exp(-vf_abs(x)), u = 1.0f + e, lost = e - (u - 1.0f);
    vf inverse = vf_fma(u, vf_set1(-0.5f), vf_set1(1.457f));
    return vf_max(x, (vf){0}) + vf_log_normal(u, (vf){0}, lost * inverse);
}

#endif
