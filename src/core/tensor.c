/* Making tensors, reading and writing their elements. */
#include <math.h>
#include <string.h>

#include "core/core.h"

static bool check_shape(qp_ctx *ctx, qp_view *v, qp_dtype dtype, int ndim, const int64_t *shape) {
    if (!ctx || qp_failed(ctx)) return false;
    if (qpi_view_init(v, dtype, ndim, shape)) return true;
    int block = qp_dtype_block(dtype);
    if (block > 1 && ndim > 0 && ndim <= QP_MAX_DIMS && shape[ndim - 1] % block)
        qp_fail(ctx, QP_ERR_ARGUMENT, "tensor: %s has blocks of %d elements, the last axis %lld",
                qp_dtype_name(dtype), block, (long long)shape[ndim - 1]);
    else
        qp_fail(ctx, QP_ERR_ARGUMENT,
                "tensor: %d axes of %s: a size is negative, too large, or there are more than %d axes", ndim,
                qp_dtype_name(dtype), QP_MAX_DIMS);
    return false;
}

qp_tensor qp_empty(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape) {
    qp_view v;
    if (!check_shape(ctx, &v, dtype, ndim, shape)) return qpi_poison(ctx);
    qpi_value value = qpi_value_new(ctx, ctx->device, &v);
    return value.storage ? qpi_handle(ctx, value) : qpi_poison(ctx);
}

qp_tensor qpi_reserve(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape) {
    qpi_value value = {0};
    if (!check_shape(ctx, &value.view, dtype, ndim, shape)) return qpi_poison(ctx);
    value.storage = qpi_storage_map(ctx, qp_dtype_size(dtype, qp_view_count(&value.view)));
    if (!value.storage) return qpi_poison(ctx);
    value.view.data = value.storage->data;
    return qpi_handle(ctx, value);
}

qp_tensor qp_full(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, double value) {
    qp_tensor t = qp_empty(ctx, dtype, ndim, shape);
    return qp_apply(&qp_op_fill, 1, &t, &value);
}

qp_tensor qp_zeros(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape) {
    return qp_full(ctx, dtype, ndim, shape, 0);
}

qp_tensor qp_scalar(qp_ctx *ctx, qp_dtype dtype, double value) { return qp_full(ctx, dtype, 0, NULL, value); }

qp_tensor qp_from(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, const void *data) {
    qp_tensor t = qp_empty(ctx, dtype, ndim, shape);
    qpi_slot *s = t.ctx ? qpi_resolve(t, "from") : NULL;
    if (s) {
        size_t bytes = qp_dtype_size(dtype, qp_view_count(&s->value.view));
        if (bytes) s->value.storage->device->from_host(ctx, s->value.view.data, data, bytes);
    }
    return t;
}

qp_tensor qp_arange(qp_ctx *ctx, qp_dtype dtype, int64_t n) {
    qp_view v;
    if (!check_shape(ctx, &v, dtype, 1, &n)) return qpi_poison(ctx);
    if (qp_dtype_block(dtype) > 1) {
        qp_fail(ctx, QP_ERR_TYPE, "arange: of %s: only qp_cast makes blocks", qp_dtype_name(dtype));
        return qpi_poison(ctx);
    }
    qpi_value value = qpi_value_new(ctx, &qpi_cpu, &v);
    if (!value.storage) return qpi_poison(ctx);
    for (int64_t i = 0; i < n; i++) qp_store(&value.view, i, (double)i);
    if (ctx->device != &qpi_cpu) {
        qpi_value there = qpi_value_to(ctx, &value, ctx->device);
        qpi_value_release(ctx, &value);
        value = there;
    }
    return value.storage ? qpi_handle(ctx, value) : qpi_poison(ctx);
}

qp_tensor qp_attach(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, void *data, bool read_only,
                    void (*release)(void *), void *user) {
    qpi_value v = {0};
    if (check_shape(ctx, &v.view, dtype, ndim, shape)) {
        size_t bytes = qp_dtype_size(dtype, qp_view_count(&v.view));
        v.view.data = data;
        v.storage = qpi_storage_attach(ctx, data, bytes, read_only, release, user);
    }
    if (v.storage) return qpi_handle(ctx, v);
    if (release) release(user);
    return qpi_poison(ctx);
}

/* ---- Elements that come later --------------------------------------------------------------- */

const char *qpi_no_elements(const qpi_value *v) {
    return v->view.data ? "is outside the rule's `saves`" : "has no elements yet";
}

