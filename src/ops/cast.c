/* y = x in another type: floats round to nearest even, integers truncate and saturate, NaN
 * becomes 0.   dx = dy in x's type. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    int32_t dtype;
} cast_attr;

#define BLOCK 256

/* n elements of x as float. */
static void load(qp_dtype t, const void *p, int64_t stride, int64_t n, float *x) {
    int64_t i = 0;
    switch (t) {
#define HALF(type, name) \
    case type: { \
        const uint16_t *h = p; \
        if (stride == 1) \
            for (; i + VF_LANES <= n; i += VF_LANES) vf_store(x + i, vf_load_##name(h + i)); \
        for (; i < n; i++) { \
            vh one = {h[i * stride]}; \
            x[i] = vf_from_##name(one)[0]; \
        } \
        break; \
    }
        HALF(QP_BF16, bf16)
        HALF(QP_F16, f16)
#undef HALF
#define CASE(type, ctype, after) \
    case type: \
        if (stride == 1) \
            for (; i < n; i++) x[i] = (float)(((const ctype *)p)[i] after); \
        for (; i < n; i++) x[i] = (float)(((const ctype *)p)[i * stride] after); \
        break;
        CASE(QP_F32, float, )
        CASE(QP_F64, double, )
        CASE(QP_I64, int64_t, )
        CASE(QP_I32, int32_t, )
        CASE(QP_U8, uint8_t, )
        CASE(QP_I8, int8_t, )
        CASE(QP_BOOL, uint8_t, != 0)
#undef CASE
    default: break;
    }
}

/* Saturates; the bounds are the largest floats within the type. NaN is 0. */
#define TO_INT(x, low, high) ((x) >= (high) ? (high) : (x) > (low) ? (x) : (x) == (x) ? (low) : 0)

static void store(qp_dtype t, void *p, int64_t stride, int64_t n, const float *x) {
    int64_t i = 0;
    switch (t) {
#define HALF(type, name) \
    case type: { \
        uint16_t *h = p; \
        if (stride == 1) \
            for (; i + VF_LANES <= n; i += VF_LANES) vf_store_##name(h + i, vf_load(x + i)); \
        for (; i < n; i++) h[i * stride] = vf_to_##name(vf_set1(x[i]))[0]; \
        break; \
    }
        HALF(QP_BF16, bf16)
        HALF(QP_F16, f16)
#undef HALF
#define CASE(type, ctype, value) \
    case type: \
        if (stride == 1) \
            for (; i < n; i++) ((ctype *)p)[i] = (ctype)(value); \
        for (; i < n; i++) ((ctype *)p)[i * stride] = (ctype)(value); \
        break;
        CASE(QP_F32, float, x[i])
        CASE(QP_F64, double, x[i])
        CASE(QP_U8, uint8_t, TO_INT(x[i], 0.0f, 255.0f))
        CASE(QP_I8, int8_t, TO_INT(x[i], -128.0f, 127.0f))
        CASE(QP_BOOL, uint8_t, x[i] != 0)
#undef CASE
    case QP_I64:
        for (; i < n; i++)
            ((int64_t *)p)[i * stride] =
                x[i] >= 0x1p63f ? INT64_MAX : (int64_t)TO_INT(x[i], -0x1p63f, 0x1.fffffep62f);
        break;
    case QP_I32:
        for (; i < n; i++)
            ((int32_t *)p)[i * stride] =
                x[i] >= 0x1p31f ? INT32_MAX : (int32_t)TO_INT(x[i], -0x1p31f, 0x1.fffffep30f);
        break;
    default: break;
    }
}

static void row(const qp_call *c, char *const *p, int64_t n) {
    const qp_view *y = &c->out[0], *x = &c->in[0];
    int64_t        sy = QK_LAST(*y), sx = QK_LAST(*x);
    int64_t        ty = (int64_t)qp_dtype_bytes(y->dtype), tx = (int64_t)qp_dtype_bytes(x->dtype);
    float          block[BLOCK];
    if (y->dtype == QP_F32 && sy == 1) {
        load(x->dtype, p[1], sx, n, (float *)p[0]);
        return;
    }
    if (x->dtype == QP_F32 && sx == 1) {
        store(y->dtype, p[0], sy, n, (const float *)p[1]);
        return;
    }
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t left = n - i < BLOCK ? n - i : BLOCK;
        load(x->dtype, p[1] + i * sx * tx, sx, left, block);
        store(y->dtype, p[0] + i * sy * ty, sy, left, block);
    }
}
static void run(const qp_call *c) { qk_elementwise(c, row); }

/* By way of float: one side must fit into it. */
static bool small(qp_dtype t) { return t == QP_F32 || t == QP_BF16 || t == QP_F16; }
static bool takes(const qp_call *c) {
    qp_dtype x = c->in[0].dtype, y = c->out[0].dtype;
    return small(x) || small(y) || x == QP_U8 || x == QP_I8 || x == QP_BOOL;
}

QP_KERNEL(cast) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
#include <stdio.h>

#include "ops/shape.h"

static void shape(qp_call *c) {
    int32_t t = ((const cast_attr *)c->attr)->dtype;
    if (t >= 0 && t < QP_DTYPE_COUNT && qp_dtype_block((qp_dtype)t) == 1)
        shape_set(c, 0, (qp_dtype)t, c->in[0].ndim, c->in[0].shape);
    else qp_call_fail(c, QP_ERR_ARGUMENT, "type %d, expected 0 to %d", (int)t, QP_DTYPE_COUNT - 1);
}

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = qp_cast(r->dout[0], qp_dtype_of(r->in[0])); }

#define TO(type) \
    .attr = &(cast_attr) { type }
static const qp_sample samples[] = {{.in = "x[3,35]", TO(QP_BF16), .no_grad = true},
                                    {.in = "x[3,35]", TO(QP_F16), .no_grad = true},
                                    {.in = "x[67]", TO(QP_F64)},
                                    {.in = "x[67]", TO(QP_I64), .no_grad = true},
                                    {.in = "x[67]", TO(QP_I32), .no_grad = true},
                                    {.in = "p[67]", TO(QP_U8), .no_grad = true},
                                    {.in = "x[9]", TO(QP_BOOL), .no_grad = true},
                                    {.in = "x[3,37]", TO(QP_I8), .no_grad = true},
                                    {.in = "q[3,37]", TO(QP_F32), .no_grad = true},
                                    {.in = "i99[3,5]", TO(QP_F32), .no_grad = true},
                                    {.in = "i99[67]", TO(QP_I32), .no_grad = true},
                                    {.in = "b[67]", TO(QP_F32), .no_grad = true},
                                    {.in = "b[]", TO(QP_I64), .no_grad = true},
                                    {.in = "x[0,3]", TO(QP_BF16), .no_grad = true},
                                    {0}};

QP_OP(cast) = {.name = "cast",
               .source = "torch.Tensor.to",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .attr_bytes = sizeof(cast_attr),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .elementwise = true,
               .samples = samples};

extern const qp_op qp_op_quantize, qp_op_dequantize;

qp_tensor qp_cast(qp_tensor x, qp_dtype dtype) {
    cast_attr a = {(int32_t)dtype};
    if (x.ctx && !qp_failed(x.ctx) && qp_dtype_of(x) == dtype) return qp_alias(x);
    if (x.ctx && qp_dtype_block(qp_dtype_of(x)) > 1) return qp_cast(QP_CALL(dequantize, NULL, x), dtype);
    if (qp_dtype_block(dtype) > 1) return QP_CALL(quantize, &a, x);
    return QP_CALL(cast, &a, x);
}
#endif
