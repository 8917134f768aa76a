/* One small vector type over compiler vectors: as many floats as the instruction set of
 * this copy holds. vf: floats, vi: int32, vm: a truth value for each lane; arithmetic,
 * & | ^ ~ and shifts are the C operators.
 *
 * The _n forms touch the first n lanes only (0 <= n <= VF_LANES; loads fill with 0), so a
 * tail runs the same vector code as the rest and bits do not depend on where work is cut.
 *
 * Instructions that no C operator gives are the compilers' own builtins: immintrin.h is
 * 60,000 lines, half of what compiling an op would cost. Where gcc and clang name one
 * differently it has a macro below.
 */
#ifndef QUIPU_CORE_SIMD_H
#define QUIPU_CORE_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VF_LANES 16
#elif defined(__AVX2__)
#define VF_LANES 8
#else
#define VF_LANES 4
#endif

typedef float    vf __attribute__((vector_size(4 * VF_LANES)));
typedef int32_t  vi __attribute__((vector_size(4 * VF_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * VF_LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * VF_LANES))); /* bits of bf16 or f16 */
#ifdef __AVX512F__
typedef uint16_t vm;
#else
typedef vi vm;
#endif

#ifdef __SSE2__
typedef float     simd_f4 __attribute__((vector_size(16)));
typedef int32_t   simd_i4 __attribute__((vector_size(16)));
typedef float     simd_f8 __attribute__((vector_size(32)));
typedef int16_t   simd_h __attribute__((vector_size(2 * VF_LANES)));
typedef long long simd_q __attribute__((vector_size(4 * VF_LANES)));
typedef uint64_t  simd_u __attribute__((vector_size(4 * VF_LANES)));
#endif
#ifdef __AVX2__
#define SIMD_PART4(v, i) __builtin_ia32_vextractf128_ps256(v, i)
#endif
#ifdef __AVX512F__
#define SIMD_PART8(v, i) __builtin_ia32_extractf32x8_mask(v, i, (simd_f8){0}, 0xff)
#define SIMD_ALL ((vm)0xffff)
#define SIMD_DIRECTION 4 /* the rounding direction that is set */
#ifdef __clang__
#define SIMD_SELECT(m, a, b) __builtin_ia32_selectps_512(m, a, b)
#define SIMD_MAX(a, b) __builtin_ia32_maxps512(a, b, SIMD_DIRECTION)
#define SIMD_MIN(a, b) __builtin_ia32_minps512(a, b, SIMD_DIRECTION)
#define SIMD_SQRT(x) __builtin_ia32_sqrtps512(x, SIMD_DIRECTION)
#define SIMD_MUL_EVEN(a, b) __builtin_ia32_pmuludq512(a, b)
#define SIMD_WIDEN(h) __builtin_convertvector(h, vu)
#else
#define SIMD_SELECT(m, a, b) __builtin_ia32_blendmps_512_mask(b, a, m)
#define SIMD_MAX(a, b) __builtin_ia32_maxps512_mask(a, b, a, SIMD_ALL, SIMD_DIRECTION)
#define SIMD_MIN(a, b) __builtin_ia32_minps512_mask(a, b, a, SIMD_ALL, SIMD_DIRECTION)
#define SIMD_SQRT(x) __builtin_ia32_sqrtps512_mask(x, x, SIMD_ALL, SIMD_DIRECTION)
#define SIMD_MUL_EVEN(a, b) __builtin_ia32_pmuludq512_mask(a, b, (simd_q){0}, 0xff)
#define SIMD_WIDEN(h) __builtin_ia32_pmovzxwd512_mask((simd_h)(h), (vi){0}, SIMD_ALL)
#endif
#elif defined(__AVX2__)
#define SIMD_MAX(a, b) __builtin_ia32_maxps256(a, b)
#define SIMD_MIN(a, b) __builtin_ia32_minps256(a, b)
#define SIMD_SQRT(x) __builtin_ia32_sqrtps256(x)
#define SIMD_MUL_EVEN(a, b) __builtin_ia32_pmuludq256(a, b)
#ifdef __clang__
#define SIMD_WIDEN(h) __builtin_convertvector(h, vu)
#else
#define SIMD_WIDEN(h) __builtin_ia32_pmovzxwd256((simd_h)(h))
#endif
#elif defined(__SSE2__)
#define SIMD_MAX(a, b) __builtin_ia32_maxps(a, b)
#define SIMD_MIN(a, b) __builtin_ia32_minps(a, b)
#define SIMD_SQRT(x) __builtin_ia32_sqrtps(x)
#endif

