/* Contiguous tensors seen along one axis: [outer, n, inner]. Along the last axis (inner 1)
 * loops run over lines that lie contiguous; along another one over many lines side by side. */
#ifndef QUIPU_KERNELS_AXIS_H
#define QUIPU_KERNELS_AXIS_H

#include "core/isa.h"
#include "core/simd.h"
#include "kernels/elementwise.h"
#include "quipu/op.h"

typedef struct {
    int64_t outer, n, inner;
} qk_axis;

static inline qk_axis qk_axis_of(const qp_view *v, int axis) {
    qk_axis a = {1, 1, 1};
    if (axis < 0) axis += v->ndim;
    for (int i = 0; i < v->ndim; i++) *(i < axis ? &a.outer : i == axis ? &a.n : &a.inner) *= v->shape[i];
    return a;
}

#define QK_MANY 256 /* lines side by side at most */

/* One line of n elements, or m lines side by side: element i of line j lies at + i * stride + j
 * in a tensor of the full shape; what belongs to line j lies at reduced + j in a tensor without
 * the axis. */
typedef struct {
    int64_t at, reduced, n, stride;
    int     m;
} qk_line;

/* Vectors of m elements: k lanes at j, j + VF_LANES, .. */
#define QK_VECTORS(j, k, m) for (int j = 0, k; (k = (m) - j < VF_LANES ? (m) - j : VF_LANES) > 0; j += VF_LANES)

typedef void qk_line_fn(const qp_call *c, qk_line l);

typedef struct {
    const qp_call *c;
    qk_axis        axis;
    int64_t        cuts; /* of inner */
    qk_line_fn    *one, *many;
} qk_lines_job;

static inline void qk_lines_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qk_lines_job *job = arg;
    qk_axis             a = job->axis;
    for (int64_t u = begin; u < end; u++) {
        int64_t outer = u / job->cuts, start = u % job->cuts * QK_MANY;
        qk_line l = {outer * a.n * a.inner + start, outer * a.inner + start, a.n, a.inner, 1};
        if (a.inner > 1) l.m = a.inner - start < QK_MANY ? (int)(a.inner - start) : QK_MANY;
        (a.inner > 1 ? job->many : job->one)(job->c, l);
    }
}

/* All lines of a contiguous tensor of `like`'s shape, in parallel: `one` at a time along the
 * last axis (stride 1), `many` side by side along another. */
static inline void qk_lines(const qp_call *c, const qp_view *like, int axis, qk_line_fn *one,
                            qk_line_fn *many) {
    qk_lines_job job = {c, qk_axis_of(like, axis), 1, one, many};
    if (job.axis.inner > 1) job.cuts = (job.axis.inner + QK_MANY - 1) / QK_MANY;
    if (job.axis.n == 0 || job.axis.inner == 0) return;
    int64_t cost = job.axis.n * (job.axis.inner < QK_MANY ? job.axis.inner : QK_MANY);
    qp_parallel(c->exec, job.axis.outer * job.cuts, 1 + 16384 / cost, qk_lines_piece, &job);
}

#endif
