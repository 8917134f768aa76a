/* Axes and sizes as attributes: what ops share that move or index elements. */
#ifndef QUIPU_OPS_SHAPE_H
#define QUIPU_OPS_SHAPE_H

#include <stdio.h>
#include <string.h>

#include "core/core.h"

/* Negative axes count from the end. */
static inline int shape_axis(int axis, int ndim) { return axis < 0 ? axis + ndim : axis; }

/* Stores an error unless `axis` is one of input 0's. */
static inline bool shape_check_axis(const qp_call *c, int axis) {
    int ndim = c->in[0].ndim, a = shape_axis(axis, ndim);
    if (a >= 0 && a < ndim) return true;
    qp_call_fail(c, QP_ERR_ARGUMENT, "axis %d of input 0, which has %d axes", axis, ndim);
    return false;
}

/* Up to 8 sizes as an attribute: each is stored plus 2 (so -1 is kept too), 0 ends the list. */
typedef struct {
    int64_t coded[QP_MAX_DIMS];
} shape_sizes;

/* False: too many axes or a size below -1. */
static inline bool shape_encode(shape_sizes *s, int ndim, const int64_t *shape) {
    *s = (shape_sizes){0};
    if (ndim < 0 || ndim > QP_MAX_DIMS) return false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < -1 || shape[i] > INT64_MAX - 2) return false;
        s->coded[i] = shape[i] + 2;
    }
    return true;
}

static inline int shape_decode(const shape_sizes *s, int64_t *shape) {
    int ndim = 0;
    memset(shape, 0, QP_MAX_DIMS * sizeof *shape);
    for (; ndim < QP_MAX_DIMS && s->coded[ndim]; ndim++) shape[ndim] = s->coded[ndim] - 2;
    return ndim;
}

/* Output i becomes contiguous with this shape; an error if that is none. */
static inline bool shape_set(qp_call *c, int i, qp_dtype dtype, int ndim, const int64_t *shape) {
    if (qpi_view_init(&c->out[i], dtype, ndim, shape)) return true;
    qp_call_fail(c, QP_ERR_ARGUMENT, "the result has %d axes or a size that is negative or too large", ndim);
    return false;
}

/* "[3, 4]" */
static inline const char *shape_text(int ndim, const int64_t *shape, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    if (used < size) snprintf(out + used, size - used, "]");
    return out;
}

#endif
