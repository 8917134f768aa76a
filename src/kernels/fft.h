/* Fourier transforms of many channels at once: each lane of a vector is a channel of its own, so a transform
 * is written as for one number. An element of a row of n (a power of two) is a vector of real parts and one of
 * imaginary parts. Decimation in frequency leaves the frequencies in the order of their reversed bits, and the
 * inverse takes them so: nothing is ever permuted, and a product of spectra does not care.
 *
 * Real rows: z^n = i has n roots z_f = e^(i pi / 2n - 2 pi i f / n), no two of them conjugates of each other. The
 * values there of a polynomial with 2n real coefficients say all of it, so what is multiplied there is multiplied
 * modulo z^2n + 1: the real parts of what comes back are coefficients 0..n-1, the imaginary ones n..2n-1. (The
 * right-angle convolution of Crandall and Fagin 1994, Math. Comp. 62.) A causal convolution of n positions is one
 * product of this kind, without padding.
 *
 * Included with FFT_V (a vector type), FFT_S (its element), FFT_FMA(a, b, c) and FFT(name). */
#include <math.h>
#include <stdint.h>

/* ---- Tables ------------------------------------------------------------------------------------------- */

#define FFT_FIRST(n) (2 * (n)) /* numbers that the first pass takes, and those behind it */
#define FFT_REST(n) (2 * (n))

static inline void FFT(put)(FFT_S *out, double turns) {
    double angle = 2 * M_PI * turns;
    out[0] = (FFT_S)cos(angle);
    out[1] = (FFT_S)sin(angle);
}

/* For each size n, n/4, .. > 4: w^2j, w^j and w^3j for j < size/4, w = e^(-2 pi i / size). */
static inline void FFT(fill_rest)(FFT_S *table, int64_t n) {
    for (; n > 4; n /= 4)
        for (int64_t j = 0; j < n / 4; j++, table += 6)
            for (int k = 0; k < 3; k++)
                FFT(put)(table + 2 * k, -(double)((k == 0 ? 2 : k == 1 ? 1 : 3) * j) / (double)n);
}

/* The weight e^(i pi j / 2n) of element j, times 1, w^2j, w^j, w^3j. */
static inline void FFT(fill_first)(FFT_S *table, int64_t n) {
    for (int64_t j = 0; j < n / 4; j++, table += 8) {
        double w = -(double)j / (double)n, weight = (double)j / (double)(4 * n);
        FFT(put)(table, weight);
        FFT(put)(table + 2, weight + 2 * w);
        FFT(put)(table + 4, weight + w);
        FFT(put)(table + 6, weight + 3 * w);
    }
}

/* ---- Complex numbers -------------------------------------------------------------------------------------- */

typedef struct {
    FFT_V re, im;
} FFT(z);

static inline FFT(z) FFT(add)(FFT(z) a, FFT(z) b) { return (FFT(z)){a.re + b.re, a.im + b.im}; }
static inline FFT(z) FFT(sub)(FFT(z) a, FFT(z) b) { return (FFT(z)){a.re - b.re, a.im - b.im}; }
static inline FFT(z) FFT(turn)(FFT(z) a) { return (FFT(z)){-a.im, a.re}; } /* i a */
static inline FFT(z) FFT(mul)(FFT(z) a, FFT_V re, FFT_V im) {
    return (FFT(z)){FFT_FMA(a.re, re, -(a.im * im)), FFT_FMA(a.re, im, a.im * re)};
}
static inline FFT(z) FFT(by)(FFT(z) a, const FFT_S *w) {
    return FFT(mul)(a, w[0] - (FFT_V){0}, w[1] - (FFT_V){0});
}
static inline FFT(z) FFT(back)(FFT(z) a, const FFT_S *w) {
    return FFT(mul)(a, w[0] - (FFT_V){0}, -w[1] - (FFT_V){0});
}

/* a b + c and a conj(b) + c */
static inline FFT(z) FFT(mul_add)(FFT(z) a, FFT(z) b, FFT(z) c) {
    return (FFT(z)){FFT_FMA(a.re, b.re, FFT_FMA(-a.im, b.im, c.re)),
                    FFT_FMA(a.re, b.im, FFT_FMA(a.im, b.re, c.im))};
}
static inline FFT(z) FFT(conj)(FFT(z) a) { return (FFT(z)){a.re, -a.im}; }

/* ---- Passes: row z of n, its table w ------------------------------------------------------------------------ */

/* One row of n becomes four of n/4: of the frequencies 0, 2, 1 and 3 modulo 4. */
static inline void FFT(apart)(FFT(z) * z, int64_t n, const FFT_S *w) {
    for (int64_t j = 0, q = n / 4; j < q; j++, w += 6) {
        FFT(z) a = z[j], b = z[j + q], c = z[j + 2 * q], d = z[j + 3 * q];
        FFT(z) s = FFT(add)(a, c), t = FFT(add)(b, d), u = FFT(sub)(a, c), v = FFT(turn)(FFT(sub)(b, d));
        z[j] = FFT(add)(s, t);
        z[j + q] = FFT(by)(FFT(sub)(s, t), w);
        z[j + 2 * q] = FFT(by)(FFT(sub)(u, v), w + 2);
        z[j + 3 * q] = FFT(by)(FFT(add)(u, v), w + 4);
    }
}

