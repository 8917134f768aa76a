/* One call of an op, from handles to results: shape, layouts, memory, kernel, record. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "core/watched.h"

void qp_call_fail(const qp_call *call, qp_code code, const char *format, ...) {
    char    text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    qp_fail(call->ctx, code, "%s: %s", call->op->name, text);
}

void qpi_call_misfit(const qp_call *call, qp_code code, const char *one, const qp_view *a, const char *two,
                     const qp_view *b, const char *expected) {
    char at[96], bt[96];
    qpi_view_describe(a, at, sizeof at);
    qpi_view_describe(b, bt, sizeof bt);
    qp_call_fail(call, code, "%s is %s, %s is %s: expected %s", one, at, two, bt, expected);
}

void qpi_broadcast_shape(qp_call *c, int typed) {
    qp_view *out = &c->out[0];
    int      ndim = 0;
    for (int i = 0; i < c->nin; i++)
        if (c->in[i].ndim > ndim) ndim = c->in[i].ndim;
    int64_t shape[QP_MAX_DIMS];
    for (int axis = 0; axis < ndim; axis++) {
        shape[axis] = 1;
        for (int i = 0; i < c->nin; i++) {
            int     a = axis - (ndim - c->in[i].ndim);
            int64_t size = a < 0 ? 1 : c->in[i].shape[a];
            if (size == 1 || size == shape[axis]) continue;
            if (shape[axis] != 1) {
                char x[96], y[96];
                qpi_view_describe(&c->in[0], x, sizeof x);
                qpi_view_describe(&c->in[i], y, sizeof y);
                qp_call_fail(c, QP_ERR_SHAPE, "%s and %s do not broadcast", x, y);
                return;
            }
            shape[axis] = size;
        }
    }
    qp_dtype dtype = c->in[typed].dtype;
    for (int i = typed + 1; i < c->nin; i++)
        if (c->in[i].dtype != dtype) {
            qp_call_fail(c, QP_ERR_TYPE, "input %d is %s, input %d is %s: cast one of them", typed,
                         qp_dtype_name(dtype), i, qp_dtype_name(c->in[i].dtype));
            return;
        }
    qpi_view_init(out, dtype, ndim, shape);
}

/* What a running call holds besides its views: whatever had to be copied for them. */
typedef struct {
    qpi_value copies[QP_MAX_IN];
    int       copy_count;
    qp_call   call;
    qp_exec   exec;
    void     *scratch; /* of another device */
} running;

static bool fits(const qp_view *v, qp_layout layout) {
    if (v->ndim < 0) return true;
    switch (layout) {
    case QP_FLAT: return qpi_view_contiguous(v);
    case QP_ROWS: return v->ndim == 0 || v->shape[v->ndim - 1] <= 1 || v->stride[v->ndim - 1] == 1;
    default: return true;
    }
}

static bool written(const qp_op *op, int i) { return op->mutates >> i & 1; }

static bool run_op(qp_ctx *ctx, const qp_device *device, const qp_op *op, const void *attr, int nin,
                   qp_view *in, int nout, qp_view *out);

/* A contiguous copy of v; storage NULL on failure. */
static qpi_value contiguous_copy(qp_ctx *ctx, const qp_device *device, const qp_view *v) {
    qpi_value copy = qpi_value_new(ctx, device, v);
    qp_view   both[2] = {copy.view, *v}, out = copy.view;
    if (copy.storage && !run_op(ctx, device, &qp_op_copy, NULL, 2, both, 1, &out))
        qpi_value_release(ctx, &copy);
    return copy;
}

static bool make_contiguous(qp_ctx *ctx, const qp_device *device, running *r, qp_view *v) {
    qpi_value copy = contiguous_copy(ctx, device, v);
    if (!copy.storage) return false;
    r->copies[r->copy_count++] = copy;
    *v = copy.view;
    return true;
}

static bool default_takes(const qp_call *c) {
    if (c->out[0].dtype != QP_F32) return false; /* integers in, integers out is the definition's */
    for (int i = 0; i < c->nin; i++) {
        qp_dtype t = c->in[i].dtype;
        bool     index = t == QP_I64 || t == QP_I32;
        if (c->in[i].ndim >= 0 && t != QP_F32 && (!index || written(c->op, i))) return false;
    }
    for (int i = 0; i < c->nout; i++)
        if (qp_dtype_is_float(c->out[i].dtype) && c->out[i].dtype != QP_F32) return false;
    return true;
}