qp_tensor qpi_leaf_empty(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape) {
    qpi_value v = {0};
    qp_tensor t = check_shape(ctx, &v.view, dtype, ndim, shape) ? qpi_handle(ctx, v) : qpi_poison(ctx);
    qpi_slot *s = qp_failed(ctx) ? NULL : qpi_resolve(t, "param");
    if (s) s->parameter = true;
    return t;
}

/* May t's elements become those of v? */
static bool replaceable(qp_ctx *ctx, const qpi_slot *t, const qpi_value *v) {
    const qpi_node *leaf = t->node;
    const qp_op    *saver = qpi_saved_by(ctx, &t->value);
    char            a[96], b[96];
    if (!qpi_view_same_shape(&t->value.view, &v->view)) {
        qpi_view_describe(&t->value.view, a, sizeof a);
        qpi_view_describe(&v->view, b, sizeof b);
        qp_fail(ctx, QP_ERR_SHAPE, "set: the tensor is %s, the value %s", a, b);
    } else if (!v->storage) {
        qp_fail(ctx, QP_ERR_STATE, "set: the value %s", qpi_no_elements(v));
    } else if (!t->parameter) {
        qp_fail(ctx, QP_ERR_STATE, "set: the tensor is no parameter (but an alias, a view or a result)");
    } else if (saver) {
        qp_fail(ctx, QP_ERR_STATE, "set: backward of %s needs the tensor as it is", saver->name);
    } else if (leaf && !qp_dtype_is_float(v->view.dtype)) {
        qp_fail(ctx, QP_ERR_TYPE, "set: the tensor takes a gradient, the value is %s",
                qp_dtype_name(v->view.dtype));
    } else if (leaf && leaf->grad[0].value.storage && leaf->grad[0].value.view.dtype != v->view.dtype) {
        qp_fail(ctx, QP_ERR_STATE, "set: the tensor holds a gradient of type %s, the value is %s",
                qp_dtype_name(leaf->grad[0].value.view.dtype), qp_dtype_name(v->view.dtype));
    }
    return !qp_failed(ctx);
}

qp_status qpi_set_storage(qp_tensor t, qp_tensor value) {
    qp_ctx *ctx = t.ctx;
    if (!ctx) return QP_ERR_ARGUMENT;
    if (value.ctx != ctx) return qp_fail(ctx, QP_ERR_ARGUMENT, "set: the value belongs to another context");
    qpi_slot *s = qpi_resolve(t, "set"), *v = qpi_resolve(value, "set");
    if (!s || !v || qp_failed(ctx) || !replaceable(ctx, s, &v->value)) return qp_error_code(ctx);
    qpi_storage *before = s->value.storage;
    s->value = v->value;
    qpi_storage_retain(s->value.storage);
    qpi_storage_release(ctx, before);
    if (s->node) {
        s->node->saved[0].value.view = s->value.view;
        s->node->device = s->value.storage->device;
    }
    return QP_OK;
}

/* ---- Asking ----------------------------------------------------------------------------- */

/* Poison has no axes; to ask for them is no failure. */
static qpi_slot *ask(qp_tensor t, const char *who) {
    return t.ctx && !qpi_is_poison(t) ? qpi_resolve(t, who) : NULL;
}

int qp_ndim(qp_tensor t) {
    qpi_slot *s = ask(t, "ndim");
    return s ? s->value.view.ndim : 0;
}

int64_t qp_size(qp_tensor t, int axis) {
    qpi_slot *s = ask(t, "size");
    if (!s) return 0;
    int ndim = s->value.view.ndim, a = axis < 0 ? axis + ndim : axis;
    if (a < 0 || a >= ndim) {
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "size: axis %d of a tensor with %d axes", axis, ndim);
        return 0;
    }
    return s->value.view.shape[a];
}

int64_t qp_count(qp_tensor t) {
    qpi_slot *s = ask(t, "count");
    return s ? qp_view_count(&s->value.view) : 0;
}

qp_dtype qp_dtype_of(qp_tensor t) {
    qpi_slot *s = ask(t, "dtype");
    return s ? s->value.view.dtype : QP_F32;
}

/* ---- Reading and writing ------------------------------------------------------------------ */

static bool filled(qp_ctx *ctx, const qpi_slot *s, const char *who) {
    if (!s->value.storage) qp_fail(ctx, QP_ERR_STATE, "%s: the tensor %s", who, qpi_no_elements(&s->value));
    return s->value.storage;
}

/* v where the CPU may read it: itself, or a copy. */
static qpi_value on_host(qp_ctx *ctx, const qpi_value *v) {
    if (!v->storage->device->host) return qpi_value_to(ctx, v, &qpi_cpu);
    qpi_storage_retain(v->storage);
    return *v;
}

