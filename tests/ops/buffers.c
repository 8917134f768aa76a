/* Tensors in watched memory. */
#include "core/blocks.h"
#include "harness.h"

#define GUARD 256    /* bytes before and behind */
#define GARBAGE 0xff /* NaN as a float, -1 as an integer */

qp_dtype input_dtype(const input *in, form f) {
    if (strchr("iot", in->kind)) return f.integers;
    if (in->kind == 'b') return QP_BOOL;
    if (in->kind == 'q') return QP_I8;
    if (in->kind == 'w') return in->type;
    return in->constant ? QP_F32 : in->wide ? QP_F64 : f.floats;
}

/* Of block types only gaps of whole blocks between rows are layouts. */
static layout layout_of(qp_dtype dtype, layout wanted) {
    if (qp_dtype_block(dtype) == 1 || wanted == LAYOUT_OFFSET || wanted == LAYOUT_ROWS) return wanted;
    return LAYOUT_FLAT;
}

/* Strides of the layout; returns the elements of memory that it spans. */
static int64_t lay_out(qp_view *v, layout layout) {
    int     order[QP_MAX_DIMS]; /* axes, outermost in memory first */
    int64_t gap = layout == LAYOUT_ROWS || layout == LAYOUT_MIXED ? 3 * qp_dtype_block(v->dtype) : 0;
    int64_t stride = layout == LAYOUT_STEPS ? 2 : 1;
    for (int i = 0; i < v->ndim; i++) order[i] = layout == LAYOUT_REVERSED ? v->ndim - 1 - i : i;
    for (int i = 0; i + 1 < v->ndim && layout == LAYOUT_MIXED; i += 2) {
        order[i] = i + 1;
        order[i + 1] = i;
    }
    for (int i = v->ndim - 1; i >= 0; i--) {
        v->stride[order[i]] = stride;
        stride = stride * v->shape[order[i]] + gap;
        if (layout == LAYOUT_ROWS) gap = 0;
    }
    return stride;
}

static void set_blocks(const qp_view *v, const double *value, int64_t count) {
    int64_t block = qp_dtype_block(v->dtype);
    float   x[256];
    for (int64_t i = 0; i < count; i += block) {
        for (int64_t k = 0; k < block; k++) x[k] = (float)value[i + k];
        qpi_blocks_encode(v->dtype, x, block, (char *)v->data + qp_dtype_size(v->dtype, qp_view_offset(v, i)));
    }
}

guarded guarded_make(const input *in, qp_dtype dtype, layout wanted) {
    guarded g = {.view = {.dtype = dtype, .ndim = in->ndim}};
    layout  layout = layout_of(dtype, wanted);
    int     block = qp_dtype_block(dtype);
    for (int i = 0; i < in->ndim; i++) g.view.shape[i] = in->shape[i];
    int64_t span = lay_out(&g.view, layout), offset = layout == LAYOUT_FLAT ? 0 : block;
    g.bytes = (2 * GUARD + qp_dtype_size(dtype, span + offset + block - 1) + 63) & ~(size_t)63;
    g.buffer = aligned_alloc(64, g.bytes);
    g.before = malloc(g.bytes);
    memset(g.buffer, GARBAGE, g.bytes);
    g.view.data = g.buffer + GUARD + qp_dtype_size(dtype, offset);
    for (int64_t i = 0; i < in->count && in->value && block == 1; i++)
        qp_store(&g.view, qp_view_offset(&g.view, i), in->value[i]);
    if (block > 1 && in->value) set_blocks(&g.view, in->value, in->count);
    memcpy(g.before, g.buffer, g.bytes);
    return g;
}

void guarded_free(guarded *g) {
    free(g->buffer);
    free(g->before);
    *g = (guarded){0};
}

bool guarded_intact(const guarded *g, bool written) {
    if (!g->buffer) return true;
    size_t size = qp_dtype_bytes(g->view.dtype);
    for (int64_t i = 0; i < qp_view_count(&g->view) && written; i += qp_dtype_block(g->view.dtype)) {
        unsigned char *p =
            (unsigned char *)g->view.data + qp_dtype_size(g->view.dtype, qp_view_offset(&g->view, i));
        memcpy(g->before + (p - g->buffer), p, size);
    }
    return memcmp(g->buffer, g->before, g->bytes) == 0;
}

qp_tensor guarded_tensor(qp_ctx *ctx, const guarded *g) {
    qpi_value v = {qpi_storage_attach(ctx, g->buffer, g->bytes, false, NULL, NULL), g->view};
    return v.storage ? qpi_handle(ctx, v) : qpi_poison(ctx);
}

void inputs_make(inputs *x, qp_ctx *ctx, const op_case *c, form f) {
    x->n = c->nin;
    for (int i = 0; i < c->nin; i++) {
        x->memory[i] = (guarded){0};
        x->tensor[i] = QP_NONE;
        if (c->in[i].ndim < 0) continue;
        layout l = f.only < 0 || f.only == i ? f.layout : LAYOUT_FLAT;
        x->memory[i] = guarded_make(&c->in[i], input_dtype(&c->in[i], f), l);
        x->tensor[i] = guarded_tensor(ctx, &x->memory[i]);
    }
}

void inputs_free(inputs *x) {
    for (int i = 0; i < x->n; i++) {
        qp_drop(x->tensor[i]);
        guarded_free(&x->memory[i]);
    }
}

bool inputs_intact(const inputs *x, const qp_op *op) {
    bool ok = true;
    for (int i = 0; i < x->n; i++) ok = guarded_intact(&x->memory[i], op->mutates >> i & 1) && ok;
    return ok;
}
