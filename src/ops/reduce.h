/* Axes to reduce over, as an attribute: what sum and mean share. */
#ifndef QUIPU_OPS_REDUCE_H
#define QUIPU_OPS_REDUCE_H

#include <stdio.h>

#include "kernels/sum.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int  naxes; /* 0: all */
    int  axes[QP_MAX_DIMS];
    bool keep; /* leave axes of size 1 in their place */
    int  drop; /* but not for this many axes in front */
} reduce_attr;

static inline reduce_attr reduce_over(int naxes, const int *axes, bool keep) {
    reduce_attr a = {.naxes = naxes, .keep = keep};
    for (int i = 0; i < naxes && i < QP_MAX_DIMS; i++) a.axes[i] = axes[i];
    return a;
}

/* The axes as bits. */
static inline uint32_t reduce_axes(const reduce_attr *a, int ndim) {
    uint32_t bits = a->naxes ? 0 : (1u << ndim) - 1;
    for (int i = 0; i < a->naxes; i++) bits |= 1u << shape_axis(a->axes[i], ndim);
    return bits;
}

static inline void reduce_shape(qp_call *c, qp_dtype dtype) {
    const reduce_attr *a = c->attr;
    int                ndim = 0;
    int64_t            size[QP_MAX_DIMS];
    if (a->naxes < 0 || a->naxes > QP_MAX_DIMS) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "%d axes, expected 0 to %d", a->naxes, QP_MAX_DIMS);
        return;
    }
    for (int i = 0; i < a->naxes; i++)
        if (!shape_check_axis(c, a->axes[i])) return;
    uint32_t axes = reduce_axes(a, c->in[0].ndim);
    if (a->naxes && __builtin_popcount(axes) != a->naxes) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "an axis is given twice");
        return;
    }
    for (int i = 0; i < c->in[0].ndim; i++) {
        if (!(axes >> i & 1)) size[ndim++] = c->in[0].shape[i];
        else if (a->keep && i >= a->drop) size[ndim++] = 1;
    }
    shape_set(c, 0, dtype, ndim, size);
}

/* scale * the sums, any type and layout. */
static inline void reduce_plain(const qp_call *c, double scale) {
    qp_view kept, reduced;
    qk_sum_split(&c->in[0], reduce_axes(c->attr, c->in[0].ndim), &kept, &reduced);
    int64_t outputs = qp_view_count(&kept), depth = qp_view_count(&reduced);
    for (int64_t i = 0; i < outputs; i++) {
        int64_t base = qp_view_offset(&kept, i);
        double  sum = 0;
        for (int64_t j = 0; j < depth; j++) sum += qp_load(&c->in[0], base + qp_view_offset(&reduced, j));
        qp_store(&c->out[0], i, scale * sum);
    }
}

/* Elements of x in one sum. */
static inline double reduce_depth(const qp_call *c) {
    uint32_t axes = reduce_axes(c->attr, c->in[0].ndim);
    double   n = 1;
    for (int i = 0; i < c->in[0].ndim; i++)
        if (axes >> i & 1) n *= (double)c->in[0].shape[i];
    return n;
}

static inline double reduce_flops(const qp_call *c) { return (double)qp_view_count(&c->in[0]); }
static inline size_t reduce_scratch(const qp_call *c, int threads) {
    (void)threads;
    return qk_sum_scratch(c, reduce_axes(c->attr, c->in[0].ndim));
}

/* dy repeated along the axes that were reduced. */
static inline qp_tensor reduce_expand(const qp_rule *r, qp_tensor dy) {
    const reduce_attr *a = r->attr;
    int                ndim = qp_ndim(r->in[0]);
    uint32_t           axes = reduce_axes(a, ndim);
    int64_t            full[QP_MAX_DIMS], ones[QP_MAX_DIMS];
    for (int i = 0; i < ndim; i++) {
        full[i] = qp_size(r->in[0], i);
        ones[i] = axes >> i & 1 ? 1 : full[i];
    }
    return qp_expand(qp_reshape(dy, ndim, ones), ndim, full);
}

#define REDUCE_SAMPLES \
    {.in = "x[3,5]"}, {.in = "x[]"}, {.in = "x[3,0]"}, {.in = "x[1]"}, {.in = "x[20000]"}, \
        {.in = "x[3,5]", .attr = &(reduce_attr){.naxes = 1, .axes = {-1}}}, \
        {.in = "x[3,5]", .attr = &(reduce_attr){.naxes = 1, .axes = {0}, .keep = true}}, \
        {.in = "x[130,37]", .attr = &(reduce_attr){.naxes = 1, .axes = {0}}}, \
        {.in = "x[2,3,4,5]", .attr = &(reduce_attr){.naxes = 2, .axes = {0, 2}}}, \
        {.in = "x[2,3,4,5]", .attr = &(reduce_attr){.naxes = 2, .axes = {1, 3}, .keep = true}}, { \
        .in = "x[2,3,4]", .attr = &(reduce_attr){.naxes = 2, .axes = {0, 1}, .keep = true, .drop = 1} \
    }

#endif
