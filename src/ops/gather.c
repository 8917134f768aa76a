/* gather:       y[.., i, ..] = x[.., index[.., i, ..], ..] along one axis.
 *               dx: dy is added at index, in place (gather_grad).
 * scatter_add:  y = x; y[.., index[.., i, ..], ..] += src[.., i, ..] for i = 0, 1, ..
 *               dx = dy; dsrc = dy gathered at index.
 *
 * Along the other axes index is at most as long as what it points into. Sums are formed in
 * order of i: the lines along the axis fall into disjoint places, so they run in parallel. */
#include "kernels/copy.h"
#include "ops/index.h"
#include "ops/op.h"
#include "ops/shape.h"

typedef struct {
    int32_t axis;
} attr;

#define GRAIN 16384 /* elements of one piece of work */
#define STRIP 64    /* neighbouring lines walked together */

/* `far` is what index points into, `near` has index's shape (or more). Lines run along `axis`;
 * unless that is the last axis, up to STRIP neighbours along the last one make one strip. */
typedef struct {
    const qp_view *far, *index, *near;
    int            axis, last;
    int64_t        strips; /* along the last axis */
    bool           add;    /* far += near, otherwise near = far */
} job;

typedef struct {
    int64_t far, index, near;
} offsets;

static void step(const job *j, offsets *o, int axis, int64_t by) {
    if (axis != j->axis) o->far += by * j->far->stride[axis];
    o->index += by * j->index->stride[axis];
    o->near += by * j->near->stride[axis];
}

/* n elements from o on along one axis; far moves by the index. */
static void move(const job *j, offsets o, int axis, int64_t n) {
    int64_t fa = j->far->stride[j->axis], fs = axis == j->axis ? 0 : j->far->stride[axis];
    int64_t is = j->index->stride[axis], ns = j->near->stride[axis];
#define EACH(type, statement) \
    for (int64_t i = 0; i < n; i++) { \
        type *far = (type *)j->far->data + o.far + i * fs + index_at(j->index, o.index + i * is) * fa; \
        type *near = (type *)j->near->data + o.near + i * ns; \
        statement; \
    }
    if (j->add) EACH(float, *far += *near)
    else switch (qp_dtype_bytes(j->far->dtype)) {
        case 1: EACH(uint8_t, *near = *far) break;
        case 2: EACH(uint16_t, *near = *far) break;
        case 4: EACH(uint32_t, *near = *far) break;
        case 8: EACH(uint64_t, *near = *far) break;
        }
#undef EACH
}

static void pieces(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const int64_t *size = j->index->shape;
    (void)worker;
    for (int64_t piece = begin; piece < end; piece++) {
        offsets o = {0, 0, 0};
        int64_t rest = piece / j->strips, start = piece % j->strips * STRIP;
        for (int i = j->last - 1; i >= 0; i--) {
            if (i == j->axis) continue;
            step(j, &o, i, rest % size[i]);
            rest /= size[i];
        }
        if (j->axis == j->last) {
            move(j, o, j->last, size[j->last]);
            continue;
        }
        step(j, &o, j->last, start);
        int64_t lines = size[j->last] - start < STRIP ? size[j->last] - start : STRIP;
        for (int64_t i = 0; i < size[j->axis]; i++, step(j, &o, j->axis, 1)) move(j, o, j->last, lines);
    }
}

static void go(const qp_call *c, const qp_view *far, const qp_view *index, const qp_view *near, bool add) {
    int64_t count = qp_view_count(index);
    job     j = {.far = far, .index = index, .near = near, .add = add, .last = index->ndim - 1, .strips = 1};
    if (!count) return;
    j.axis = shape_axis(((const attr *)c->attr)->axis, index->ndim);
    int64_t outer = count / index->shape[j.last];
    if (j.axis != j.last) {
        outer /= index->shape[j.axis];
        j.strips = (index->shape[j.last] + STRIP - 1) / STRIP;
    }
    qp_parallel(c->exec, outer * j.strips, GRAIN / (count / (outer * j.strips)) + 1, pieces, &j);
}

static int64_t reach(const qp_call *c, const qp_view *far) {
    return far->shape[shape_axis(((const attr *)c->attr)->axis, far->ndim)];
}