double qp_item(qp_tensor t) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "item") : NULL;
    if (!s || qp_failed(t.ctx) || !filled(t.ctx, s, "item")) return NAN;
    if (qp_view_count(&s->value.view) != 1) {
        qp_fail(t.ctx, QP_ERR_SHAPE, "item: the tensor has %lld elements, expected 1",
                (long long)qp_view_count(&s->value.view));
        return NAN;
    }
    qpi_value v = on_host(t.ctx, &s->value);
    double    x = v.storage ? qp_load(&v.view, 0) : NAN;
    qpi_value_release(t.ctx, &v);
    return x;
}

/* The slot of a tensor whose elements are to be read or written, and the caller's flat memory
 * as a view shaped like it; NULL after storing an error. */
static qpi_slot *elements(qp_tensor t, qp_dtype dtype, const void *data, int64_t count, const char *who,
                          qp_view *flat) {
    if (qp_failed(t.ctx)) return NULL;
    qpi_slot *s = qpi_resolve(t, who);
    if (!s || !filled(t.ctx, s, who)) return NULL;
    int64_t n = qp_view_count(&s->value.view);
    if (count != n) {
        qp_fail(t.ctx, QP_ERR_SHAPE, "%s: the tensor has %lld elements, the buffer %lld", who, (long long)n,
                (long long)count);
        return NULL;
    }
    if (!qpi_view_init(flat, dtype, s->value.view.ndim, s->value.view.shape)) {
        qp_fail(t.ctx, QP_ERR_TYPE, "%s: no such type, or no whole blocks: %d (%s)", who, (int)dtype,
                qp_dtype_name(dtype));
        return NULL;
    }
    flat->data = (void *)data;
    return s;
}

static char *place(const qp_view *v, int64_t index) {
    return (char *)v->data + qp_dtype_size(v->dtype, qp_view_offset(v, index));
}

static void convert(const qp_view *dst, const qp_view *src) {
    int64_t n = qp_view_count(src), block = qp_dtype_block(src->dtype);
    size_t  bytes = qp_dtype_bytes(src->dtype);
    if (dst->dtype != src->dtype) {
        for (int64_t i = 0; i < n; i++)
            qp_store(dst, qp_view_offset(dst, i), qp_load(src, qp_view_offset(src, i)));
    } else if (qpi_view_contiguous(dst) && qpi_view_contiguous(src)) {
        if (n) memcpy(dst->data, src->data, qp_dtype_size(src->dtype, n));
    } else { /* a double would not hold every i64 */
        for (int64_t i = 0; i < n; i += block) memcpy(place(dst, i), place(src, i), bytes);
    }
}

/* Blocks are made from many elements at once. */
static bool convertible(qp_ctx *ctx, qp_dtype to, qp_dtype from, const char *who) {
    if (to == from || qp_dtype_block(to) == 1) return true;
    qp_fail(ctx, QP_ERR_TYPE, "%s: from %s to %s: qp_cast does that", who, qp_dtype_name(from),
            qp_dtype_name(to));
    return false;
}

qp_status qp_read(qp_tensor t, qp_dtype dtype, void *out, int64_t count) {
    qp_view   flat;
    qpi_slot *s = t.ctx ? elements(t, dtype, out, count, "read", &flat) : NULL;
    if (!s) return t.ctx ? qp_error_code(t.ctx) : QP_ERR_ARGUMENT;
    if (!convertible(t.ctx, dtype, s->value.view.dtype, "read")) return qp_error_code(t.ctx);
    qpi_value v = on_host(t.ctx, &s->value);
    if (v.storage) convert(&flat, &v.view);
    qpi_value_release(t.ctx, &v);
    return qp_error_code(t.ctx);
}

static bool writable(qp_tensor t, const qpi_slot *s, const char *who) {
    const qp_view *v = &s->value.view;
    if (!filled(t.ctx, s, who)) return false;
    if (s->value.storage->read_only) {
        qp_fail(t.ctx, QP_ERR_STATE, "%s: the tensor's memory is read-only", who);
        return false;
    }
    for (int i = 0; i < v->ndim && qp_view_count(v) > 0; i++)
        if (v->stride[i] == 0 && v->shape[i] > 1) {
            qp_fail(t.ctx, QP_ERR_ARGUMENT, "%s: the tensor is expanded: its elements share memory", who);
            return false;
        }
    return true;
}

