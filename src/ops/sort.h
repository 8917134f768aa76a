/* What sort and topk share: lines in order of value, equal values in order of index. */
#ifndef QUIPU_OPS_SORT_H
#define QUIPU_OPS_SORT_H

#include "kernels/extreme.h"
#include "kernels/sort.h"
#include "ops/axis.h"

/* Scratch of one worker: two arrays of a line's length. */
static inline size_t sort_scratch(const qp_call *c, int threads) {
    return (size_t)threads * 2 * (size_t)qk_axis_of(&c->in[0], axis_given(c)).n * sizeof(uint64_t);
}

/* Calls fn for every (outer, inner) line on its own. */
static inline void sort_lines(const qp_call *c, void (*fn)(void *arg, int64_t begin, int64_t end, int worker)) {
    qk_axis a = qk_axis_of(&c->in[0], axis_given(c));
    if (a.n > 0) qp_parallel(c->exec, a.outer * a.inner, 1 + 2048 / a.n, fn, (void *)c);
}

/* The indices of line l of x in order, any type: a merge sort within scratch. NaN is largest. */
static inline const int64_t *sort_plain(const qp_call *c, qk_axis a, int64_t l, bool descending) {
    int64_t *from = c->exec->scratch, *to = from + a.n;
    for (int64_t i = 0; i < a.n; i++) from[i] = i;
    for (int64_t width = 1; width < a.n; width *= 2) {
        for (int64_t start = 0; start < a.n; start += 2 * width) {
            int64_t i = start, middle = start + width < a.n ? start + width : a.n, j = middle;
            int64_t end = middle + width < a.n ? middle + width : a.n;
            for (int64_t k = start; k < end; k++) {
                bool right = i == middle;
                if (i < middle && j < end) {
                    double x = axis_load(&c->in[0], a, l, from[i]), y = axis_load(&c->in[0], a, l, from[j]);
                    right = descending ? qk_larger(y, x) : qk_larger(x, y);
                }
                to[k] = from[right ? j++ : i++];
            }
        }
        int64_t *sorted = to;
        to = from;
        from = sorted;
    }
    return from;
}

/* The gradient of values that were picked at r->out[1]. */
static inline qp_tensor sort_scatter(const qp_rule *r) {
    int64_t size[QP_MAX_DIMS];
    int     ndim = qp_ndim(r->in[0]);
    for (int i = 0; i < ndim; i++) size[i] = qp_size(r->in[0], i);
    qp_tensor zero = qp_zeros(r->ctx, qp_dtype_of(r->dout[0]), ndim, size);
    return qp_scatter_add(zero, *(const int *)r->attr, r->out[1], r->dout[0]);
}

#endif