/* ---- Memory ------------------------------------------------------------------------- */

static inline vf vf_set1(float x) { return x - (vf){0}; }
static inline vi vi_set1(int32_t x) { return x - (vi){0}; }
static inline vu vu_set1(uint32_t x) { return x - (vu){0}; }

static inline vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vi vi_load(const int32_t *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vi_store(int32_t *p, vi v) { memcpy(p, &v, sizeof v); }

static inline vi vi_iota(void) /* 0, 1, 2, .. */
{
#if VF_LANES == 16
    return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VF_LANES == 8
    return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vi){0, 1, 2, 3};
#endif
}

/* The first n lanes. */
static inline vm vm_first(int n) {
#ifdef __AVX512F__
    return (vm)((1u << n) - 1u);
#else
    return vi_iota() < vi_set1(n);
#endif
}

static inline vf vf_load_n(const float *p, int n) {
#if defined(__AVX512F__)
    return __builtin_ia32_loadups512_mask(p, (vf){0}, vm_first(n));
#elif defined(__AVX2__)
    return __builtin_ia32_maskloadps256((const vf *)p, vm_first(n));
#else
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
#endif
}
static inline void vf_store_n(float *p, vf v, int n) {
#if defined(__AVX512F__)
    __builtin_ia32_storeups512_mask(p, v, vm_first(n));
#elif defined(__AVX2__)
    __builtin_ia32_maskstoreps256((vf *)p, vm_first(n), v);
#else
    memcpy(p, &v, (size_t)n * sizeof *p);
#endif
}

static inline vh vh_load(const uint16_t *p) {
    vh v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vh_store(uint16_t *p, vh v) { memcpy(p, &v, sizeof v); }
static inline vh vh_load_n(const uint16_t *p, int n) {
#ifdef __AVX512F__
    return (vh)__builtin_ia32_loaddquhi256_mask((const void *)p, (simd_h){0}, vm_first(n));
#else
    vh v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
#endif
}
static inline void vh_store_n(uint16_t *p, vh v, int n) {
#ifdef __AVX512F__
    __builtin_ia32_storedquhi256_mask((void *)p, (simd_h)v, vm_first(n));
#else
    memcpy(p, &v, (size_t)n * sizeof *p);
#endif
}

/* ---- Comparisons -------------------------------------------------------------------- */

#ifdef __AVX512F__
#define VF_COMPARE(name, op, code) \
    static inline vm name(vf a, vf b) { \
        return __builtin_ia32_cmpps512_mask(a, b, code, SIMD_ALL, SIMD_DIRECTION); \
    }
#define VI_COMPARE(name, op, code) \
    static inline vm name(vi a, vi b) { return __builtin_ia32_cmpd512_mask(a, b, code, SIMD_ALL); }
#else
#define VF_COMPARE(name, op, code) \
    static inline vm name(vf a, vf b) { return (vm)(a op b); }
#define VI_COMPARE(name, op, code) \
    static inline vm name(vi a, vi b) { return (vm)(a op b); }
#endif
/* codes: ordered and quiet */
VF_COMPARE(vf_lt, <, 0x11)
VF_COMPARE(vf_le, <=, 0x12)
VF_COMPARE(vf_gt, >, 0x1e)
VF_COMPARE(vf_ge, >=, 0x1d)
VF_COMPARE(vf_eq, ==, 0x00)
VI_COMPARE(vi_eq, ==, 0)
VI_COMPARE(vi_lt, <, 1)
#undef VF_COMPARE
#undef VI_COMPARE

/* Each lane: m ? a : b. */
static inline vf vf_select(vm m, vf a, vf b) {
#if defined(__AVX512F__)
    return SIMD_SELECT(m, a, b);
#elif defined(__AVX2__)
    return __builtin_ia32_blendvps256(b, a, (vf)m);
#else
    return (vf)((m & (vi)a) | (~m & (vi)b));
#endif
}
static inline vi vi_select(vm m, vi a, vi b) { return (vi)vf_select(m, (vf)a, (vf)b); }
static inline vu vu_select(vm m, vu a, vu b) { return (vu)vf_select(m, (vf)a, (vf)b); }

/* ---- Arithmetic --------------------------------------------------------------------- */

/* a * b + c; rounded once where the instruction set can. */
static inline vf vf_fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return __builtin_ia32_vfmaddps512_mask(a, b, c, SIMD_ALL, SIMD_DIRECTION);
#elif defined(__FMA__)
    return __builtin_ia32_vfmaddps256(a, b, c);
#else
    return a * b + c;
#endif
}