static bool elementwise(const qp_call *c) {
    qp_view *views[QP_MAX_IN + QP_MAX_OUT];
    int      n = 0;
    views[n++] = &c->out[0];
    for (int i = 0; i < c->nin; i++) {
        if (c->in[i].ndim < 0) continue;
        if (!qpi_view_expand(&c->in[i], c->out[0].ndim, c->out[0].shape)) {
            qp_fail(c->ctx, QP_ERR_SHAPE, "%s: input %d does not broadcast to the output", c->op->name, i);
            return false;
        }
        views[n++] = &c->in[i];
    }
    qpi_views_merge(views, n);
    return true;
}

/* What qp_call.compute says. */
static qp_dtype compute_type(const qp_ctx *ctx, const qp_op *op) {
    return op->autocast ? ctx->mode.autocast : QP_F32;
}

/* Working memory for the call as it will run: the context's, which grows; another device
 * lends it for the call. */
static bool reserve_scratch(qp_ctx *ctx, const qp_device *device, running *r) {
    const qp_call *c = &r->call;
    size_t         want = c->op->scratch ? c->op->scratch(c, ctx->exec.threads) : 0;
    if (device != &qpi_cpu) {
        r->scratch = want ? device->alloc(ctx, want) : NULL;
        r->exec = ctx->exec;
        r->exec.scratch = r->scratch;
        return !want || r->scratch;
    }
    if (want > ctx->scratch_bytes) {
        qpi_free(ctx, ctx->exec.scratch);
        ctx->scratch_bytes = 0;
        ctx->exec.scratch = qpi_alloc(ctx, want);
        if (!ctx->exec.scratch) return false;
        ctx->scratch_bytes = want;
    }
    qpi_watch(ctx->exec.scratch, want, ctx->scratch_bytes);
    r->exec = ctx->exec;
    return true;
}

/* The kernel for the call. NULL: the definition is to run; or, after an error, nothing. */
static const qp_kernel *choose(qp_ctx *ctx, const qp_device *device, const qp_call *c) {
    const qp_op     *op = c->op;
    const qp_kernel *k = device->kernel(ctx, op);
    bool             exists = k != NULL;
    if (k && !(k->takes ? k->takes : default_takes)(c)) k = NULL;
    for (int i = 0; i < c->nin && k; i++)
        if (written(op, i) && !fits(&c->in[i], k->layout)) k = NULL; /* a copy would not do */
    if (!k && !device->host)
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s has no %s kernel%s", op->name, device->name,
                exists ? " for these types and layouts" : "");
    return k;
}

/* Runs the kernel, or the definition where no kernel takes the call. The views become those that it ran with. */
static bool run_op(qp_ctx *ctx, const qp_device *device, const qp_op *op, const void *attr, int nin,
                   qp_view *in, int nout, qp_view *out) {
    running r;
    r.copy_count = 0;
    r.scratch = NULL;
    r.call = (qp_call){ctx, op, attr, nin, nout, in, out, NULL, compute_type(ctx, op)};
    const qp_kernel *k = choose(ctx, device, &r.call);
    if (!k && !device->host) return false;
    qp_layout layout = k ? k->layout : op->elementwise ? QP_ELEMENTWISE : QP_ANY;
    bool      ok = layout != QP_ELEMENTWISE || elementwise(&r.call);
    for (int i = 0; i < nin && ok; i++)
        if (!written(op, i) && !fits(&in[i], layout)) ok = make_contiguous(ctx, device, &r, &in[i]);
    ok = ok && reserve_scratch(ctx, device, &r);
    r.call.exec = &r.exec;
    void (*run)(const qp_call *call) = k ? k->run : op->plain;
    if (ok && ctx->observer) qpi_run_observed(run, &r.call);
    else if (ok) run(&r.call);
    if (r.scratch) device->free(ctx, r.scratch);
    for (int i = 0; i < r.copy_count; i++) qpi_value_release(ctx, &r.copies[i]);
    return ok;
}

const qpi_value qpi_absent = {.view = {.ndim = -1}};

