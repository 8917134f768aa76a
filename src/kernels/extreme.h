/* The largest element of each line and where it first stands; NaN counts as the largest. */
#ifndef QUIPU_KERNELS_EXTREME_H
#define QUIPU_KERNELS_EXTREME_H

#include "kernels/axis.h"

/* a comes before b as the maximum */
static inline bool qk_larger(double a, double b) { return a > b || (a != a && b == b); }

/* First place of `value` (any NaN if it is one), which is there. */
static inline int64_t qk_find(const float *x, int64_t n, float value) {
    enum { BLOCK = 64 };
    bool nan = value != value;
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t left = n - i < BLOCK ? n - i : BLOCK;
        int     hits = 0;
        for (int64_t j = 0; j < left; j++) hits |= nan ? x[i + j] != x[i + j] : x[i + j] == value;
        for (int64_t j = 0; j < left && hits; j++)
            if (nan ? x[i + j] != x[i + j] : x[i + j] == value) return i + j;
    }
    return 0;
}

/* values and indices of the line's outputs; values may be NULL */
static inline void qk_max_one(const qp_call *c, qk_line l, float *values, int64_t *indices) {
    const float *x = (const float *)c->in[0].data + l.at;
    vf           max = -VF_INF, nan = {0};
    for (int64_t i = 0; i < l.n; i += VF_LANES) {
        int m = l.n - i < VF_LANES ? (int)(l.n - i) : VF_LANES;
        vf  v = vf_select(vm_first(m), vf_load_n(x + i, m), -VF_INF);
        max = vf_max(max, v);
        nan = vf_select(vf_eq(v, v), nan, v);
    }
    float value = vf_hmax(max);
    for (int j = 0; j < VF_LANES; j++)
        if (nan[j] != nan[j]) value = nan[j];
    indices[l.reduced] = qk_find(x, l.n, value);
    if (values) values[l.reduced] = value;
}

static inline void qk_max_many(const qp_call *c, qk_line l, float *values, int64_t *indices) {
    const float *x = (const float *)c->in[0].data + l.at;
    float        max[QK_MANY];
    int32_t      at[QK_MANY + VF_LANES] = {0};
    memcpy(max, x, (size_t)l.m * sizeof *max);
    for (int64_t i = 1; i < l.n; i++) QK_VECTORS(j, k, l.m) {
            vf v = qk_get(x + i * l.stride, 1, j, k), best = qk_get(max, 1, j, k);
            vm larger = vf_gt(v, best) | (~vf_eq(v, v) & vf_eq(best, best));
            qk_put(max, 1, j, vf_select(larger, v, best), k);
            vi_store(at + j, vi_select(larger, vi_set1((int32_t)i), vi_load(at + j)));
        }
    for (int j = 0; j < l.m; j++) indices[l.reduced + j] = at[j];
    if (values) memcpy(values + l.reduced, max, (size_t)l.m * sizeof *max);
}

#endif