/* a > b ? a : b and a < b ? a : b: the second one if either is NaN. */
static inline vf vf_max(vf a, vf b) {
#ifdef SIMD_MAX
    return SIMD_MAX(a, b);
#else
    return vf_select(vf_gt(a, b), a, b);
#endif
}
static inline vf vf_min(vf a, vf b) {
#ifdef SIMD_MIN
    return SIMD_MIN(a, b);
#else
    return vf_select(vf_lt(a, b), a, b);
#endif
}

/* a * b of each lane as 64 bits: high and low halves. */
static inline void vu_mul_wide(vu a, uint32_t b, vu *high, vu *low) {
#ifdef SIMD_MUL_EVEN
    vi     w = vi_set1((int32_t)b);
    simd_u even = (simd_u)SIMD_MUL_EVEN((vi)a, w), odd = (simd_u)SIMD_MUL_EVEN((vi)((simd_u)a >> 32), w);
    simd_u lower = (simd_u){0} + 0xffffffffu;
    *high = (vu)((even >> 32) | (odd & ~lower));
    *low = (vu)((even & lower) | (odd << 32));
#else
    for (int i = 0; i < VF_LANES; i++) {
        uint64_t p = (uint64_t)a[i] * b;
        (*high)[i] = (uint32_t)(p >> 32);
        (*low)[i] = (uint32_t)p;
    }
#endif
}

