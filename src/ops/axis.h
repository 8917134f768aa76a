/* What ops along one axis share. */
#ifndef QUIPU_OPS_AXIS_H
#define QUIPU_OPS_AXIS_H

#include <stdio.h>

#include "kernels/axis.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int  axis;
    bool keep; /* reductions: leave an axis of size 1 */
} axis_attr;

static inline double axis_flops(const qp_call *c) { return (double)qp_view_count(&c->in[0]); }
static inline int axis_given(const qp_call *c) { return ((const axis_attr *)c->attr)->axis; }

/* Inputs and output of one shape and type. */
static inline void axis_shape(qp_call *c) {
    if (!shape_check_axis(c, axis_given(c))) return;
    shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
    for (int i = 1; i < c->nin; i++)
        if (c->in[i].dtype != c->in[0].dtype || c->in[i].ndim != c->in[0].ndim ||
            memcmp(c->in[i].shape, c->in[0].shape, (size_t)c->in[0].ndim * sizeof(int64_t)) != 0) {
            qp_call_fail(c, QP_ERR_SHAPE, "input %d has another shape or type than input 0", i);
            return;
        }
}

/* Outputs of input 0's shape without the axis; one type for each. */
static inline void axis_reduced_shape(qp_call *c, const qp_dtype *dtypes) {
    const axis_attr *a = c->attr;
    int64_t          size[QP_MAX_DIMS];
    int              ndim = 0, axis = shape_axis(a->axis, c->in[0].ndim);
    if (!shape_check_axis(c, a->axis)) return;
    for (int i = 0; i < c->in[0].ndim; i++)
        if (i != axis) size[ndim++] = c->in[0].shape[i];
        else if (a->keep) size[ndim++] = 1;
    if (c->in[0].shape[axis] == 0) qp_call_fail(c, QP_ERR_ARGUMENT, "axis %d of input 0 is empty", a->axis);
    for (int i = 0; i < c->nout; i++) shape_set(c, i, dtypes[i], ndim, size);
}

/* In a rule: t without the axis -> with that axis of size 1. */
static inline qp_tensor axis_unreduce(const qp_rule *r, qp_tensor t) {
    int     ndim = qp_ndim(r->in[0]), axis = shape_axis(((const axis_attr *)r->attr)->axis, ndim);
    int64_t size[QP_MAX_DIMS];
    for (int i = 0; i < ndim; i++) size[i] = i == axis ? 1 : qp_size(r->in[0], i);
    return qp_reshape(t, ndim, size);
}

/* Element i of line l along an axis; any layout and type. */
static inline int64_t axis_offset(const qp_view *v, qk_axis a, int64_t l, int64_t i) {
    return qp_view_offset(v, (l / a.inner * a.n + i) * a.inner + l % a.inner);
}
static inline double axis_load(const qp_view *v, qk_axis a, int64_t l, int64_t i) {
    return qp_load(v, axis_offset(v, a, l, i));
}
static inline void axis_store(const qp_view *v, qk_axis a, int64_t l, int64_t i, double x) {
    qp_store(v, axis_offset(v, a, l, i), x);
}

#define AXIS_SAMPLE(sizes, at) \
    { \
        .in = "x" sizes, .attr = &(axis_attr) { at, false } \
    }
#define AXIS_PAIR_SAMPLE(sizes, at) \
    { \
        .in = "x" sizes " x" sizes, .attr = &(axis_attr) { at, false } \
    }
#define AXIS_LIST(sample) \
    sample("[3,5]", -1), sample("[4,1]", 1), sample("[67]", 0), sample("[3,35]", 0), sample("[2,7,3]", 1), \
        sample("[2,3,150]", -1), sample("[2,0]", 1), sample("[0,2]", 1)
#define AXIS_SAMPLES AXIS_LIST(AXIS_SAMPLE)           /* of one input */
#define AXIS_PAIR_SAMPLES AXIS_LIST(AXIS_PAIR_SAMPLE) /* of two inputs of one shape */

#define AXIS_REDUCED_SAMPLE(sizes, at, keep) \
    { \
        .in = sizes, .attr = &(axis_attr) { at, keep } \
    }
#define AXIS_REDUCED_SAMPLES(kind) \
    AXIS_REDUCED_SAMPLE(kind "[3,5]", -1, false), AXIS_REDUCED_SAMPLE(kind "[4,1]", 1, true), \
        AXIS_REDUCED_SAMPLE(kind "[67]", 0, false), AXIS_REDUCED_SAMPLE(kind "[3,35]", 0, true), \
        AXIS_REDUCED_SAMPLE(kind "[2,7,3]", 1, false), AXIS_REDUCED_SAMPLE(kind "[2,3,150]", -1, false), \
        AXIS_REDUCED_SAMPLE(kind "[0,2]", 1, false)

#endif