/* The inverse, n times as large. */
static inline void FFT(together)(FFT(z) * z, int64_t n, const FFT_S *w) {
    for (int64_t j = 0, q = n / 4; j < q; j++, w += 6) {
        FFT(z)
        a = z[j],
        b = FFT(back)(z[j + q], w), c = FFT(back)(z[j + 2 * q], w + 2), d = FFT(back)(z[j + 3 * q], w + 4);
        FFT(z) s = FFT(add)(a, b), t = FFT(add)(c, d), u = FFT(sub)(a, b), v = FFT(turn)(FFT(sub)(c, d));
        z[j] = FFT(add)(s, t);
        z[j + 2 * q] = FFT(sub)(s, t);
        z[j + q] = FFT(add)(u, v);
        z[j + 3 * q] = FFT(sub)(u, v);
    }
}

/* Four neighbours, whose weights are 1. */
static inline void FFT(apart4)(FFT(z) * z) {
    FFT(z)
    s = FFT(add)(z[0], z[2]),
    t = FFT(add)(z[1], z[3]), u = FFT(sub)(z[0], z[2]), v = FFT(turn)(FFT(sub)(z[1], z[3]));
    z[0] = FFT(add)(s, t);
    z[1] = FFT(sub)(s, t);
    z[2] = FFT(sub)(u, v);
    z[3] = FFT(add)(u, v);
}
static inline void FFT(together4)(FFT(z) * z) {
    FFT(z)
    s = FFT(add)(z[0], z[1]),
    t = FFT(add)(z[2], z[3]), u = FFT(sub)(z[0], z[1]), v = FFT(turn)(FFT(sub)(z[2], z[3]));
    z[0] = FFT(add)(s, t);
    z[2] = FFT(sub)(s, t);
    z[1] = FFT(add)(u, v);
    z[3] = FFT(sub)(u, v);
}
static inline void FFT(pair)(FFT(z) * z) {
    FFT(z) a = z[0], b = z[1];
    z[0] = FFT(add)(a, b);
    z[1] = FFT(sub)(a, b);
}

/* A row of n is done when n is 2 or 4. */
#define FFT_LEAF 4
static inline void FFT(leaf_apart)(FFT(z) * z, int64_t n) { n == 4 ? FFT(apart4)(z) : FFT(pair)(z); }
static inline void FFT(leaf_together)(FFT(z) * z, int64_t n) { n == 4 ? FFT(together4)(z) : FFT(pair)(z); }

/* The whole row, depth first: small parts stay in the nearest cache. */
static void FFT(forward)(FFT(z) * z, int64_t n, const FFT_S *w) {
    if (n <= FFT_LEAF) {
        FFT(leaf_apart)(z, n);
        return;
    }
    FFT(apart)(z, n, w);
    for (int k = 0; k < 4; k++) FFT(forward)(z + k * (n / 4), n / 4, w + 6 * (n / 4));
}

static void FFT(inverse)(FFT(z) * z, int64_t n, const FFT_S *w) {
    if (n <= FFT_LEAF) {
        FFT(leaf_together)(z, n);
        return;
    }
    for (int k = 0; k < 4; k++) FFT(inverse)(z + k * (n / 4), n / 4, w + 6 * (n / 4));
    FFT(together)(z, n, w);
}

static inline FFT(z) FFT(weighed)(FFT_V x, int k) { /* e^(i pi k / 8) x */
    static const FFT_S c[] = {1, (FFT_S)0.92387953251128674, (FFT_S)0.70710678118654752,
                              (FFT_S)0.38268343236508977};
    return (FFT(z)){x * c[k], k ? x * c[4 - k] : (FFT_V){0}};
}

/* Of a real row's element j and those n/4 behind each other: the first pass with its weights. w: fill_first's
 * table + 8 j. */
static inline void FFT(enter)(const FFT_V x[4], FFT(z) * z, int64_t q, const FFT_S *w) {
    FFT(z) a = {x[0], {0}}, b = FFT(weighed)(x[1], 1), c = FFT(weighed)(x[2], 2), d = FFT(weighed)(x[3], 3);
    FFT(z) s = FFT(add)(a, c), t = FFT(add)(b, d), u = FFT(sub)(a, c), v = FFT(turn)(FFT(sub)(b, d));
    z[0] = FFT(by)(FFT(add)(s, t), w);
    z[q] = FFT(by)(FFT(sub)(s, t), w + 2);
    z[2 * q] = FFT(by)(FFT(sub)(u, v), w + 4);
    z[3 * q] = FFT(by)(FFT(add)(u, v), w + 6);
}

/* The last pass of the inverse: the real parts, n times as large. */
static inline void FFT(leave)(FFT_V x[4], const FFT(z) * z, int64_t q, const FFT_S *w) {
    FFT(z)
    a = FFT(back)(z[0], w),
    b = FFT(back)(z[q], w + 2), c = FFT(back)(z[2 * q], w + 4), d = FFT(back)(z[3 * q], w + 6);
    FFT(z) s = FFT(add)(a, b), t = FFT(add)(c, d), u = FFT(sub)(a, b), v = FFT(turn)(FFT(sub)(c, d));
    FFT(z) y1 = FFT(add)(u, v), y2 = FFT(sub)(s, t), y3 = FFT(sub)(u, v);
    x[0] = s.re + t.re;
    x[1] = FFT(weighed)(y1.re, 1).re + FFT(weighed)(y1.im, 1).im;
    x[2] = FFT(weighed)(y2.re, 2).re + FFT(weighed)(y2.im, 2).im;
    x[3] = FFT(weighed)(y3.re, 3).re + FFT(weighed)(y3.im, 3).im;
}