static inline vf vf_sqrt(vf x) {
#ifdef SIMD_SQRT
    return SIMD_SQRT(x);
#else
    for (int i = 0; i < VF_LANES; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

static inline vf vf_abs(vf x) { return (vf)((vu)x & 0x7fffffffu); }

/* The size of x, the sign of s. */
static inline vf vf_copysign(vf x, vf s) { return (vf)(((vu)x & 0x7fffffffu) | ((vu)s & 0x80000000u)); }

/* To the nearest integer, ties to even. */
static inline vf vf_round(vf x) {
#if defined(__AVX512F__)
    return __builtin_ia32_rndscaleps_mask(x, 8, x, SIMD_ALL, SIMD_DIRECTION);
#elif defined(__AVX2__)
    return __builtin_ia32_roundps256(x, 8);
#else
    vf big = vf_copysign(vf_set1(0x1p23f), x);
    return vf_select(vf_lt(vf_abs(x), vf_set1(0x1p23f)), vf_copysign((x + big) - big, x), x);
#endif
}

static inline vf vf_from_int(vi x) { return __builtin_convertvector(x, vf); }

/* To the nearest int32, ties to even; |x| < 2^31. */
static inline vi vf_to_int(vf x) {
#if defined(__AVX512F__)
    return __builtin_ia32_cvtps2dq512_mask(x, (vi){0}, SIMD_ALL, SIMD_DIRECTION);
#elif defined(__AVX2__)
    return __builtin_ia32_cvtps2dq256(x);
#elif defined(__SSE2__)
    return __builtin_ia32_cvtps2dq(x);
#else
    return __builtin_convertvector(vf_round(x), vi);
#endif
}

/* Over all lanes, halves first: ((0+8)+(4+12)) + .. for 16 lanes. */
#if VF_LANES == 16
#define SIMD_TO_8(op) simd_f8 w = op(SIMD_PART8(v, 0), SIMD_PART8(v, 1));
#elif VF_LANES == 8
#define SIMD_TO_8(op) simd_f8 w = v;
#endif
#if VF_LANES > 4
#define SIMD_TO_4(op8, op4) SIMD_TO_8(op8) simd_f4 x = op4(SIMD_PART4(w, 0), SIMD_PART4(w, 1));
#else
#define SIMD_TO_4(op8, op4) vf x = v;
#endif
#define VF_FOLD(name, op8, op4, op) \
    static inline float name(vf v) { \
        SIMD_TO_4(op8, op4) \
        float even = op(x[0], x[2]), odd = op(x[1], x[3]); \
        return op(even, odd); \
    }
#define SIMD_ADD(a, b) ((a) + (b))
#define SIMD_MAX1(a, b) ((a) > (b) ? (a) : (b))
#define SIMD_MIN1(a, b) ((a) < (b) ? (a) : (b))
VF_FOLD(vf_sum, SIMD_ADD, SIMD_ADD, SIMD_ADD)
VF_FOLD(vf_hmax, __builtin_ia32_maxps256, __builtin_ia32_maxps, SIMD_MAX1)
VF_FOLD(vf_hmin, __builtin_ia32_minps256, __builtin_ia32_minps, SIMD_MIN1)
#undef SIMD_TO_8
#undef SIMD_TO_4
#undef VF_FOLD

/* ---- Half precision: rounded to nearest even, NaN stays NaN --------------------------- */

/* Compilers split these conversions in halves when they are left to them. */
static inline vu vu_from_vh(vh h) {
#ifdef SIMD_WIDEN
    return (vu)SIMD_WIDEN(h);
#else
    return __builtin_convertvector(h, vu);
#endif
}
static inline vh vh_from_vu(vu x) /* each below 2^16 */
{
#if defined(__AVX512F__)
    return (vh)__builtin_ia32_pmovdw512_mask((vi)x, (simd_h){0}, SIMD_ALL);
#elif defined(__AVX2__)
    return (vh)__builtin_ia32_packusdw128((simd_i4)SIMD_PART4((vf)x, 0), (simd_i4)SIMD_PART4((vf)x, 1));
#else
    return __builtin_convertvector(x, vh);
#endif
}

static inline vf vf_from_bf16(vh h) { return (vf)(vu_from_vh(h) << 16); }
static inline vh vf_to_bf16(vf x) {
    vu b = (vu)x;
    vu rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
    vu r = vu_select(vf_eq(x, x), rounded, (b >> 16) | 0x40u);
    return vh_from_vu(r);
}

static inline vf vf_from_f16(vh h) {
#if defined(__AVX512F__)
    return __builtin_ia32_vcvtph2ps512_mask((simd_h)h, (vf){0}, SIMD_ALL, SIMD_DIRECTION);
#elif defined(__F16C__)
    return __builtin_ia32_vcvtph2ps256((simd_h)h);
#else
    vu b = vu_from_vh(h);
    vu special = vu_select(vi_lt((vi)(b & 0x7c00u), vi_set1(0x7c00)), (vu){0}, vu_set1(0x7f800000u));
    vu quiet = vu_select(vi_lt(vi_set1(0x7c00), (vi)(b & 0x7fffu)), vu_set1(0x400000u), (vu){0});
    vf scaled = (vf)((b & 0x7fffu) << 13) * vf_set1(0x1p112f); /* subnormals come out right */
    return (vf)((vu)scaled | special | quiet | ((b & 0x8000u) << 16));
#endif
}
static inline vh vf_to_f16(vf x) {
#if defined(__AVX512F__)
    return (vh)__builtin_ia32_vcvtps2ph512_mask(x, 0, (simd_h){0}, SIMD_ALL);
#elif defined(__F16C__)
    return (vh)__builtin_ia32_vcvtps2ph256(x, 0);
#else
    vu b = (vu)vf_abs(x);
    vu normal = (b - (112u << 23) + 0xfffu + ((b >> 13) & 1u)) >> 13;
    vu subnormal = (vu)((vf)b + vf_set1(0.5f)) - (126u << 23); /* the adder rounds */
    vu nan = 0x7e00u | ((b >> 13) & 0x3ffu);
    vu r = vu_select(vi_lt((vi)b, vi_set1(113 << 23)), subnormal, normal);
    r = vu_select(vi_lt((vi)b, vi_set1(143 << 23)), r, vu_set1(0x7c00u));
    r = vu_select(vf_eq(x, x), r, nan) | (((vu)x >> 16) & 0x8000u);
    return vh_from_vu(r);
#endif
}

static inline vf vf_load_bf16(const uint16_t *p) { return vf_from_bf16(vh_load(p)); }
static inline vf vf_load_bf16_n(const uint16_t *p, int n) { return vf_from_bf16(vh_load_n(p, n)); }
static inline void vf_store_bf16(uint16_t *p, vf x) { vh_store(p, vf_to_bf16(x)); }
static inline void vf_store_bf16_n(uint16_t *p, vf x, int n) { vh_store_n(p, vf_to_bf16(x), n); }
static inline vf vf_load_f16(const uint16_t *p) { return vf_from_f16(vh_load(p)); }
static inline vf vf_load_f16_n(const uint16_t *p, int n) { return vf_from_f16(vh_load_n(p, n)); }
static inline void vf_store_f16(uint16_t *p, vf x) { vh_store(p, vf_to_f16(x)); }
static inline void vf_store_f16_n(uint16_t *p, vf x, int n) { vh_store_n(p, vf_to_f16(x), n); }

/* ---- Functions, within 2 units in the last place, with the limits of C's libm ---------- */

#define VF_INF vf_set1(__builtin_inff())

/* c[n-1] x^(n-1) + .. + c[0]; n is a constant at every call. */
static inline __attribute__((always_inline)) vf vf_poly(vf x, const float *c, int n) {
    vf y = vf_set1(c[n - 1]);
    for (int i = n - 2; i >= 0; i--) y = vf_fma(y, x, vf_set1(c[i]));
    return y;
}

/* x 2^n for integral n in -300..300 */
static inline vf vf_scale2(vf x, vf n) {
#ifdef __AVX512F__
    return __builtin_ia32_scalefps512_mask(x, n, x, SIMD_ALL, SIMD_DIRECTION);
#else
    vi i = vf_to_int(n), half = i >> 1;
    vf a = (vf)(((vu)half + 127u) << 23), b = (vf)((vu)(i - half + 127) << 23);
    return x * a * b;
#endif
}

/* n = round(x / ln 2); returns exp(r) - 1 for r = x - n ln 2. */
static inline vf vf_exp_reduced(vf x, vf *n) {
    static const float c[] = {5.000000000e-01f, 1.666651815e-01f, 4.166620597e-02f, 8.368953131e-03f,
                              1.395057538e-03f};
    *n = vf_round(x * 1.44269504f);
    vf r = vf_fma(*n, vf_set1(-0.693359375f), x);
    r = vf_fma(*n, vf_set1(2.12194440e-4f), r);
    return vf_fma(r * r, vf_poly(r, c, 5), r);
}

static inline vf vf_exp(vf x) {
    vf n, e = vf_exp_reduced(vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x)), &n);
    return vf_scale2(e + 1.0f, n);
}

