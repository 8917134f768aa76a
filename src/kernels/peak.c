#include "kernels/peak.h"

#include "core/isa.h"
#include "core/simd.h"

/* Enough independent chains to hide the latency of two units, few enough for 16 registers. */
#define CHAINS 12

double QK(qk_peak)(qp_dtype type, int64_t steps, float *sink);

static double peak_f32(int64_t steps, float *sink) {
    vf x[CHAINS], a = vf_set1(*sink), b = vf_set1(1 - *sink), sum = {0};
    for (int i = 0; i < CHAINS; i++) x[i] = vf_set1((float)i);
    for (int64_t s = 0; s < steps; s++)
        for (int i = 0; i < CHAINS; i++) x[i] = vf_fma(x[i], a, b);
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    *sink = sum[0];
    return (double)steps * CHAINS * VF_LANES * 2;
}

#if VF_LANES == 16
/* Instructions that the files of this instruction set are not compiled for. Variables of their own
 * stay in registers. */
#define EACH(X) \
    X(0) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)
#define ZERO(i) vi x##i = {0};
#define ADD(i) sum += x##i;
#define STEP(i) __asm__ volatile(INSTRUCTION " %1, %1, %0" : "+v"(x##i) : "v"(a));
#define PEAK(name, operations) \
    static double name(int64_t steps, float *sink) { \
        vi a = {0}, sum = {0}; \
        EACH(ZERO) \
        for (int64_t s = 0; s < steps; s++) { \
            EACH(STEP) \
        } \
        EACH(ADD) \
        *sink = (float)sum[0]; \
        return (double)steps * 20 * VF_LANES * operations; \
    }
#define INSTRUCTION "vdpbf16ps"
PEAK(peak_bf16, 4)
#undef INSTRUCTION
#define INSTRUCTION "vpdpbusd"
PEAK(peak_bytes, 8)
#endif

double QK(qk_peak)(qp_dtype type, int64_t steps, float *sink) {
    if (type == QP_F32) return peak_f32(steps, sink);
#if VF_LANES == 16
    if (type == QP_BF16 && qpi_cpu_bf16()) return peak_bf16(steps, sink);
    if (type == QP_U8 && qpi_cpu_vnni()) return peak_bytes(steps, sink);
#endif
    return 0;
}
