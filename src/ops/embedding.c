/* y = table[index]: rows of table [V, D], in its type, f32 of block types.   dtable: each row of dy is added to its row of the
 * table's gradient, in order of the indices; embedding_grad does it in place. */
#include "core/blocks.h"
#include "kernels/copy.h"
#include "ops/index.h"
#include "ops/op.h"

#define GRAIN 16384 /* elements of one piece of work */

/* ---- Forward: rows are copied, whatever their type, or decoded ---------------------------------------- */

static void copy_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *table = &c->in[0], *index = &c->in[1];
    int64_t        D = table->shape[1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t     row = index_at(index, qp_view_offset(index, i));
        const char *from = (const char *)table->data + qp_dtype_size(table->dtype, row * table->stride[0]);
        if (qp_dtype_block(table->dtype) > 1)
            qpi_blocks_decode(table->dtype, from, D, (float *)c->out[0].data + i * D);
        else
            memcpy((char *)c->out[0].data + i * (int64_t)qp_dtype_size(table->dtype, D), from,
                   qp_dtype_size(table->dtype, D));
    }
}

static void run(const qp_call *c) {
    int64_t D = c->in[0].shape[1];
    if (!D || !index_check(c, 1, c->in[0].shape[0])) return;
    qp_parallel(c->exec, qp_view_count(&c->in[1]), (GRAIN + D - 1) / D, copy_rows, (void *)c);
}

QP_KERNEL(embedding) = {run, QP_ROWS, qk_copy_takes};

/* ---- Gradient: pieces are ranges of columns, so every sum is formed by one of them ---------- */

static void add_columns(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *table = &c->out[0], *dy = &c->in[1], *index = &c->in[2];
    int64_t        n = qp_view_count(index), D = table->shape[1];
    bool           flat = true;
    (void)worker;
    for (int64_t axis = dy->ndim - 2, size = D; axis >= 0; size *= dy->shape[axis--])
        flat &= dy->stride[axis] == size || dy->shape[axis] == 1;
    for (int64_t i = 0; i < n; i++) {
        int64_t      row = index_at(index, qp_view_offset(index, i));
        float       *to = (float *)table->data + row * table->stride[0];
        const float *from = (const float *)dy->data + (flat ? i * D : qp_view_offset(dy, i * D));
        for (int64_t j = begin; j < end; j += VF_LANES) {
            int m = end - j < VF_LANES ? (int)(end - j) : VF_LANES;
            vf_store_n(to + j, vf_load_n(to + j, m) + vf_load_n(from + j, m), m);
        }
    }
}

static void grad_run(const qp_call *c) {
    int64_t D = c->out[0].shape[1], share = (D / (2 * c->exec->threads) + 15) / 16 * 16;
    if (!index_check(c, 2, c->out[0].shape[0])) return;
    qp_parallel(c->exec, D, share < 64 ? 64 : share, add_columns, (void *)c);
}

static bool grad_takes(const qp_call *c) { return c->out[0].dtype == QP_F32 && c->in[1].dtype == QP_F32; }

QP_KERNEL(embedding_grad) = {grad_run, QP_ROWS, grad_takes};

#if QP_BODY
#include "core/core.h"

static bool check_table(const qp_call *c) {
    char text[96];
    if (c->in[0].ndim == 2) return true;
    qpi_view_describe(&c->in[0], text, sizeof text);
    qp_call_fail(c, QP_ERR_SHAPE, "input 0 is %s, expected [V, D]", text);
    return false;
}

static void grad_shape(qp_call *c) {
    const qp_view *dy = &c->in[1], *index = &c->in[2];
    c->out[0] = c->in[0];
    if (!check_table(c) || !index_check_type(c, 2)) return;
    bool fits = dy->ndim == index->ndim + 1 && dy->shape[dy->ndim - 1] == c->in[0].shape[1];
    for (int i = 0; fits && i < index->ndim; i++) fits = dy->shape[i] == index->shape[i];
    if (!fits)
        qp_call_fail(c, QP_ERR_SHAPE, "input 1: expected the shape of input 2 and [%lld] behind",
                     (long long)c->in[0].shape[1]);
}

