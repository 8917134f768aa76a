/* values, indices = x along one axis in order; stable; NaN counts as the largest.
 * dx[indices] = dvalues. */
#include "ops/sort.h"

typedef struct {
    int  axis;
    bool descending;
} sort_attr;

static void lines(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    qk_axis        a = qk_axis_of(&c->in[0], axis_given(c));
    bool           descending = ((const sort_attr *)c->attr)->descending;
    uint64_t      *keys = (uint64_t *)c->exec->scratch + (size_t)worker * 2 * (size_t)a.n;
    for (int64_t l = begin; l < end; l++) {
        int64_t      at = l / a.inner * a.n * a.inner + l % a.inner;
        const float *x = (const float *)c->in[0].data + at;
        float       *values = (float *)c->out[0].data + at;
        int64_t     *indices = (int64_t *)c->out[1].data + at;
        for (int64_t i = 0; i < a.n; i++) keys[i] = qk_sort_key(x[i * a.inner], i, descending);
        const uint64_t *sorted = qk_sort_keys(keys, keys + a.n, a.n);
        for (int64_t i = 0; i < a.n; i++) {
            int64_t from = (int64_t)(uint32_t)sorted[i];
            indices[i * a.inner] = from;
            values[i * a.inner] = x[from * a.inner];
        }
    }
}

static void run(const qp_call *c) { sort_lines(c, lines); }
static bool takes(const qp_call *c) {
    return c->in[0].dtype == QP_F32 && qk_axis_of(&c->in[0], axis_given(c)).n <= UINT32_MAX;
}

QP_KERNEL(sort) = {run, QP_FLAT, takes};

#if QP_BODY
static void shape(qp_call *c) {
    if (!shape_check_axis(c, axis_given(c))) return;
    shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
    shape_set(c, 1, QP_I64, c->in[0].ndim, c->in[0].shape);
}

static void plain(const qp_call *c) {
    qk_axis a = qk_axis_of(&c->in[0], axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        const int64_t *order = sort_plain(c, a, l, ((const sort_attr *)c->attr)->descending);
        for (int64_t i = 0; i < a.n; i++) {
            axis_store(&c->out[0], a, l, i, axis_load(&c->in[0], a, l, order[i]));
            axis_store(&c->out[1], a, l, i, (double)order[i]);
        }
    }
}

static void backward(qp_rule *r) { r->din[0] = sort_scatter(r); }

static const qp_sample samples[] = {{.in = "d[3,7]", .attr = &(sort_attr){-1, false}},
                                    {.in = "d[70,3]", .attr = &(sort_attr){0, true}},
                                    {.in = "d[2,5,3]", .attr = &(sort_attr){1, false}},
                                    {.in = "d[1]", .attr = &(sort_attr){0, true}},
                                    {.in = "d[2,0]", .attr = &(sort_attr){1, false}},
                                    {.in = "i4[3,60]", .attr = &(sort_attr){-1, true}, .no_grad = true},
                                    {0}};

QP_OP(sort) = {.name = "sort",
               .source = "torch.sort(stable=True)",
               .min_in = 1,
               .max_in = 1,
               .nout = 2,
               .attr_bytes = sizeof(sort_attr),
               .saves = QP_SAVE_OUT(1),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .scratch = sort_scratch,
               .samples = samples};

void qp_sort(qp_tensor x, int axis, bool descending, qp_tensor *values, qp_tensor *indices) {
    sort_attr a = {axis, descending};
    qp_tensor y[2];
    QP_CALL_MANY(sort, &a, y, x);
    *values = y[0];
    *indices = y[1];
}
#endif
