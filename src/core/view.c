/* Views: shapes and strides, and elements of any type as double. */
#include <stdio.h>
#include <string.h>

#include "core/blocks.h"
#include "core/core.h"
#include "core/half.h"

static const struct {
    const char *name;
    int         block;
    size_t      bytes;
    bool        is_float;
} dtypes[] = {
#define X(name, text, type, bytes, st, is_float) {text, 1, bytes, is_float},
    QP_DTYPES(X)
#undef X
#define X(name, text, block, bytes) {text, block, bytes, false},
        QP_BLOCK_DTYPES(X)
#undef X
};

const char *qp_dtype_name(qp_dtype t) { return t < QP_DTYPE_COUNT ? dtypes[t].name : "?"; }
int qp_dtype_block(qp_dtype t) { return t < QP_DTYPE_COUNT ? dtypes[t].block : 1; }
size_t qp_dtype_bytes(qp_dtype t) { return t < QP_DTYPE_COUNT ? dtypes[t].bytes : 0; }
size_t qp_dtype_size(qp_dtype t, int64_t n) { return (size_t)(n / qp_dtype_block(t)) * qp_dtype_bytes(t); }
bool qp_dtype_is_float(qp_dtype t) { return t < QP_DTYPE_COUNT && dtypes[t].is_float; }

static bool possible(qp_dtype dtype, int ndim, const int64_t *shape) {
    if (ndim < 0 || ndim > QP_MAX_DIMS || dtype >= QP_DTYPE_COUNT) return false;
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) /* zero sizes must not hide an overflow of the others */
        if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i] ? shape[i] : 1, &n) || n > INT64_MAX / 16)
            return false;
    int block = dtypes[dtype].block;
    return block == 1 || (ndim > 0 && shape[ndim - 1] % block == 0);
}

bool qpi_view_possible(const qp_view *v) { return possible(v->dtype, v->ndim, v->shape); }

bool qpi_view_init(qp_view *v, qp_dtype dtype, int ndim, const int64_t *shape) {
    if (!possible(dtype, ndim, shape)) return false;
    v->data = NULL;
    v->dtype = dtype;
    v->ndim = ndim;
    int64_t n = 1;
    for (int i = QP_MAX_DIMS - 1; i >= 0; i--) {
        v->shape[i] = i < ndim ? shape[i] : 0;
        v->stride[i] = i < ndim ? n : 0;
        if (i < ndim) n *= shape[i];
    }
    return true;
}

bool qpi_view_whole(const qp_view *v) {
    int block = qp_dtype_block(v->dtype), last = v->ndim - 1;
    if (block == 1) return true;
    if (last < 0 || v->shape[last] % block) return false;
    if (qp_view_count(v) == 0) return true;
    if (v->stride[last] != 1) return false;
    for (int i = 0; i < last; i++)
        if (v->shape[i] > 1 && v->stride[i] % block) return false;
    return true;
}

int64_t qp_view_count(const qp_view *v) {
    int64_t n = 1;
    for (int i = 0; i < v->ndim; i++) n *= v->shape[i];
    return n;
}

int64_t qp_view_offset(const qp_view *v, int64_t index) {
    int64_t offset = 0;
    for (int i = v->ndim - 1; i >= 0; i--) {
        offset += index % v->shape[i] * v->stride[i];
        index /= v->shape[i];
    }
    return offset;
}

bool qpi_view_contiguous(const qp_view *v) {
    int64_t n = 1;
    for (int i = v->ndim - 1; i >= 0; i--) {
        if (v->shape[i] == 0) return true;
        if (v->shape[i] != 1 && v->stride[i] != n) return false;
        n *= v->shape[i];
    }
    return true;
}

bool qpi_view_same_shape(const qp_view *a, const qp_view *b) {
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

void qpi_view_describe(const qp_view *v, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "%s [", qp_dtype_name(v->dtype));
    for (int i = 0; i < v->ndim && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, i ? ", %lld" : "%lld", (long long)v->shape[i]);
    if (used < size) snprintf(out + used, size - used, "]");
}