static void run(const qp_call *c) {
    if (index_check(c, 1, reach(c, &c->in[0]))) go(c, &c->in[0], &c->in[1], &c->out[0], false);
}
static void grad_run(const qp_call *c) {
    if (index_check(c, 1, reach(c, &c->out[0]))) go(c, &c->out[0], &c->in[1], &c->in[2], true);
}
static void scatter_run(const qp_call *c) {
    if (!index_check(c, 1, reach(c, &c->out[0]))) return;
    qk_copy(c->exec, c->out[0], c->in[0]);
    go(c, &c->out[0], &c->in[1], &c->in[2], true);
}

QP_KERNEL(gather) = {run, QP_ANY, qk_copy_takes};
QP_KERNEL(gather_grad) = {grad_run, QP_ANY, NULL};
QP_KERNEL(scatter_add) = {scatter_run, QP_ANY, NULL};

#if QP_BODY
extern const qp_op qp_op_gather_grad;

/* Input 1 is an index into input 0; its shape fits within both others'. */
static bool check(const qp_call *c) {
    const qp_view *x = &c->in[0], *index = &c->in[1], *src = c->nin > 2 ? &c->in[2] : index;
    if (!shape_check_axis(c, ((const attr *)c->attr)->axis) || !index_check_type(c, 1)) return false;
    int  axis = shape_axis(((const attr *)c->attr)->axis, x->ndim);
    bool fits = index->ndim == x->ndim && src->ndim == x->ndim;
    for (int i = 0; fits && i < x->ndim; i++)
        fits = (i == axis || index->shape[i] <= x->shape[i]) && index->shape[i] <= src->shape[i];
    if (fits && (c->nin < 3 || src->dtype == x->dtype)) return true;
    char a[96], b[96], d[96];
    qpi_view_describe(x, a, sizeof a);
    qpi_view_describe(index, b, sizeof b);
    qpi_view_describe(src, d, sizeof d);
    if (c->nin > 2)
        qp_call_fail(c, QP_ERR_SHAPE, "x is %s, index is %s, src is %s: they do not fit along axis %d", a, b, d,
                     axis);
    else qp_call_fail(c, QP_ERR_SHAPE, "x is %s, index is %s: they do not fit along axis %d", a, b, axis);
    return false;
}

/* Offset in far of what element i of index points to. */
static int64_t target(const qp_call *c, const qp_view *far, int64_t i) {
    const qp_view *index = &c->in[1];
    int            axis = shape_axis(((const attr *)c->attr)->axis, far->ndim);
    int64_t        offset = index_at(index, qp_view_offset(index, i)) * far->stride[axis];
    for (int k = far->ndim - 1; k >= 0; i /= index->shape[k--])
        if (k != axis) offset += i % index->shape[k] * far->stride[k];
    return offset;
}

/* Offset in near of element i of index, whose shape may be smaller. */
static int64_t place(const qp_call *c, const qp_view *near, int64_t i) {
    qp_view within = *near;
    memcpy(within.shape, c->in[1].shape, sizeof within.shape);
    return qp_view_offset(&within, i);
}

static void gather_shape(qp_call *c) {
    if (check(c)) shape_set(c, 0, c->in[0].dtype, c->in[1].ndim, c->in[1].shape);
}

static void gather_plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->out[0];
    if (!index_check(c, 1, reach(c, x))) return;
    for (int64_t i = 0; i < qp_view_count(y); i++)
        qp_store(y, qp_view_offset(y, i), qp_load(x, target(c, x, i)));
}

static void gather_backward(qp_rule *r) {
    r->din[0] = qp_grad_into(r, 0);
    QP_CALL(gather_grad, r->attr, r->din[0], r->in[1], r->dout[0]);
}

/* Of the larger tensor only the elements that are named. */
static double elements_bytes(const qp_call *c, const qp_view *near, size_t passes) {
    size_t each = passes * qp_dtype_bytes(near->dtype) + qp_dtype_bytes(c->in[1].dtype);
    return (double)qp_view_count(&c->in[1]) * (double)each;
}
static double gather_bytes(const qp_call *c) { return elements_bytes(c, &c->out[0], 2); }

