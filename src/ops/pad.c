/* y = x with `before` and `after` places of one value around it along one axis.   dx = the
 * slice of dy between them. */
#include "core/core.h"
#include "kernels/copy.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int32_t axis;
    int64_t before, after;
    double  value;
} attr;

static void run(const qp_call *c) {
    const attr *a = c->attr;
    int         axis = shape_axis(a->axis, c->in[0].ndim);
    int64_t     n = c->in[0].shape[axis];
    double      room;
    qp_view middle = qk_part(c->out[0], axis, a->before, n), value = {.data = &room, .dtype = c->out[0].dtype};
    qp_view ends[2] = {qk_part(c->out[0], axis, 0, a->before),
                       qk_part(c->out[0], axis, a->before + n, a->after)};
    qp_store(&value, 0, a->value);
    qk_copy(c->exec, middle, c->in[0]);
    for (int i = 0; i < 2; i++) {
        qp_view all = value; /* one element seen as all of them */
        qpi_view_expand(&all, ends[i].ndim, ends[i].shape);
        qk_copy(c->exec, ends[i], all);
    }
}

QP_KERNEL(pad) = {run, QP_ANY, qk_copy_takes};

#if QP_BODY
static void shape(qp_call *c) {
    const attr *a = c->attr;
    int64_t     size[QP_MAX_DIMS], sum;
    if (!shape_check_axis(c, a->axis)) return;
    memcpy(size, c->in[0].shape, sizeof size);
    int64_t *n = &size[shape_axis(a->axis, c->in[0].ndim)];
    if (a->before < 0 || a->after < 0 || __builtin_add_overflow(a->before, a->after, &sum) ||
        __builtin_add_overflow(*n, sum, n)) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "%lld places before and %lld after, expected 0 or more",
                     (long long)a->before, (long long)a->after);
        return;
    }
    shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, size);
}

static void plain(const qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[0], *y = &c->out[0];
    int            axis = shape_axis(a->axis, x->ndim);
    qp_view        middle = qk_part(*y, axis, a->before, x->shape[axis]);
    for (int64_t i = 0; i < qp_view_count(y); i++) qp_store(y, qp_view_offset(y, i), a->value);
    for (int64_t i = 0; i < qp_view_count(x); i++)
        qp_store(&middle, qp_view_offset(&middle, i), qp_load(x, qp_view_offset(x, i)));
}

static void backward(qp_rule *r) {
    const attr *a = r->attr;
    r->din[0] = qp_slice(r->dout[0], a->axis, a->before, a->before + qp_size(r->in[0], a->axis), 1);
}

static const qp_sample samples[] = {{.in = "x[3,5]", .attr = &(attr){1, 1, 2, 0}},
                                    {.in = "x[3,5]", .attr = &(attr){0, 0, 1, -1.5}},
                                    {.in = "x[2,3,4]", .attr = &(attr){-2, 2, 0, 7}},
                                    {.in = "x[0,3]", .attr = &(attr){0, 1, 1, 2}},
                                    {.in = "x[4]"},
                                    {.in = "i9[4]", .attr = &(attr){0, 1, 1, -100}, .no_grad = true},
                                    {0}};

QP_OP(pad) = {.name = "pad",
              .source = "torch.nn.functional.pad",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .attr_bytes = sizeof(attr),
              .shape = shape,
              .plain = plain,
              .backward = backward,
              .samples = samples};

qp_tensor qp_pad(qp_tensor x, int axis, int64_t before, int64_t after, double value) {
    return QP_CALL(pad, (&(attr){axis, before, after, value}), x);
}
#endif