bool qpi_view_expand(qp_view *v, int ndim, const int64_t *shape) {
    int shift = ndim - v->ndim;
    if (shift < 0) return false;
    qp_view w = {.data = v->data, .dtype = v->dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++) {
        int64_t size = i < shift ? 1 : v->shape[i - shift];
        if (size != shape[i] && size != 1) return false;
        w.shape[i] = shape[i];
        w.stride[i] = size == 1 ? 0 : v->stride[i - shift];
    }
    *v = w;
    return true;
}

void qpi_views_merge(qp_view **views, int n) {
    int ndim = views[0]->ndim, kept = 0;
    for (int axis = 0; axis < ndim; axis++) {
        int64_t size = views[0]->shape[axis];
        if (size == 1) continue;
        bool merge = kept > 0;
        for (int i = 0; i < n && merge; i++)
            merge = views[i]->stride[kept - 1] == views[i]->stride[axis] * size;
        for (int i = 0; i < n; i++) {
            qp_view *v = views[i];
            if (merge) {
                v->shape[kept - 1] *= size;
                v->stride[kept - 1] = v->stride[axis];
            } else {
                v->shape[kept] = size;
                v->stride[kept] = v->stride[axis];
            }
        }
        kept += !merge;
    }
    for (int i = 0; i < n; i++) {
        if (kept == 0) {
            views[i]->shape[0] = 1;
            views[i]->stride[0] = 0;
        }
        views[i]->ndim = kept ? kept : 1;
    }
}

double qp_load(const qp_view *v, int64_t offset) {
    switch (v->dtype) {
    case QP_F32: return ((const float *)v->data)[offset];
    case QP_F64: return ((const double *)v->data)[offset];
    case QP_BF16: return qpi_bf16_to_f32(((const uint16_t *)v->data)[offset]);
    case QP_F16: return qpi_f16_to_f32(((const uint16_t *)v->data)[offset]);
    case QP_I64: return (double)((const int64_t *)v->data)[offset];
    case QP_I32: return ((const int32_t *)v->data)[offset];
    case QP_U8: return ((const uint8_t *)v->data)[offset];
    case QP_I8: return ((const int8_t *)v->data)[offset];
    case QP_BOOL: return ((const uint8_t *)v->data)[offset] != 0;
    default: return qpi_blocks_at(v->dtype, v->data, offset);
    }
}

/* Saturates; NaN becomes 0. */
static int64_t to_int(double x, int64_t low, int64_t high) {
    if (!(x == x)) return 0;
    if (x <= (double)low) return low;
    if (x >= (double)high) return high;
    return (int64_t)x;
}

void qp_store(const qp_view *v, int64_t offset, double x) {
    switch (v->dtype) {
    case QP_F32: ((float *)v->data)[offset] = (float)x; break;
    case QP_F64: ((double *)v->data)[offset] = x; break;
    case QP_BF16: ((uint16_t *)v->data)[offset] = qpi_f32_to_bf16((float)x); break;
    case QP_F16: ((uint16_t *)v->data)[offset] = qpi_f32_to_f16((float)x); break;
    case QP_I64: ((int64_t *)v->data)[offset] = to_int(x, INT64_MIN, INT64_MAX); break;
    case QP_I32: ((int32_t *)v->data)[offset] = (int32_t)to_int(x, INT32_MIN, INT32_MAX); break;
    case QP_U8: ((uint8_t *)v->data)[offset] = (uint8_t)to_int(x, 0, 255); break;
    case QP_I8: ((int8_t *)v->data)[offset] = (int8_t)to_int(x, -128, 127); break;
    case QP_BOOL: ((uint8_t *)v->data)[offset] = x != 0; break;
    default: break;
    }
}
