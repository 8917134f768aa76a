/* Rows of exponentials: maximum, sum of exponentials, their logarithm. */
#ifndef QUIPU_KERNELS_SOFTMAX_H
#define QUIPU_KERNELS_SOFTMAX_H

#include <math.h>

#include "core/isa.h"
#include "core/simd.h"
#include "kernels/axis.h"

static inline float qk_row_max(const float *x, int64_t n) {
    vf      m[4] = {-VF_INF, -VF_INF, -VF_INF, -VF_INF};
    int64_t i = 0;
    for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
        for (int j = 0; j < 4; j++) m[j] = vf_max(m[j], vf_load(x + i + j * VF_LANES));
    for (; i + VF_LANES <= n; i += VF_LANES) m[0] = vf_max(m[0], vf_load(x + i));
    if (i < n) {
        int left = (int)(n - i);
        m[0] = vf_max(m[0], vf_select(vm_first(left), vf_load_n(x + i, left), -VF_INF));
    }
    return vf_hmax(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
}

#define QK_AHEAD 4096 /* floats: what follows is on its way while exponentials are computed */

/* Sum of e^(x - shift); the terms go to y unless it is NULL. */
static inline float qk_row_exp(const float *x, int64_t n, float shift, float *y) {
    vf      s[2] = {{0}}, b = vf_set1(shift);
    int64_t i = 0;
    for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES)
        for (int j = 0; j < 2; j++) {
            __builtin_prefetch(x + i + j * VF_LANES + QK_AHEAD);
            vf e = vf_exp(vf_load(x + i + j * VF_LANES) - b);
            if (y) vf_store(y + i + j * VF_LANES, e);
            s[j] += e;
        }
    for (; i < n; i += VF_LANES) {
        int left = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        vf  e = vf_exp(vf_load_n(x + i, left) - b);
        if (y) vf_store_n(y + i, e, left);
        s[0] += vf_select(vm_first(left), e, (vf){0});
    }
    return vf_sum(s[0] + s[1]);
}

/* The maximum of each of many lines; 0 for one of -inf alone if `finite`. */
static inline void qk_many_max(const float *x, qk_line l, float *max, bool finite) {
    QK_VECTORS(j, k, l.m) qk_put(max, 1, j, -VF_INF, k);
    for (int64_t i = 0; i < l.n; i++) QK_VECTORS(j, k, l.m)
    qk_put(max, 1, j, vf_max(qk_get(max, 1, j, k), qk_get(x + i * l.stride, 1, j, k)), k);
    for (int j = 0; j < l.m && finite; j++)
        if (max[j] == -INFINITY) max[j] = 0;
}

/* The sums of e^(x - shift) of many lines; the terms go to y unless it is NULL. */
static inline void qk_many_exp(const float *x, qk_line l, const float *shift, float *sum, float *y) {
    QK_VECTORS(j, k, l.m) qk_put(sum, 1, j, (vf){0}, k);
    for (int64_t at = 0; at < l.n * l.stride; at += l.stride) QK_VECTORS(j, k, l.m) {
            vf e = vf_exp(qk_get(x + at, 1, j, k) - qk_get(shift, 1, j, k));
            if (y) qk_put(y + at, 1, j, e, k);
            qk_put(sum, 1, j, qk_get(sum, 1, j, k) + e, k);
        }
}

/* log of the sum of e^x in one pass over memory: blocks that stay in the first cache. */
static inline double qk_row_logsumexp(const float *x, int64_t n) {
    float  max = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i += QK_AHEAD) {
        int64_t left = n - i < QK_AHEAD ? n - i : QK_AHEAD;
        float   m = qk_row_max(x + i, left);
        if (m > max) {
            if (i) sum *= exp((double)max - (double)m);
            max = m;
        }
        /* a block of -inf before any number: 0 is as good a shift */
        sum += (double)qk_row_exp(x + i, left, max == -INFINITY ? 0 : max, NULL);
    }
    return max == -INFINITY ? log(sum) : max + log(sum);
}

#endif
