/* y = the inputs one behind the other along one axis.   dx_i = its slice of dy. */
#include "core/core.h"
#include "kernels/copy.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int32_t axis;
} attr;

static void run(const qp_call *c) {
    int     axis = shape_axis(((const attr *)c->attr)->axis, c->out[0].ndim);
    int64_t start = 0;
    for (int i = 0; i < c->nin; start += c->in[i++].shape[axis])
        qk_copy(c->exec, qk_part(c->out[0], axis, start, c->in[i].shape[axis]), c->in[i]);
}

QP_KERNEL(concat) = {run, QP_ANY, qk_copy_takes};

#if QP_BODY
static void shape(qp_call *c) {
    const qp_view *x = &c->in[0];
    int64_t        size[QP_MAX_DIMS];
    if (!shape_check_axis(c, ((const attr *)c->attr)->axis)) return;
    int axis = shape_axis(((const attr *)c->attr)->axis, x->ndim);
    memcpy(size, x->shape, sizeof size);
    size[axis] = 0;
    for (int i = 0; i < c->nin; i++) {
        const qp_view *v = &c->in[i];
        bool           fits = v->ndim == x->ndim && v->dtype == x->dtype;
        for (int k = 0; fits && k < x->ndim; k++) fits = k == axis || v->shape[k] == x->shape[k];
        if (fits && !__builtin_add_overflow(size[axis], v->shape[axis], &size[axis])) continue;
        char a[96], b[96];
        qpi_view_describe(x, a, sizeof a);
        qpi_view_describe(v, b, sizeof b);
        qp_call_fail(c, QP_ERR_SHAPE,
                     "input 0 is %s, input %d is %s: expected them to differ along axis %d only", a, i, b,
                     axis);
        return;
    }
    shape_set(c, 0, x->dtype, x->ndim, size);
}

static void plain(const qp_call *c) {
    int     axis = shape_axis(((const attr *)c->attr)->axis, c->out[0].ndim);
    int64_t start = 0;
    for (int i = 0; i < c->nin; start += c->in[i++].shape[axis]) {
        qp_view y = qk_part(c->out[0], axis, start, c->in[i].shape[axis]);
        for (int64_t at = 0; at < qp_view_count(&y); at++)
            qp_store(&y, qp_view_offset(&y, at), qp_load(&c->in[i], qp_view_offset(&c->in[i], at)));
    }
}

static void backward(qp_rule *r) {
    int     axis = ((const attr *)r->attr)->axis;
    int64_t start = 0;
    for (int i = 0; i < r->nin; i++) {
        int64_t end = start + qp_size(r->in[i], axis);
        if (r->need[i]) r->din[i] = qp_slice(r->dout[0], axis, start, end, 1);
        start = end;
    }
}

static const qp_sample samples[] = {{.in = "x[3,5] x[3,2]", .attr = &(attr){-1}},
                                    {.in = "x[3,5] x[1,5] x[2,5]"},
                                    {.in = "x[2,3,4] x[2,0,4] x[2,1,4]", .attr = &(attr){1}},
                                    {.in = "x[7]"},
                                    {.in = "i9[5] i9[4]", .no_grad = true},
                                    {0}};

QP_OP(concat) = {.name = "concat",
                 .source = "torch.cat",
                 .min_in = 1,
                 .max_in = QP_MAX_IN,
                 .nout = 1,
                 .attr_bytes = sizeof(attr),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .samples = samples};

qp_tensor qp_concat(int n, const qp_tensor *xs, int axis) {
    for (int i = 0; i < n; i++) {
        if (!qp_is_none(xs[i])) continue;
        for (int j = 0; j < n; j++)
            if (xs[j].ctx) {
                qp_fail(xs[j].ctx, QP_ERR_ARGUMENT, "concat: input %d is missing", i);
                return qpi_poison(xs[j].ctx);
            }
    }
    return n > 0 ? qp_apply(&qp_op_concat, n, xs, &(attr){axis}) : QP_NONE;
}
#endif
