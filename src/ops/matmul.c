/* z = x y over the last two axes, batch axes broadcast.   dx = dz y^T, dy = x^T dz, each
 * summed over the axes it was broadcast along.
 *
 * The attribute says that z is large and not read soon, as gradients of weights are.
 *
 * matmul_into is the same product added to what is there (and summed over the axes that c
 * lacks): gradients of matrices grow in place. */
#include "kernels/product.h"
#include "ops/op.h"

/* c (+)= a b; c's strides are 0 along axes to sum over. */
static qk_product plan(const qp_view *a, const qp_view *b, const qp_view *c, qp_dtype compute,
                       bool accumulate) {
    int        na = a->ndim, nb = b->ndim, nc = c->ndim;
    qk_product p = {.axes = (na > nb ? na : nb) - 2};
    for (int i = 0; i < p.axes; i++) {
        int     ia = i - (p.axes - (na - 2)), ib = i - (p.axes - (nb - 2));
        int64_t size = ia < 0 ? 1 : a->shape[ia];
        p.size[i] = size == 1 && ib >= 0 ? b->shape[ib] : size;
    }
    p.gemm = (qk_gemm_args){.m = a->shape[na - 2],
                            .n = b->shape[nb - 1],
                            .k = a->shape[na - 1],
                            .a = a->data,
                            .b = b->data,
                            .c = c->data,
                            .a_type = a->dtype,
                            .b_type = b->dtype,
                            .a_row = a->stride[na - 2],
                            .a_col = a->stride[na - 1],
                            .b_row = b->stride[nb - 2],
                            .b_col = b->stride[nb - 1],
                            .c_type = c->dtype,
                            .c_row = c->stride[nc - 2],
                            .compute = compute,
                            .scale = 1,
                            .accumulate = accumulate};
    qk_product_axes(&p, QK_A, a, na - 2);
    qk_product_axes(&p, QK_B, b, nb - 2);
    qk_product_axes(&p, QK_C, c, nc - 2);
    QK(qk_product_plan)(&p);
    return p;
}

static void run(const qp_call *c) {
    qk_product p = plan(&c->in[0], &c->in[1], &c->out[0], c->compute, false);
    p.gemm.far = *(const bool *)c->attr;
    QK(qk_product_run)(c->exec, &p);
}

static bool takes(const qp_call *c) {
    return qk_gemm_takes(c->out[0].dtype) && qk_gemm_takes(c->in[0].dtype) && qk_gemm_takes(c->in[1].dtype);
}

static bool by_rows(const qp_view *v) { return v->shape[v->ndim - 1] <= 1 || v->stride[v->ndim - 1] == 1; }

static qp_view transposed(qp_view v) {
    int64_t *n = &v.shape[v.ndim - 2], *step = &v.stride[v.ndim - 2], first[] = {n[0], step[0]};
    n[0] = n[1];
    step[0] = step[1];
    n[1] = first[0];
    step[1] = first[1];
    return v;
}

/* c += a b, or c^T += b^T a^T where c lies by columns. */
static qk_product plan_into(const qp_call *c) {
    if (by_rows(&c->out[0])) return plan(&c->in[1], &c->in[2], &c->out[0], c->compute, true);
    qp_view a = transposed(c->in[2]), b = transposed(c->in[1]), out = transposed(c->out[0]);
    return plan(&a, &b, &out, c->compute, true);
}

static void run_into(const qp_call *c) {
    qk_product p = plan_into(c);
    QK(qk_product_run)(c->exec, &p);
}

static bool in_lines(const qp_view *v) {
    qp_view turned = transposed(*v);
    return by_rows(v) || by_rows(&turned);
}

static bool takes_into(const qp_call *c) {
    return qk_gemm_takes(c->out[0].dtype) && qk_gemm_takes(c->in[1].dtype) && qk_gemm_takes(c->in[2].dtype) &&
           in_lines(&c->out[0]);
}

QP_KERNEL(matmul) = {run, QP_ANY, takes};
QP_KERNEL(matmul_into) = {run_into, QP_ANY, takes_into};

#if QP_BODY
#include "core/core.h"

/* The type of a product: the wider of the two, f32 for two different 16-bit types. */
static qp_dtype product_type(qp_dtype a, qp_dtype b) {
    if (a == b) return a;
    return a == QP_F64 || b == QP_F64 ? QP_F64 : QP_F32;
}

