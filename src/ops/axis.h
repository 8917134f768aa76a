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

/* x's element i of line l along an axis; any layout. */
static inline int64_t axis_offset(const qp_view *v, qk_axis a, int64_t l, int64_t i) {
    return qp_view_offset(v, (l / a.inner * a.n + i) * a.inner + l % a.inner);
}

#define AXIS_SAMPLE(sizes, at) {.in = "x" sizes, .attr = &(axis_attr){at, false}}
#define AXIS_PAIR_SAMPLE(sizes, at) {.in = "x" sizes " x" sizes, .attr = &(axis_attr){at, false}}
#define AXIS_LIST(sample)                                                                         \
    sample("[3,5]", -1), sample("[4,1]", 1), sample("[67]", 0), sample("[3,35]", 0), sample("[2,7,3]", 1), \
        sample("[2,3,150]", -1), sample("[2,0]", 1), sample("[0,2]", 1)
#define AXIS_SAMPLES AXIS_LIST(AXIS_SAMPLE)           /* of one input */
#define AXIS_PAIR_SAMPLES AXIS_LIST(AXIS_PAIR_SAMPLE) /* of two inputs of one shape */

#endif
