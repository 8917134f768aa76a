/* y[.., k] = 1 where k = index[..], otherwise 0. No gradient. */
#include "ops/index.h"
#include "ops/op.h"

#if QP_BODY
#include "core/core.h"

typedef struct {
    int64_t n;
    int32_t dtype;
} attr;

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *index = &c->in[0];
    int64_t        size[QP_MAX_DIMS + 1];
    if (!index_check_type(c, 0)) return;
    memcpy(size, index->shape, sizeof index->shape);
    size[index->ndim] = a->n;
    if (!qpi_view_init(&c->out[0], (qp_dtype)a->dtype, index->ndim + 1, size))
        qp_call_fail(c, QP_ERR_ARGUMENT, "%lld values for an index of %d axes", (long long)a->n, index->ndim);
}

static void plain(const qp_call *c) {
    const qp_view *index = &c->in[0], *y = &c->out[0];
    int64_t        n = ((const attr *)c->attr)->n, count = qp_view_count(y);
    if (!index_check(c, 0, n)) return;
    memset(y->data, 0, (size_t)count * qp_dtype_bytes(y->dtype));
    for (int64_t i = 0; i < qp_view_count(index); i++)
        qp_store(y, i * n + index_at(index, qp_view_offset(index, i)), 1);
}

static const qp_sample samples[] = {{.in = "i5[2,3]", .attr = &(attr){5, QP_F32}, .no_grad = true},
                                    {.in = "i7[7]", .attr = &(attr){9, QP_I64}, .no_grad = true},
                                    {.in = "i2[]", .attr = &(attr){2, QP_BOOL}, .no_grad = true},
                                    {.in = "i2[0,3]", .attr = &(attr){2, QP_F64}, .no_grad = true},
                                    {0}};

QP_OP(one_hot) = {.name = "one_hot",
                  .source = "torch.nn.functional.one_hot",
                  .min_in = 1,
                  .max_in = 1,
                  .nout = 1,
                  .attr_bytes = sizeof(attr),
                  .shape = shape,
                  .plain = plain,
                  .samples = samples};

qp_tensor qp_one_hot(qp_tensor index, int64_t n, qp_dtype dtype) {
    return QP_CALL(one_hot, (&(attr){n, dtype}), index);
}
#endif