/* 2^x of finite x: what vf_exp(x ln 2) gives, for fewer instructions. Exact at 0, so that products of many
 * near 1 do not drift. */
static inline vf vf_exp2(vf x) {
    static const float c[] = {6.931472029e-01f, 2.402264791e-01f, 5.550332471e-02f,
                              9.618437358e-03f, 1.339887441e-03f, 1.535336193e-04f};
#ifndef __AVX512F__
    x = vf_min(vf_set1(129.0f), vf_max(vf_set1(-151.0f), x));
#endif
    vf n = vf_round(x), r = x - n;
    return vf_scale2(vf_fma(r, vf_poly(r, c, 6), vf_set1(1.0f)), n);
}

static inline vf vf_expm1(vf x) {
    vf n, e = vf_exp_reduced(vf_min(vf_set1(89.0f), vf_max(vf_set1(-30.0f), x)), &n);
    vf half = vf_scale2(vf_set1(0.5f), n); /* 2^128 is no float, 2^127 is */
    vf y = 2.0f * vf_fma(e, half, half - 0.5f);
    return vf_select(vf_eq(n, (vf){0}), vf_copysign(e, x), y);
}

/* log(x) for positive normal x, plus `extra` in the low part, plus e0 ln 2. */
static inline vf vf_log_normal(vf x, vf e0, vf extra) {
    static const float c[] = {3.333331048e-01f,  -2.499998659e-01f, 2.000222653e-01f,
                              -1.666925251e-01f, 1.421866566e-01f,  -1.238433719e-01f,
                              1.187291518e-01f,  -1.178984717e-01f, 6.915540993e-02f};
    vu                 bits = (vu)x;
    vi                 e = (vi)(bits - 0x3f3504f3u) >> 23; /* mantissa in sqrt(1/2)..sqrt(2) */
    vf                 f = (vf)(bits - ((vu)e << 23)) - 1.0f;
    vf                 n = vf_from_int(e) + e0;
    vf                 y = vf_fma(f * f * f, vf_poly(f, c, 9), vf_fma(n, vf_set1(-2.12194440e-4f), extra));
    y = vf_fma(f * f, vf_set1(-0.5f), y);
    return vf_fma(n, vf_set1(0.693359375f), f + y);
}

static inline vf vf_log(vf x) {
    vm small = vf_lt(x, vf_set1(0x1p-126f));
    vf y = vf_log_normal(vf_select(small, x * 0x1p23f, x), vf_select(small, vf_set1(-23.0f), (vf){0}), (vf){0});
    y = vf_select(vf_lt(x, VF_INF), y, x);
    return vf_select(vf_gt(x, (vf){0}), y,
                     vf_select(vf_eq(x, (vf){0}), -VF_INF, x + vf_set1(__builtin_nanf(""))));
}