/* Inputs as values (of their slots) and edges; false after storing an error or for poison. */
static bool gather_inputs(qp_ctx *ctx, const qp_op *op, int nin, const qp_tensor *ins, const qpi_value **values,
                          qpi_edge *edges) {
    if (nin < op->min_in || nin > op->max_in) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %d inputs, expected %d to %d", op->name, nin, op->min_in,
                op->max_in);
        return false;
    }
    for (int i = 0; i < nin; i++) {
        edges[i] = (qpi_edge){0};
        values[i] = &qpi_absent;
        if (!ins[i].ctx) {
            if (i >= op->min_in) continue;
            qp_fail(ctx, QP_ERR_ARGUMENT, "%s: input %d is missing", op->name, i);
            return false;
        }
        if (ins[i].ctx != ctx) {
            qp_fail(ctx, QP_ERR_ARGUMENT, "%s: input %d belongs to another context", op->name, i);
            return false;
        }
        qpi_slot *s = qpi_resolve(ins[i], op->name);
        if (!s) return false;
        if (!s->value.storage) {
            qp_fail(ctx, QP_ERR_STATE, "%s: input %d %s", op->name, i, qpi_no_elements(&s->value));
            return false;
        }
        values[i] = &s->value;
        edges[i] = (qpi_edge){s->node, s->out};
        if (ctx->leaves && s->node && !s->node->op) qpi_leaf_used(ctx, ctx->leaves, s->node, &s->value);
    }
    return true;
}

/* May a be written while b is read at another place of the same memory? */
static bool entangled(const qpi_value *a, const qpi_value *b) {
    if (a->storage != b->storage) return false;
    const qp_view *v[2] = {&a->view, &b->view};
    char          *first[2], *last[2];
    bool           same = a->view.data == b->view.data && a->view.ndim == b->view.ndim;
    for (int k = 0; k < 2; k++) {
        int64_t reach = 0;
        for (int i = 0; i < v[k]->ndim; i++) {
            reach += (v[k]->shape[i] - 1) * v[k]->stride[i];
            same = same && v[0]->shape[i] == v[1]->shape[i] && v[0]->stride[i] == v[1]->stride[i];
        }
        first[k] = v[k]->data;
        last[k] = first[k] + qp_dtype_size(v[k]->dtype, reach);
        if (qp_view_count(v[k]) == 0) return false;
    }
    return !same && first[0] <= last[1] && first[1] <= last[0];
}

/* Is input i read while one that overlaps it is written? */
static bool overwritten(const qp_op *op, int nin, const qpi_value *const *values, int i) {
    for (int w = 0; w < nin; w++)
        if (written(op, w) && values[w]->storage && entangled(values[w], values[i])) return true;
    return false;
}

/* Other inputs that overlap what is being written are read from copies. Several written inputs
 * may interleave (the gradients of q, k and v are regions of one buffer): that they share no
 * element is the caller's part. */
static bool run_mutation(qp_ctx *ctx, const qp_device *device, const qp_op *op, const void *attr, int nin,
                         const qpi_value *const *values, qp_view *in) {
    qpi_value copies[QP_MAX_IN];
    int       count = 0;
    bool      ok = true;
    for (int i = 1; i < nin && ok; i++) {
        if (!values[i]->storage || written(op, i) || !overwritten(op, nin, values, i)) continue;
        copies[count] = contiguous_copy(ctx, device, &in[i]);
        in[i] = copies[count].view;
        ok = copies[count++].storage != NULL;
    }
    qp_view out = in[0];
    ok = ok && run_op(ctx, device, op, attr, nin, in, 1, &out);
    for (int i = 0; i < count; i++) qpi_value_release(ctx, &copies[i]);
    return ok;
}

static bool may_write(qp_ctx *ctx, const qp_op *op, const qpi_value *value, const qpi_node *node) {
    const qp_view *v = &value->view;
    if (!value->storage) return true; /* absent */
    if (value->storage->read_only) {
        qp_fail(ctx, QP_ERR_STATE, "%s: the tensor's memory is read-only", op->name);
        return false;
    }
    for (int i = 0; i < v->ndim && qp_view_count(v) > 0; i++)
        if (v->stride[i] == 0 && v->shape[i] > 1) {
            qp_fail(ctx, QP_ERR_ARGUMENT,
                    "%s: in-place change of an expanded tensor, whose elements share memory", op->name);
            return false;
        }
    if (!ctx->mode.no_grad && node && node->op) {
        qp_fail(ctx, QP_ERR_STATE, "%s: in-place change of a value that backward needs", op->name);
        return false;
    }
    return true;
}

static bool mutate(qp_ctx *ctx, const qp_device *device, const qp_op *op, const void *attr, int nin,
                   const qpi_value *const *values, const qpi_edge *edges, qp_view *in) {
    for (int i = 0; i < nin; i++)
        if (written(op, i) && !may_write(ctx, op, values[i], edges[i].node)) return false;
    if (!run_mutation(ctx, device, op, attr, nin, values, in)) return false;
    for (int i = 0; i < nin; i++)
        if (written(op, i) && values[i]->storage) values[i]->storage->version++;
    return !qp_failed(ctx);
}

