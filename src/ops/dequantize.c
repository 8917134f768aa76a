/* y = x's elements as f32, x of a block type. No gradient. */
#include "core/blocks.h"
#include "ops/op.h"

#define GRAIN 16384 /* elements of one piece of work */

static int64_t row_length(const qp_view *x) { return x->shape[x->ndim - 1]; }

/* Pieces are blocks; a run of them within a row is one call. */
static void decode(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *x = &c->in[0];
    int64_t        block = qp_dtype_block(x->dtype), length = row_length(x);
    (void)worker;
    for (int64_t i = begin * block, n; i < end * block; i += n) {
        n = length - i % length < end * block - i ? length - i % length : end * block - i;
        qpi_blocks_decode(x->dtype, (char *)x->data + qp_dtype_size(x->dtype, qp_view_offset(x, i)), n,
                          (float *)c->out[0].data + i);
    }
}

static void run(const qp_call *c) {
    int64_t block = qp_dtype_block(c->in[0].dtype);
    qp_parallel(c->exec, qp_view_count(&c->out[0]) / block, GRAIN / block, decode, (void *)c);
}

static bool takes(const qp_call *c) { return qp_dtype_block(c->in[0].dtype) > 1; }

QP_KERNEL(dequantize) = {run, QP_ANY, takes};

#if QP_BODY
#include "ops/shape.h"

static void shape(qp_call *c) {
    if (qp_dtype_block(c->in[0].dtype) > 1) shape_set(c, 0, QP_F32, c->in[0].ndim, c->in[0].shape);
    else qp_call_fail(c, QP_ERR_TYPE, "%s is no block type", qp_dtype_name(c->in[0].dtype));
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    for (int64_t i = 0; i < qp_view_count(x); i++) qp_store(&c->out[0], i, qp_load(x, qp_view_offset(x, i)));
}

static const qp_sample samples[] = {{.in = "wq8_0[3,64]"},    {.in = "wq4_0[2,3,32]"},
                                    {.in = "wq4_1[64]"},      {.in = "wq5_0[5,96]"},
                                    {.in = "wq5_1[5,32]"},    {.in = "wq2_k[3,512]"},
                                    {.in = "wq3_k[2,2,256]"}, {.in = "wq4_k[3,256]"},
                                    {.in = "wq5_k[1,512]"},   {.in = "wq6_k[3,256]"},
                                    {.in = "wiq4_nl[3,64]"},  {.in = "wq4_0[0,32]"},
                                    {.in = "wq6_k[3,0]"},     {0}};

QP_OP(dequantize) = {.name = "dequantize",
                     .source = "ggml: dequantize_row_*",
                     .min_in = 1,
                     .max_in = 1,
                     .nout = 1,
                     .shape = shape,
                     .plain = plain,
                     .blocks = QP_SAVE_IN(0),
                     .samples = samples};
#endif