/* By way of a copy on the host. */
static void write_to_device(qp_ctx *ctx, const qpi_value *dst, const qp_view *flat) {
    qpi_value host = qpi_value_new(ctx, &qpi_cpu, &dst->view);
    if (!host.storage) return;
    convert(&host.view, flat);
    qpi_value there = qpi_value_to(ctx, &host, dst->storage->device);
    if (there.storage) qpi_update(ctx, &qp_op_copy, dst, &there);
    qpi_value_release(ctx, &there);
    qpi_value_release(ctx, &host);
}

qp_status qp_write(qp_tensor t, qp_dtype dtype, const void *data, int64_t count) {
    qp_view   flat;
    qpi_slot *s = t.ctx ? elements(t, dtype, data, count, "write", &flat) : NULL;
    if (!s) return t.ctx ? qp_error_code(t.ctx) : QP_ERR_ARGUMENT;
    if (!writable(t, s, "write") || !convertible(t.ctx, s->value.view.dtype, dtype, "write"))
        return qp_error_code(t.ctx);
    if (s->value.storage->device->host) convert(&s->value.view, &flat);
    else write_to_device(t.ctx, &s->value, &flat);
    s->value.storage->version++;
    return qp_error_code(t.ctx);
}

/* The slot of a tensor whose memory the caller may see. */
static qpi_slot *open_memory(qp_tensor t) {
    qpi_slot *s = ask(t, "data");
    if (!s || !filled(t.ctx, s, "data")) return NULL;
    if (s->value.storage->device->host && qpi_view_contiguous(&s->value.view)) return s;
    qp_fail(t.ctx, QP_ERR_STATE, "data: the tensor is not contiguous memory of the CPU");
    return NULL;
}

const void *qp_data_of(qp_tensor t) {
    qpi_slot *s = open_memory(t);
    return s ? s->value.view.data : NULL;
}

void *qp_data_write(qp_tensor t) {
    qpi_slot *s = open_memory(t);
    if (!s || !writable(t, s, "data")) return NULL;
    s->value.storage->version++;
    return s->value.view.data;
}

qp_status qp_copy_to(qp_tensor dst, qp_tensor src) {
    if (!dst.ctx) return QP_ERR_ARGUMENT;
    if (qpi_is_poison(qp_apply(&qp_op_copy, 2, (qp_tensor[]){dst, src}, NULL)))
        qp_fail(dst.ctx, QP_ERR_STATE, "copy_to: a tensor is poison");
    return qp_error_code(dst.ctx);
}

qp_tensor qp_detach(qp_tensor t) {
    qp_tensor y = qp_alias(t);
    qpi_slot *s = ask(y, "detach");
    if (s && s->node) {
        qpi_node *n = s->node;
        s->node = NULL;
        qpi_node_release(t.ctx, n);
    }
    return y;
}

/* ---- Devices ------------------------------------------------------------------------------- */

const qp_device *qp_cpu(void) { return &qpi_cpu; }

const qp_device *qp_device_of(qp_tensor t) {
    qpi_slot *s = ask(t, "device");
    return s && s->value.storage ? s->value.storage->device : &qpi_cpu;
}

/* The gradient goes back to where the input was. */
static void to_backward(qp_rule *r) { r->din[0] = qp_to(r->dout[0], *(const qp_device *const *)r->attr); }
static const qp_op op_to = {.name = "to",
                            .source = "torch.Tensor.to",
                            .min_in = 1,
                            .max_in = 1,
                            .nout = 1,
                            .attr_bytes = sizeof(qp_device *),
                            .backward = to_backward};

qp_tensor qp_to(qp_tensor t, const qp_device *device) {
    qp_ctx   *ctx = t.ctx;
    qpi_slot *s = ctx ? qpi_resolve(t, "to") : NULL;
    if (!s || qp_failed(ctx) || !filled(ctx, s, "to")) return ctx ? qpi_poison(ctx) : QP_NONE;
    if (s->value.storage->device == device) return qp_alias(t);
    qpi_value        in = s->value, copy;
    const qpi_value *ins = &in;
    qpi_edge         edge = {s->node, s->out};
    const qp_device *from[QP_MAX_ATTR / sizeof(qp_device *)] = {in.storage->device};
    copy = qpi_value_to(ctx, &in, device);
    if (!copy.storage) return qpi_poison(ctx);
    qp_tensor y = qpi_handle(ctx, copy);
    qp_call   call = {.ctx = ctx, .op = &op_to, .attr = from, .nin = 1, .nout = 1};
    if (!qp_failed(ctx)) qpi_record(&call, &ins, &edge, &y, NULL);
    return y;
}
