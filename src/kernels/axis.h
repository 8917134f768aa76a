/* Contiguous tensors seen along one axis: [outer, n, inner]. Along the last axis (inner 1)
 * loops run over lines that lie contiguous; along another one over VF_LANES columns at a time. */
#ifndef QUIPU_KERNELS_AXIS_H
#define QUIPU_KERNELS_AXIS_H

#include "core/isa.h"
#include "core/simd.h"
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

/* One line of n elements, or m columns of which the next elements lie `stride` further. */
typedef void qk_line_fn(const float *const *in, float *out, int64_t n);
typedef void qk_columns_fn(const float *const *in, float *out, int64_t n, int64_t stride, int m);

typedef struct {
    const qp_call *c;
    qk_axis        axis;
    int64_t        cuts; /* of inner */
    qk_line_fn    *line;
    qk_columns_fn *columns;
} qk_lines_job;

static inline void qk_lines_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qk_lines_job *job = arg;
    qk_axis             a = job->axis;
    for (int64_t u = begin; u < end; u++) {
        int64_t      start = u % job->cuts * VF_LANES, at = u / job->cuts * a.n * a.inner + start;
        float       *out = (float *)job->c->out[0].data + at;
        const float *in[4];
        for (int i = 0; i < job->c->nin; i++) in[i] = (const float *)job->c->in[i].data + at;
        if (a.inner == 1) job->line(in, out, a.n);
        else job->columns(in, out, a.n, a.inner, a.inner - start < VF_LANES ? (int)(a.inner - start) : VF_LANES);
    }
}

/* For ops whose inputs (at most 4) and output have one shape: all lines, in parallel. */
static inline void qk_lines(const qp_call *c, int axis, qk_line_fn *line, qk_columns_fn *columns) {
    qk_lines_job job = {c, qk_axis_of(&c->out[0], axis), 1, line, columns};
    if (job.axis.inner > 1) job.cuts = (job.axis.inner + VF_LANES - 1) / VF_LANES;
    if (job.axis.n == 0 || job.axis.inner == 0) return;
    int64_t cost = job.axis.inner > 1 ? job.axis.n * VF_LANES : job.axis.n;
    qp_parallel(c->exec, job.axis.outer * job.cuts, 1 + 16384 / cost, qk_lines_piece, &job);
}

#endif