static bool misfit(const qp_call *c, int i, qp_code code, const char *what) {
    char a[96], b[96];
    qpi_view_describe(&c->in[i], a, sizeof a);
    qpi_view_describe(&c->in[i + 1], b, sizeof b);
    qp_call_fail(c, code, "input %d is %s, input %d is %s: %s", i, a, i + 1, b, what);
    return false;
}

/* The product of inputs i and i + 1 as out; false after storing an error. */
static bool product_shape(const qp_call *c, int i, qp_view *out) {
    const qp_view *a = &c->in[i], *b = &c->in[i + 1];
    if (!qp_dtype_is_float(a->dtype) || !qp_dtype_is_float(b->dtype))
        return misfit(c, i, QP_ERR_TYPE, "expected floats");
    if (a->ndim < 2 || b->ndim < 2) return misfit(c, i, QP_ERR_SHAPE, "expected two axes at least");
    if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2]) return misfit(c, i, QP_ERR_SHAPE, "inner sizes differ");
    int     ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
    int64_t shape[QP_MAX_DIMS];
    for (int axis = 0; axis < ndim - 2; axis++) {
        int     ia = axis - (ndim - a->ndim), ib = axis - (ndim - b->ndim);
        int64_t sa = ia < 0 ? 1 : a->shape[ia], sb = ib < 0 ? 1 : b->shape[ib];
        if (sa != sb && sa != 1 && sb != 1) return misfit(c, i, QP_ERR_SHAPE, "batch axes do not broadcast");
        shape[axis] = sa == 1 ? sb : sa;
    }
    shape[ndim - 2] = a->shape[a->ndim - 2];
    shape[ndim - 1] = b->shape[b->ndim - 1];
    return qpi_view_init(out, product_type(a->dtype, b->dtype), ndim, shape) ||
           misfit(c, i, QP_ERR_SHAPE, "the product is too large");
}

static void shape(qp_call *c) { product_shape(c, 0, &c->out[0]); }

static void shape_into(qp_call *c) {
    qp_view product, sum = c->in[0];
    int     last = sum.ndim - 1;
    c->out[0] = c->in[0];
    if (!product_shape(c, 1, &product)) return;
    if (last >= 1 && qpi_view_expand(&sum, product.ndim, product.shape) &&
        c->in[0].shape[last - 1] == product.shape[product.ndim - 2] &&
        c->in[0].shape[last] == product.shape[product.ndim - 1])
        return;
    char have[96], want[96];
    qpi_view_describe(&c->in[0], have, sizeof have);
    qpi_view_describe(&product, want, sizeof want);
    qp_call_fail(c, QP_ERR_SHAPE, "input 0 is %s, the product %s does not sum to it", have, want);
}

/* out += a b, or = into zeros: out's strides are 0 along axes to sum over. */
static void plain_product(const qp_view *a, const qp_view *b, const qp_view *out, const int64_t *shape,
                          int ndim, bool accumulate) {
    int64_t batch[QP_MAX_DIMS], n = 1, k = a->shape[a->ndim - 1];
    for (int i = 0; i < ndim; i++) n *= batch[i] = shape[i];
    qp_view x = *a, y = *b, z = *out;
    batch[ndim - 1] = k;
    qpi_view_expand(&x, ndim, batch);
    batch[ndim - 2] = k;
    batch[ndim - 1] = shape[ndim - 1];
    qpi_view_expand(&y, ndim, batch);
    qpi_view_expand(&z, ndim, shape);
    for (int64_t index = 0; index < n; index++) {
        int64_t rest = index, xo = 0, yo = 0, zo = 0;
        for (int i = ndim - 1; i >= 0; i--) {
            int64_t at = rest % shape[i];
            rest /= shape[i];
            if (i != ndim - 1) xo += at * x.stride[i];
            if (i != ndim - 2) yo += at * y.stride[i];
            zo += at * z.stride[i];
        }
        double sum = accumulate ? qp_load(&z, zo) : 0;
        for (int64_t p = 0; p < k; p++)
            sum += qp_load(&x, xo + p * x.stride[ndim - 1]) * qp_load(&y, yo + p * y.stride[ndim - 2]);
        qp_store(&z, zo, sum);
    }
}

static void plain(const qp_call *c) {
    plain_product(&c->in[0], &c->in[1], &c->out[0], c->out[0].shape, c->out[0].ndim, false);
}