static inline vf vf_log1p(vf x) {
    vf u = x + 1.0f;
    vf lost = vf_select(vf_gt(u, vf_set1(2.0f)), 1.0f - (u - x), x - (u - 1.0f));
    vf y = vf_log_normal(u, (vf){0}, lost / u);
    y = vf_select(vf_lt(vf_abs(x), vf_set1(0x1p-25f)), x, y);
    y = vf_select(vf_lt(x, VF_INF), y, x);
    return vf_select(vf_gt(x, vf_set1(-1.0f)), y,
                     vf_select(vf_eq(x, vf_set1(-1.0f)), -VF_INF, x + vf_set1(__builtin_nanf(""))));
}

static inline vf vf_sigmoid(vf x) {
    vf e = vf_exp(-vf_abs(x));
    return vf_select(vf_lt(x, (vf){0}), e, vf_set1(1.0f)) / (1.0f + e);
}

static inline vf vf_tanh(vf x) {
    static const float c[] = {-3.333328366e-01f, 1.333149076e-01f, -5.374349654e-02f, 2.065057680e-02f,
                              -5.717032589e-03f};
    vf                 a = vf_abs(x), z = x * x;
    vf                 near = vf_fma(x * z, vf_poly(z, c, 5), x);
    vf                 far = 1.0f - 2.0f / (vf_exp(a + a) + 1.0f);
    return vf_select(vf_lt(a, vf_set1(0.625f)), near, vf_copysign(far, x));
}

/* x P(x^2) up to 1, then 1 - exp(Q(|x|)) */
static inline vf vf_erf(vf x) {
    static const float p[] = {1.283791661e-01f, -3.761262596e-01f, 1.128360033e-01f, -2.685444430e-02f,
                              5.189535208e-03f, -8.020841633e-04f, 7.889119297e-05f};
    static const float q[] = {-3.205897228e-04f, -1.127171636e+00f, -6.380123496e-01f, -1.032180861e-01f,
                              2.188958041e-02f,  -2.960097278e-03f, 1.876029564e-04f};
    vf                 a = vf_abs(x), z = x * x;
    vf                 near = vf_fma(x, vf_poly(z, p, 7), x);
    vf                 far = 1.0f - vf_exp(vf_poly(vf_min(vf_set1(4.0f), a), q, 7));
    return vf_select(vf_lt(a, vf_set1(1.0f)), near, vf_copysign(far, x));
}

/* Sine and cosine for |x| <= 1e6: the argument is reduced in double precision. */
static inline void vf_sincos(vf x, vf *sine, vf *cosine) {
    static const float s[] = {-1.666665524e-01f, 8.332177997e-03f, -1.951723534e-04f};
    static const float c[] = {4.166664556e-02f, -1.388736651e-03f, 2.443838093e-05f};
    float              in[VF_LANES], rest[VF_LANES];
    uint64_t           bits[VF_LANES];
    uint32_t           quadrant[VF_LANES];
    vf_store(in, x);
    for (int i = 0; i < VF_LANES; i++) {
        double d = in[i];
        double shifted = d * 0.63661977236758134 + 0x1.8p52; /* integer in the low bits */
        double n = shifted - 0x1.8p52;
        rest[i] = (float)((d - n * 1.57079632673412561) - n * 6.07710050650619225e-11);
        memcpy(&bits[i], &shifted, sizeof shifted);
        quadrant[i] = (uint32_t)bits[i];
    }
    vf r = vf_load(rest), z = r * r;
    vu q;
    memcpy(&q, quadrant, sizeof q);
    vf sr = vf_fma(r * z, vf_poly(z, s, 3), r);
    vf cr = vf_fma(z * z, vf_poly(z, c, 3), vf_fma(z, vf_set1(-0.5f), vf_set1(1.0f)));
    vm odd = vi_eq((vi)(q & 1u), vi_set1(1));
    vf a = vf_select(odd, cr, sr), b = vf_select(odd, sr, cr);
    *sine = (vf)((vu)a ^ ((q & 2u) << 30));
    *cosine = (vf)((vu)b ^ (((q + 1u) & 2u) << 30));
}

static inline vf vf_sin(vf x) {
    vf s, c;
    vf_sincos(x, &s, &c);
    return s;
}
static inline vf vf_cos(vf x) {
    vf s, c;
    vf_sincos(x, &s, &c);
    return c;
}

#endif
