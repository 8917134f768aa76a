#include "kernels/peak.h"

#include "core/isa.h"
#include "core/simd.h"

/* Enough independent chains to hide the latency of two units, few enough for 16 registers. */
#define CHAINS 12

double QK(qk_peak)(int64_t steps, float *sink);

double QK(qk_peak)(int64_t steps, float *sink) {
    vf x[CHAINS], a = vf_set1(*sink), b = vf_set1(1 - *sink), sum = {0};
    for (int i = 0; i < CHAINS; i++) x[i] = vf_set1((float)i);
    for (int64_t s = 0; s < steps; s++)
        for (int i = 0; i < CHAINS; i++) x[i] = vf_fma(x[i], a, b);
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    *sink = sum[0];
    return (double)steps * CHAINS * VF_LANES * 2;
}