static void grad_plain(const qp_call *c) {
    const qp_view *table = &c->out[0], *dy = &c->in[1], *index = &c->in[2];
    int64_t        n = qp_view_count(index), D = table->shape[1];
    if (!index_check(c, 2, table->shape[0])) return;
    for (int64_t i = 0; i < n * D; i++) {
        int64_t at =
            index_at(index, qp_view_offset(index, i / D)) * table->stride[0] + i % D * table->stride[1];
        qp_store(table, at, qp_load(table, at) + qp_load(dy, qp_view_offset(dy, i)));
    }
}

/* Of the table only the rows that are named. */
static double rows_bytes(const qp_view *rows, const qp_view *index, int passes) {
    return passes * (double)qp_view_count(rows) * (double)qp_dtype_bytes(rows->dtype) +
           (double)qp_view_count(index) * (double)qp_dtype_bytes(index->dtype);
}
static double grad_flops(const qp_call *c) { return (double)qp_view_count(&c->in[1]); }
static double grad_bytes(const qp_call *c) { return rows_bytes(&c->in[1], &c->in[2], 3); }
static double bytes(const qp_call *c) { return rows_bytes(&c->out[0], &c->in[1], 2); }

static const qp_sample grad_samples[] = {
    {.in = "x[7,5] x[3,5] i7[3]"}, {.in = "x[5,67] x[2,9,67] i5[2,9]"}, {.in = "x[3,200] x[40,200] i3[40]"},
    {.in = "x[4,3] x[0,3] i4[0]"}, {.in = "x[4,3] x[3] i4[]"},          {0}};

QP_OP(embedding_grad) = {.name = "embedding_grad",
                         .source = "backward of embedding",
                         .min_in = 3,
                         .max_in = 3,
                         .nout = 1,
                         .shape = grad_shape,
                         .plain = grad_plain,
                         .flops = grad_flops,
                         .bytes = grad_bytes,
                         .mutates = QP_SAVE_IN(0),
                         .samples = grad_samples};

static void shape(qp_call *c) {
    const qp_view *index = &c->in[1];
    int64_t        size[QP_MAX_DIMS + 1];
    if (!check_table(c) || !index_check_type(c, 1)) return;
    memcpy(size, index->shape, sizeof index->shape);
    size[index->ndim] = c->in[0].shape[1];
    qp_dtype dtype = qp_dtype_block(c->in[0].dtype) > 1 ? QP_F32 : c->in[0].dtype;
    if (!qpi_view_init(&c->out[0], dtype, index->ndim + 1, size))
        qp_call_fail(c, QP_ERR_ARGUMENT, "the index has %d axes, expected at most %d", index->ndim,
                     QP_MAX_DIMS - 1);
}

static void plain(const qp_call *c) {
    const qp_view *table = &c->in[0], *index = &c->in[1], *y = &c->out[0];
    int64_t        n = qp_view_count(y), D = table->shape[1];
    if (!index_check(c, 1, table->shape[0])) return;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = index_at(index, qp_view_offset(index, i / D));
        qp_store(y, qp_view_offset(y, i), qp_load(table, row * table->stride[0] + i % D * table->stride[1]));
    }
}

static void backward(qp_rule *r) {
    r->din[0] = qp_grad_into(r, 0);
    QP_CALL(embedding_grad, NULL, r->din[0], r->dout[0], r->in[1]);
}

static const qp_sample samples[] = {{.in = "x[7,5] i7[3]"},        {.in = "x[5,67] i5[2,9]"},
                                    {.in = "x[4,3] i4[]"},         {.in = "x[4,3] i4[0,2]"},
                                    {.in = "x[1,1] i1[40]"},       {.in = "wq4_k[7,256] i7[3]"},
                                    {.in = "wq8_0[5,64] i5[2,9]"}, {0}};

QP_OP(embedding) = {.name = "embedding",
                    .source = "torch.nn.functional.embedding",
                    .min_in = 2,
                    .max_in = 2,
                    .nout = 1,
                    .saves = QP_SAVE_IN(1),
                    .shape = shape,
                    .plain = plain,
                    .backward = backward,
                    .bytes = bytes,
                    .blocks = QP_SAVE_IN(0),
                    .samples = samples};

qp_tensor qp_embedding(qp_tensor table, qp_tensor index) { return QP_CALL(embedding, NULL, table, index); }
#endif
