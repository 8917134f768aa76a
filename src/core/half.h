/* 16-bit floats: bfloat16 and IEEE half, round to nearest even, NaN stays NaN. */
#ifndef QUIPU_CORE_HALF_H
#define QUIPU_CORE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float qpi_bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float    f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t qpi_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

static inline float qpi_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023u, u;
    float    f;
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 */
        f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    u = sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | mantissa << 13;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t qpi_f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | ((u >> 13) & 0x3ff));
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and more round to infinity */
    if (u < 0x38800000u) { /* subnormal: adding 0.5 lets the FPU round at bit 2^-24 */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f;
        memcpy(&u, &a, 4);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    u += 0xc8000000u + 0xfffu + ((u >> 13) & 1); /* rebias the exponent, round */
    return (uint16_t)(sign | (u >> 13));
}

#endif