static const qp_sample gather_samples[] = {{.in = "x[3,7] i7[3,4]", .attr = &(attr){-1}},
                                           {.in = "x[5,3] i5[8,2]"},
                                           {.in = "x[2,5,70] i5[2,3,67]", .attr = &(attr){1}},
                                           {.in = "x[6] i6[9]"},
                                           {.in = "x[4,3] i3[4,0]", .attr = &(attr){1}},
                                           {.in = "i9[6] i6[9]", .no_grad = true},
                                           {0}};

QP_OP(gather) = {.name = "gather",
                 .source = "torch.gather",
                 .min_in = 2,
                 .max_in = 2,
                 .nout = 1,
                 .attr_bytes = sizeof(attr),
                 .saves = QP_SAVE_IN(1),
                 .shape = gather_shape,
                 .plain = gather_plain,
                 .backward = gather_backward,
                 .bytes = gather_bytes,
                 .samples = gather_samples};

qp_tensor qp_gather(qp_tensor x, int axis, qp_tensor index) { return QP_CALL(gather, &(attr){axis}, x, index); }

/* ---- Sums --------------------------------------------------------------------------------- */

static void grad_shape(qp_call *c) {
    if (check(c)) c->out[0] = c->in[0];
}

static void grad_plain(const qp_call *c) {
    const qp_view *y = &c->out[0], *src = &c->in[2];
    if (!index_check(c, 1, reach(c, y))) return;
    for (int64_t i = 0; i < qp_view_count(&c->in[1]); i++) {
        int64_t at = target(c, y, i);
        qp_store(y, at, qp_load(y, at) + qp_load(src, place(c, src, i)));
    }
}

static double grad_bytes(const qp_call *c) { return elements_bytes(c, &c->in[2], 3); }

static const qp_sample grad_samples[] = {
    {.in = "x[3,7] i7[3,4] x[3,4]", .attr = &(attr){-1}},         {.in = "x[5,3] i5[8,2] x[9,3]"},
    {.in = "x[2,5,70] i5[2,3,67] x[2,3,67]", .attr = &(attr){1}}, {.in = "x[6] i6[90] x[90]"},
    {.in = "x[4,3] i3[4,0] x[4,0]", .attr = &(attr){1}},          {0}};

QP_OP(gather_grad) = {.name = "gather_grad",
                      .source = "torch.Tensor.scatter_add_",
                      .min_in = 3,
                      .max_in = 3,
                      .nout = 1,
                      .attr_bytes = sizeof(attr),
                      .shape = grad_shape,
                      .plain = grad_plain,
                      .bytes = grad_bytes,
                      .mutates = QP_SAVE_IN(0),
                      .samples = grad_samples};

static void scatter_shape(qp_call *c) {
    if (check(c)) shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
}

static void scatter_plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->out[0];
    for (int64_t i = 0; i < qp_view_count(y); i++)
        qp_store(y, qp_view_offset(y, i), qp_load(x, qp_view_offset(x, i)));
    grad_plain(c);
}

static void scatter_backward(qp_rule *r) {
    const attr *a = r->attr;
    bool        whole = true;
    if (r->need[0]) r->din[0] = r->dout[0];
    if (!r->need[2]) return;
    qp_tensor d = qp_gather(r->dout[0], a->axis, r->in[1]);
    for (int i = 0; i < qp_ndim(r->in[2]); i++) whole &= qp_size(r->in[1], i) == qp_size(r->in[2], i);
    r->din[2] = whole ? d : qp_grad_into(r, 2);
    if (whole) return;
    qp_tensor part = r->din[2]; /* what of src was read */
    for (int i = 0; i < qp_ndim(part); i++) part = qp_slice(part, i, 0, qp_size(r->in[1], i), 1);
    QP_CALL(accumulate, NULL, part, d);
}

QP_OP(scatter_add) = {.name = "scatter_add",
                      .source = "torch.scatter_add",
                      .min_in = 3,
                      .max_in = 3,
                      .nout = 1,
                      .attr_bytes = sizeof(attr),
                      .saves = QP_SAVE_IN(1),
                      .shape = scatter_shape,
                      .plain = scatter_plain,
                      .backward = scatter_backward,
                      .samples = grad_samples};

qp_tensor qp_scatter_add(qp_tensor x, int axis, qp_tensor index, qp_tensor src) {
    return QP_CALL(scatter_add, &(attr){axis}, x, index, src);
}
#endif
