/* Elementwise loops. A row function handles n elements along the last axis of merged views;
 * qk_elementwise runs it over all rows in parallel. QK_UNARY and QK_BINARY make the f32 row
 * function of a vector expression, tails and odd strides by the same vector code. */
#ifndef QUIPU_KERNELS_ELEMENTWISE_H
#define QUIPU_KERNELS_ELEMENTWISE_H

#include "core/isa.h"
#include "core/simd.h"
#include "quipu/op.h"

#define QK_GRAIN 16384 /* elements of one piece of work */

/* p[0] is the output, p[1 + i] input i; strides are those of the views' last axis. */
typedef void qk_row_fn(const qp_call *c, char *const *p, int64_t n);

typedef struct {
    const qp_call *c;
    qk_row_fn     *row;
    int64_t        inner, cut, cuts;
} qk_rows;

static inline void qk_rows_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qk_rows *r = arg;
    const qp_call *c = r->c;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t outer = piece / r->cuts, start = piece % r->cuts * r->cut;
        char   *p[1 + QP_MAX_IN];
        for (int v = 0; v <= c->nin; v++) {
            const qp_view *view = v ? &c->in[v - 1] : &c->out[0];
            if (view->ndim < 0) {
                p[v] = NULL;
                continue;
            }
            int     last = view->ndim - 1;
            int64_t offset = start * view->stride[last], index = outer;
            for (int axis = last - 1; axis >= 0; axis--) {
                offset += index % view->shape[axis] * view->stride[axis];
                index /= view->shape[axis];
            }
            p[v] = (char *)view->data + offset * (int64_t)qp_dtype_bytes(view->dtype);
        }
        int64_t n = r->inner - start < r->cut ? r->inner - start : r->cut;
        r->row(c, p, n);
    }
}

static inline void qk_elementwise(const qp_call *c, qk_row_fn *row) {
    int64_t count = qp_view_count(&c->out[0]);
    if (count == 0) return;
    qk_rows r = {c, row, c->out[0].shape[c->out[0].ndim - 1], QK_GRAIN, 0};
    r.cuts = (r.inner + r.cut - 1) / r.cut;
    int64_t rows = count / r.inner, grain = r.inner < QK_GRAIN ? QK_GRAIN / r.inner : 1;
    qp_parallel(c->exec, rows * r.cuts, grain, qk_rows_piece, &r);
}

/* Lanes i..i+n-1 of a row with any stride. */
static inline vf qk_get(const float *p, int64_t stride, int64_t i, int n) {
    if (stride == 1) return n == VF_LANES ? vf_load(p + i) : vf_load_n(p + i, n);
    if (stride == 0) return vf_set1(*p);
    float lanes[VF_LANES] = {0};
    for (int j = 0; j < n; j++) lanes[j] = p[(i + j) * stride];
    return vf_load(lanes);
}

static inline void qk_put(float *p, int64_t stride, int64_t i, vf v, int n) {
    if (stride == 1) {
        if (n == VF_LANES) vf_store(p + i, v);
        else vf_store_n(p + i, v, n);
        return;
    }
    float lanes[VF_LANES];
    vf_store(lanes, v);
    for (int j = 0; j < n; j++) p[(i + j) * stride] = lanes[j];
}

#define QK_LAST(view) ((view).stride[(view).ndim - 1])

/* static void name(const qp_call *): out = expr(x), attributes at `attr` */
#define QK_UNARY(name, expr) \
    static void name##_row(const qp_call *c, char *const *p, int64_t n) { \
        const void  *attr = c->attr; \
        float       *out = (float *)p[0]; \
        const float *in = (const float *)p[1]; \
        int64_t      so = QK_LAST(c->out[0]), si = QK_LAST(c->in[0]), i = 0; \
        (void)attr; \
        if (so == 1 && si == 1) \
            for (; i + VF_LANES <= n; i += VF_LANES) { \
                vf x = vf_load(in + i); \
                vf_store(out + i, expr); \
            } \
        for (; i < n; i += VF_LANES) { \
            int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES; \
            vf  x = qk_get(in, si, i, m); \
            qk_put(out, so, i, expr, m); \
        } \
    } \
    static void name(const qp_call *c) { qk_elementwise(c, name##_row); }

/* static void name(const qp_call *): out = expr(x, y) */
#define QK_BINARY(name, expr) \
    static void name##_row(const qp_call *c, char *const *p, int64_t n) { \
        const void  *attr = c->attr; \
        float       *out = (float *)p[0]; \
        const float *a = (const float *)p[1], *b = (const float *)p[2]; \
        int64_t      so = QK_LAST(c->out[0]), sa = QK_LAST(c->in[0]), sb = QK_LAST(c->in[1]), i = 0; \
        (void)attr; \
        if (so == 1 && (sa == 1 || sa == 0) && (sb == 1 || sb == 0)) { \
            vf x0 = vf_set1(*a), y0 = vf_set1(*b); \
            for (; i + VF_LANES <= n; i += VF_LANES) { \
                vf x = sa ? vf_load(a + i) : x0, y = sb ? vf_load(b + i) : y0; \
                vf_store(out + i, expr); \
            } \
        } \
        for (; i < n; i += VF_LANES) { \
            int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES; \
            vf  x = qk_get(a, sa, i, m), y = qk_get(b, sb, i, m); \
            qk_put(out, so, i, expr, m); \
        } \
    } \
    static void name(const qp_call *c) { qk_elementwise(c, name##_row); }

#endif
