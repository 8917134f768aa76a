/* values, indices = the k largest (or smallest) of x along one axis, best first, ties in order of
 * index; NaN counts as the largest.   dx[indices] = dvalues. */
#include "ops/sort.h"

#define FEW 128 /* up to so many are kept in order while a line is scanned; more: it is sorted */

typedef struct {
    int     axis;
    bool    largest;
    int64_t k;
} topk_attr;

/* Could one of these 16 beat `worst`? NaN says yes. */
static bool any_beats(const float *x, float worst, bool largest) {
    int hits = 0;
    if (largest)
        for (int j = 0; j < 16; j++) hits |= !(x[j] <= worst);
    else
        for (int j = 0; j < 16; j++) hits |= !(x[j] >= worst);
    return hits;
}

/* The k best keys of a line in order. */
static void best_few(const float *x, qk_axis a, const topk_attr *t, uint64_t *best) {
    int64_t have = 0;
    for (int64_t i = 0; i < a.n;) {
        if (have == t->k && a.inner == 1 && i + 16 <= a.n &&
            !any_beats(x + i, x[(uint32_t)best[have - 1]], t->largest)) {
            i += 16;
            continue;
        }
        for (int64_t end = i + 16 < a.n ? i + 16 : a.n; i < end; i++) {
            uint64_t key = qk_sort_key(x[i * a.inner], i, t->largest);
            if (have == t->k && key >= best[have - 1]) continue;
            int64_t j = have < t->k ? have++ : have - 1;
            for (; j > 0 && best[j - 1] > key; j--) best[j] = best[j - 1];
            best[j] = key;
        }
    }
}

static void lines(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call   *c = arg;
    const topk_attr *t = c->attr;
    qk_axis          a = qk_axis_of(&c->in[0], t->axis);
    uint64_t        *keys = (uint64_t *)c->exec->scratch + (size_t)worker * 2 * (size_t)a.n;
    for (int64_t l = begin; l < end; l++) {
        int64_t         outer = l / a.inner, inner = l % a.inner, to = outer * t->k * a.inner + inner;
        const float    *x = (const float *)c->in[0].data + outer * a.n * a.inner + inner;
        const uint64_t *sorted = keys;
        if (t->k <= FEW) {
            best_few(x, a, t, keys);
        } else {
            for (int64_t i = 0; i < a.n; i++) keys[i] = qk_sort_key(x[i * a.inner], i, t->largest);
            sorted = qk_sort_keys(keys, keys + a.n, a.n);
        }
        for (int64_t i = 0; i < t->k; i++) {
            int64_t from = (int64_t)(uint32_t)sorted[i];
            ((int64_t *)c->out[1].data)[to + i * a.inner] = from;
            ((float *)c->out[0].data)[to + i * a.inner] = x[from * a.inner];
        }
    }
}

static void run(const qp_call *c) {
    if (((const topk_attr *)c->attr)->k > 0) sort_lines(c, lines);
}
static bool takes(const qp_call *c) {
    return c->in[0].dtype == QP_F32 && qk_axis_of(&c->in[0], axis_given(c)).n <= UINT32_MAX;
}

QP_KERNEL(topk) = {run, QP_FLAT, takes};

#if QP_BODY
static void shape(qp_call *c) {
    const topk_attr *t = c->attr;
    int64_t          size[QP_MAX_DIMS];
    if (!shape_check_axis(c, t->axis)) return;
    int axis = shape_axis(t->axis, c->in[0].ndim);
    memcpy(size, c->in[0].shape, sizeof size);
    if (t->k < 0 || t->k > size[axis]) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "k is %lld, expected 0 to %lld, the size of axis %d", (long long)t->k,
                     (long long)size[axis], t->axis);
        return;
    }
    size[axis] = t->k;
    shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, size);
    shape_set(c, 1, QP_I64, c->in[0].ndim, size);
}

static void plain(const qp_call *c) {
    const topk_attr *t = c->attr;
    qk_axis          a = qk_axis_of(&c->in[0], t->axis), top = {a.outer, t->k, a.inner};
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        const int64_t *order = sort_plain(c, a, l, t->largest);
        for (int64_t i = 0; i < t->k; i++) {
            axis_store(&c->out[0], top, l, i, axis_load(&c->in[0], a, l, order[i]));
            axis_store(&c->out[1], top, l, i, (double)order[i]);
        }
    }
}

static void backward(qp_rule *r) { r->din[0] = sort_scatter(r); }

static const qp_sample samples[] = {{.in = "d[3,7]", .attr = &(topk_attr){-1, true, 3}},
                                    {.in = "d[70,3]", .attr = &(topk_attr){0, false, 5}},
                                    {.in = "d[2,5,3]", .attr = &(topk_attr){1, true, 5}},
                                    {.in = "d[1]", .attr = &(topk_attr){0, true, 1}},
                                    {.in = "d[300]", .attr = &(topk_attr){0, true, 200}},
                                    {.in = "d[4,3]", .attr = &(topk_attr){1, true, 0}},
                                    {.in = "i4[3,60]", .attr = &(topk_attr){-1, true, 9}, .no_grad = true},
                                    {0}};

QP_OP(topk) = {.name = "topk",
               .source = "torch.topk(sorted=True), ties by index",
               .min_in = 1,
               .max_in = 1,
               .nout = 2,
               .attr_bytes = sizeof(topk_attr),
               .saves = QP_SAVE_OUT(1),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .scratch = sort_scratch,
               .flops = axis_flops,
               .samples = samples};

void qp_topk(qp_tensor x, int64_t k, int axis, bool largest, qp_tensor *values, qp_tensor *indices) {
    topk_attr a = {axis, largest, k};
    qp_tensor y[2];
    QP_CALL_MANY(topk, &a, y, x);
    *values = y[0];
    *indices = y[1];
}
#endif