/* Shape rules of ops need not ask whether the sizes they put together are too large. */
static bool check_outputs(qp_call *c) {
    for (int i = 0; i < c->nout && !qp_failed(c->ctx); i++) {
        if (qp_dtype_block(c->out[i].dtype) > 1 && !c->op->blocks)
            qp_call_fail(c, QP_ERR_TYPE, "output %d would be %s: only qp_cast makes blocks", i,
                         qp_dtype_name(c->out[i].dtype));
        else if (!qpi_view_possible(&c->out[i]))
            qp_call_fail(c, QP_ERR_ARGUMENT, "output %d is too large, no valid shape, or holds no whole blocks",
                         i);
    }
    return !qp_failed(c->ctx);
}

/* A view of x, or of a contiguous copy where x's strides allow none. */
static qpi_value view_output(qp_call *c, const qpi_value *x) {
    c->op->view(c);
    if (c->out[0].data && !qpi_view_whole(&c->out[0])) {
        char text[96];
        qpi_view_describe(&x->view, text, sizeof text);
        qp_call_fail(c, QP_ERR_ARGUMENT, "of %s: the view's last axis would not hold whole blocks", text);
    }
    if (qp_failed(c->ctx)) return (qpi_value){0};
    if (c->out[0].data || qp_view_count(&x->view) == 0)
        return (qpi_value){qpi_storage_retain(x->storage), c->out[0]};
    qpi_value copy = contiguous_copy(c->ctx, x->storage->device, &x->view);
    if (!copy.storage) return copy;
    c->in[0] = copy.view;
    c->op->view(c);
    return (qpi_value){copy.storage, c->out[0]};
}

/* Fresh outputs, or the input's storage again for views. */
static bool allocate_outputs(qp_ctx *ctx, const qp_device *device, qp_call *c, const qpi_value *first,
                             qpi_value *outs) {
    if (!check_outputs(c)) return false;
    for (int i = 0; i < c->nout; i++) {
        outs[i] = c->op->view ? view_output(c, first) : qpi_value_new(ctx, device, &c->out[i]);
        if (!outs[i].storage) {
            while (i-- > 0) qpi_value_release(ctx, &outs[i]);
            return false;
        }
        c->out[i] = outs[i].view;
    }
    return true;
}

/* Descriptors come from host programs too. */
static bool sound(qp_ctx *ctx, const qp_op *op) {
    const char *wrong = NULL;
    if (op->min_in < 0 || op->max_in < op->min_in || op->max_in > QP_MAX_IN) wrong = "min_in or max_in";
    if (op->nout < 1 || op->nout > QP_MAX_OUT || ((op->mutates || op->elementwise) && op->nout != 1))
        wrong = "nout";
    if (op->attr_bytes > QP_MAX_ATTR) wrong = "attr_bytes";
    if (!op->plain && !op->view) wrong = "plain";
    if (wrong) qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %s of the descriptor is not valid", op->name, wrong);
    return !wrong;
}

static bool takes_blocks(qp_ctx *ctx, const qp_op *op, int nin, const qpi_value *const *values) {
    for (int i = 0; i < nin; i++) {
        qp_dtype t = values[i]->view.dtype;
        if (!values[i]->storage || qp_dtype_block(t) == 1 || op->blocks >> i & 1) continue;
        qp_fail(ctx, QP_ERR_TYPE, "%s: input %d is %s, which it does not take: qp_cast makes floats of blocks",
                op->name, i, qp_dtype_name(t));
        return false;
    }
    return true;
}

/* Where the call runs; NULL after an error: its inputs are in two places. */
static const qp_device *device_of_call(qp_ctx *ctx, const qp_op *op, int nin, const qpi_value *const *values) {
    const qp_device *device = NULL;
    int              first = 0;
    for (int i = 0; i < nin; i++) {
        if (!values[i]->storage) continue;
        if (!device) first = i;
        if (!device) device = values[i]->storage->device;
        if (device == values[i]->storage->device) continue;
        qp_fail(ctx, QP_ERR_STATE, "%s: input %d is on %s, input %d on %s", op->name, first, device->name, i,
                values[i]->storage->device->name);
        return NULL;
    }
    return device ? device : ctx->device;
}

