/* y[i + shift mod n] = x[i] along one axis.   dx = dy rolled back. */
#include "core/core.h"
#include "kernels/copy.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int32_t axis;
    int64_t shift;
} attr;

static void run(const qp_call *c) {
    const attr *a = c->attr;
    int         axis = shape_axis(a->axis, c->in[0].ndim);
    int64_t     n = c->in[0].shape[axis], shift = n ? (a->shift % n + n) % n : 0;
    qk_copy(c->exec, qk_part(c->out[0], axis, shift, n - shift), qk_part(c->in[0], axis, 0, n - shift));
    qk_copy(c->exec, qk_part(c->out[0], axis, 0, shift), qk_part(c->in[0], axis, n - shift, shift));
}

QP_KERNEL(roll) = {run, QP_ANY, qk_copy_takes};

#if QP_BODY
static void shape(qp_call *c) {
    if (shape_check_axis(c, ((const attr *)c->attr)->axis)) c->out[0] = c->in[0];
}

static void plain(const qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[0], *y = &c->out[0];
    int            axis = shape_axis(a->axis, x->ndim);
    int64_t        n = x->shape[axis];
    for (int64_t i = 0; i < qp_view_count(x); i++) {
        int64_t inner = 1;
        for (int k = axis + 1; k < x->ndim; k++) inner *= x->shape[k];
        int64_t at = i / inner % n, to = ((at + a->shift % n) % n + n) % n;
        qp_store(y, qp_view_offset(y, i + (to - at) * inner), qp_load(x, qp_view_offset(x, i)));
    }
}

static void backward(qp_rule *r) {
    const attr *a = r->attr;
    r->din[0] = qp_roll(r->dout[0], a->axis, -a->shift);
}

static const qp_sample samples[] = {{.in = "x[3,5]", .attr = &(attr){-1, 2}},
                                    {.in = "x[3,5]", .attr = &(attr){0, -1}},
                                    {.in = "x[2,7,3]", .attr = &(attr){1, 23}},
                                    {.in = "x[6]"},
                                    {.in = "x[0,4]", .attr = &(attr){0, 1}},
                                    {.in = "i9[5]", .attr = &(attr){0, 1}, .no_grad = true},
                                    {0}};

QP_OP(roll) = {.name = "roll",
               .source = "torch.roll",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .attr_bytes = sizeof(attr),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .samples = samples};

qp_tensor qp_roll(qp_tensor x, int axis, int64_t shift) { return QP_CALL(roll, (&(attr){axis, shift}), x); }
#endif