static void plain_into(const qp_call *c) {
    qp_view product;
    if (product_shape(c, 1, &product))
        plain_product(&c->in[1], &c->in[2], &c->out[0], product.shape, product.ndim, true);
}

extern const qp_op qp_op_matmul_into;

/* Was x broadcast along a batch axis of z? */
static bool broadcast(qp_tensor x, qp_tensor z) {
    if (qp_ndim(x) != qp_ndim(z)) return true;
    for (int i = 0; i < qp_ndim(x) - 2; i++)
        if (qp_size(x, i) != qp_size(z, i)) return true;
    return false;
}

/* The gradient a b of input i: a matrix on the right (a weight, as a rule) and what was
 * broadcast grow in place, if they lie by rows or by columns. */
static qp_tensor gradient(qp_rule *r, int i, qp_tensor a, qp_tensor b) {
    if (!broadcast(r->in[i], r->dout[0]) && !(i == 1 && qp_ndim(r->in[i]) == 2)) return qp_matmul(a, b);
    qp_tensor       sum = qp_grad_into(r, i);
    const qpi_slot *s = qpi_resolve(sum, "matmul");
    if (s && !in_lines(&s->value.view))
        sum = qp_zeros(r->ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape);
    return QP_CALL(matmul_into, NULL, sum, a, b);
}

static void backward(qp_rule *r) {
    qp_tensor dz = r->dout[0];
    if (r->need[0]) r->din[0] = gradient(r, 0, dz, qp_transpose(r->in[1], -2, -1));
    if (r->need[1]) r->din[1] = gradient(r, 1, qp_transpose(r->in[0], -2, -1), dz);
}

static double product_flops(const qp_view *product, const qp_view *a) {
    return 2.0 * (double)qp_view_count(product) * (double)a->shape[a->ndim - 1];
}
static double flops(const qp_call *c) { return product_flops(&c->out[0], &c->in[0]); }
static double flops_into(const qp_call *c) {
    qp_view product;
    return product_shape(c, 1, &product) ? product_flops(&product, &c->in[1]) : 0;
}

static size_t scratch(const qp_call *c, int threads) {
    qk_product p = plan(&c->in[0], &c->in[1], &c->out[0], c->compute, false);
    return QK(qk_product_scratch)(&p, threads);
}
static size_t scratch_into(const qp_call *c, int threads) {
    qk_product p = plan_into(c);
    return QK(qk_product_scratch)(&p, threads);
}

static const qp_sample samples[] = {
    {.in = "x[3,5] x[5,7]"},   {.in = "x[1,1] x[1,1]"},     {.in = "x[0,3] x[3,4]"},
    {.in = "x[3,0] x[0,4]"},   {.in = "x[2,3,4] x[2,4,5]"}, {.in = "x[2,1,3,4] x[5,4,3]"},
    {.in = "x[2,3,4] x[4,5]"}, {.in = "x[4,5] x[2,2,5,3]"}, {.in = "x[3,1,4] x[4,5]"},
    {.in = "x[0,3,4] x[4,5]"}, {.in = "x[65,37] x[37,67]"}, {0}};

QP_OP(matmul) = {.name = "matmul",
                 .source = "torch.matmul",
                 .min_in = 2,
                 .max_in = 2,
                 .nout = 1,
                 .attr_bytes = sizeof(bool),
                 .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .scratch = scratch,
                 .flops = flops,
                 .autocast = true,
                 .samples = samples};

static const qp_sample samples_into[] = {{.in = "x[3,5] x[3,4] x[4,5]"}, {.in = "x[3,5] x[2,6,3,4] x[2,1,4,5]"},
                                         {.in = "x[3,5] x[3,0] x[0,5]"}, {.in = "x[2,1,3,5] x[2,4,3,4] x[4,5]"},
                                         {.in = "x[0,5] x[0,4] x[4,5]"}, {0}};

QP_OP(matmul_into) = {.name = "matmul_into",
                      .source = "torch.Tensor.addmm_",
                      .min_in = 3,
                      .max_in = 3,
                      .nout = 1,
                      .shape = shape_into,
                      .plain = plain_into,
                      .scratch = scratch_into,
                      .flops = flops_into,
                      .autocast = true,
                      .samples = samples_into,
                      .mutates = QP_SAVE_IN(0)};

qp_tensor qp_matmul(qp_tensor x, qp_tensor y) { return QP_CALL(matmul, &(bool){false}, x, y); }
#endif