void qpi_apply_some(const qp_op *op, int nin, const qp_tensor *ins, const void *attr, int nout,
                    qp_tensor *outs) {
    const qpi_value *values[QP_MAX_IN];
    qpi_value        results[QP_MAX_OUT];
    qpi_edge         edges[QP_MAX_IN];
    qp_view          in[QP_MAX_IN], out[QP_MAX_OUT];
    char             attrs[QP_MAX_ATTR] = {0};
    qp_ctx          *ctx = NULL;
    for (int i = 0; i < nin && !ctx; i++) ctx = ins[i].ctx;
    if (ctx && qpi_cancelled(ctx)) qp_fail(ctx, QP_ERR_CANCELLED, "cancelled");
    bool ready = ctx && !qp_failed(ctx) && sound(ctx, op) && gather_inputs(ctx, op, nin, ins, values, edges) &&
                 takes_blocks(ctx, op, nin, values);
    const qp_device *device = ready ? device_of_call(ctx, op, nin, values) : NULL;
    qp_tensor        first = nin > 0 ? ins[0] : QP_NONE; /* outs may be ins */
    for (int i = 0; i < nout && i < QP_MAX_OUT; i++) outs[i] = ctx ? qpi_poison(ctx) : QP_NONE;
    if (!device) return;

    if (attr) memcpy(attrs, attr, op->attr_bytes);
    for (int i = 0; i < nin; i++) in[i] = values[i]->view;
    for (int i = 0; i < nout; i++) out[i] = (qp_view){0};
    qp_call call = {ctx, op, attrs, nin, nout, in, out, NULL, compute_type(ctx, op)};

    if (op->shape) op->shape(&call);
    else if (op->mutates) out[0] = in[0];
    else qpi_broadcast_shape(&call, 0);
    if (qp_failed(ctx)) return;
    if (op->mutates) {
        if (mutate(ctx, device, op, attrs, nin, values, edges, in)) outs[0] = first;
        return;
    }
    if (!allocate_outputs(ctx, device, &call, values[0], results)) return;
    if (!op->view) run_op(ctx, device, op, attrs, nin, in, nout, out);
    for (int i = 0; i < nout; i++) {
        if (!qp_failed(ctx)) outs[i] = qpi_handle(ctx, results[i]);
        else qpi_value_release(ctx, &results[i]);
    }
    if (!qp_failed(ctx)) qpi_record(&call, values, edges, outs, NULL);
    for (int i = 0; i < nout && qp_failed(ctx); i++) {
        qp_drop(outs[i]);
        outs[i] = qpi_poison(ctx);
    }
}

void qp_apply_many(const qp_op *op, int nin, const qp_tensor *ins, const void *attr, qp_tensor *outs) {
    qpi_apply_some(op, nin, ins, attr, op->nout, outs);
}

qp_tensor qp_apply(const qp_op *op, int nin, const qp_tensor *ins, const void *attr) {
    qp_tensor y[QP_MAX_OUT] = {QP_NONE};
    qp_apply_many(op, nin, ins, attr, y);
    return y[0];
}

bool qpi_update(qp_ctx *ctx, const qp_op *op, const qpi_value *dst, const qpi_value *src) {
    const qpi_value *both[2] = {dst, src};
    qp_view          in[2] = {dst->view, src->view};
    bool             ok = run_mutation(ctx, dst->storage->device, op, NULL, 2, both, in);
    dst->storage->version++;
    return ok && !qp_failed(ctx);
}

qpi_value qpi_value_to(qp_ctx *ctx, const qpi_value *v, const qp_device *device) {
    const qp_device *from = v->storage->device;
    qpi_value        flat = *v, copy;
    qpi_storage_retain(flat.storage);
    if (from == device || !qpi_view_contiguous(&v->view)) {
        qpi_value_release(ctx, &flat);
        flat = contiguous_copy(ctx, from, &v->view);
        if (from == device || !flat.storage) return flat;
    }
    size_t bytes = qp_dtype_size(v->view.dtype, qp_view_count(&v->view));
    copy = qpi_value_new(ctx, device, &v->view);
    if (copy.storage && bytes && from->host) {
        device->from_host(ctx, copy.view.data, flat.view.data, bytes);
    } else if (copy.storage && bytes && device->host) {
        from->to_host(ctx, copy.view.data, flat.view.data, bytes);
    } else if (copy.storage && bytes) {
        qpi_value between = qpi_value_to(ctx, &flat, &qpi_cpu);
        if (between.storage) device->from_host(ctx, copy.view.data, between.view.data, bytes);
        qpi_value_release(ctx, &between);
    }
    qpi_value_release(ctx, &flat);
    return copy;
}
