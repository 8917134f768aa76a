/* y = x rounded to a block type, each row of the last axis by itself. No gradient. */
#include "core/blocks.h"
#include "ops/op.h"

#define GRAIN 1024 /* elements of one piece of work: the search for scales is long */

typedef struct {
    int32_t dtype;
} attr;

/* Pieces are blocks. */
static void encode(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    qp_dtype       t = c->out[0].dtype;
    int64_t        block = qp_dtype_block(t);
    (void)worker;
    qpi_blocks_encode(t, (const float *)c->in[0].data + begin * block, (end - begin) * block,
                      (char *)c->out[0].data + qp_dtype_size(t, begin * block));
}

static void run(const qp_call *c) {
    int64_t block = qp_dtype_block(c->out[0].dtype);
    qp_parallel(c->exec, qp_view_count(&c->in[0]) / block, GRAIN / block, encode, (void *)c);
}

static bool takes(const qp_call *c) { return c->in[0].dtype == QP_F32; }

QP_KERNEL(quantize) = {run, QP_FLAT, takes};

#if QP_BODY
#include "ops/shape.h"

static void shape(qp_call *c) {
    const qp_view *x = &c->in[0];
    int32_t        t = ((const attr *)c->attr)->dtype;
    char           text[96];
    qpi_view_describe(x, text, sizeof text);
    if (t < 0 || t >= QP_DTYPE_COUNT || qp_dtype_block((qp_dtype)t) == 1)
        qp_call_fail(c, QP_ERR_ARGUMENT, "type %d is no block type", (int)t);
    else if (!qp_dtype_is_float(x->dtype)) qp_call_fail(c, QP_ERR_TYPE, "%s, expected floats", text);
    else if (!qpi_view_init(&c->out[0], (qp_dtype)t, x->ndim, x->shape))
        qp_call_fail(c, QP_ERR_SHAPE, "%s to %s: expected a last axis of whole blocks of %d", text,
                     qp_dtype_name((qp_dtype)t), qp_dtype_block((qp_dtype)t));
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    qp_dtype       t = c->out[0].dtype;
    int64_t        block = qp_dtype_block(t);
    float          row[256];
    for (int64_t i = 0; i < qp_view_count(x); i += block) {
        for (int64_t j = 0; j < block; j++) row[j] = (float)qp_load(x, qp_view_offset(x, i + j));
        qpi_blocks_encode(t, row, block, (char *)c->out[0].data + qp_dtype_size(t, i));
    }
}

#define TO(type) .attr = &(attr){type}, .no_grad = true
static const qp_sample samples[] = {{.in = "x[3,64]", TO(QP_Q8_0)},
                                    {.in = "x[2,3,32]", TO(QP_Q4_0)},
                                    {.in = "p[64]", TO(QP_Q4_1)},
                                    {.in = "x[5,96]", TO(QP_Q5_0)},
                                    {.in = "x[5,32]", TO(QP_Q5_1)},
                                    {.in = "x[3,512]", TO(QP_Q2_K)},
                                    {.in = "x[256]", TO(QP_Q3_K)},
                                    {.in = "p[3,256]", TO(QP_Q4_K)},
                                    {.in = "x[1,512]", TO(QP_Q5_K)},
                                    {.in = "x[3,256]", TO(QP_Q6_K)},
                                    {.in = "x[3,64]", TO(QP_IQ4_NL)},
                                    {.in = "x[3,0]", TO(QP_Q4_K)},
                                    {0}};

QP_OP(quantize) = {.name = "quantize",
                   .source = "ggml: quantize_row_*_ref",
                   .min_in = 1,
                   .max_in = 1,
                   .nout = 1,
                   .attr_bytes = sizeof(attr),
                   .shape = shape,
                   .plain = plain,
                   .blocks = QP_SAVE_OUT(0),
                   .samples = samples};
#endif
