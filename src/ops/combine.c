/* y[n] = sum_j weight[n, j] x[place[n, j]] + residual[n]: rows that lie somewhere in x, weighed and summed.
 *   dx[place[n, j]] += weight[n, j] dy[n],   dweight[n, j] = dy[n] . x[place[n, j]],   dresidual = dy
 * combine_grad gives the first two. */
#include "ops/index.h"
#include "ops/op.h"

enum { X, PLACE, WEIGHT, LAST }; /* LAST: the residual, or dy */
#define GRAIN 16384              /* elements of one piece of work */

static const float *row_of(const qp_view *v, int64_t i) { return (const float *)v->data + i * v->stride[0]; }
static int64_t place_of(const qp_view *v, int64_t n, int64_t j) {
    return index_at(v, n * v->stride[0] + j * v->stride[1]);
}

/* to = a x + from, of `from` NULL: 0. */
static void add_row(float *to, const float *from, float a, const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i += VF_LANES) {
        int m = count - i < VF_LANES ? (int)(count - i) : VF_LANES;
        vf  sum = from ? vf_load_n(from + i, m) : vf_set1(0);
        vf_store_n(to + i, vf_fma(vf_set1(a), vf_load_n(x + i, m), sum), m);
    }
}

static void rows(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *x = &c->in[X], *place = &c->in[PLACE], *weight = &c->in[WEIGHT];
    const qp_view *residual = c->nin > LAST && c->in[LAST].ndim >= 0 ? &c->in[LAST] : NULL;
    int64_t        D = x->shape[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        float       *to = (float *)c->out[0].data + n * D;
        const float *from = residual ? row_of(residual, n) : NULL;
        if (!place->shape[1])
            from ? memcpy(to, from, (size_t)D * sizeof *to) : memset(to, 0, (size_t)D * sizeof *to);
        for (int64_t j = 0; j < place->shape[1]; j++, from = to)
            add_row(to, from, row_of(weight, n)[j * weight->stride[1]], row_of(x, place_of(place, n, j)), D);
    }
}

static void run(const qp_call *c) {
    int64_t N = c->in[PLACE].shape[0], k = c->in[PLACE].shape[1], D = c->in[X].shape[1];
    if (!index_check(c, PLACE, c->in[X].shape[0]) || !D) return;
    qp_parallel(c->exec, N, GRAIN / (D * (k + 1)) + 1, rows, (void *)(uintptr_t)c);
}

static bool takes(const qp_call *c) {
    bool all = c->out[0].dtype == QP_F32;
    for (int i = 0; i < c->nin; i++) all &= i == PLACE || c->in[i].ndim < 0 || c->in[i].dtype == QP_F32;
    return all;
}

QP_KERNEL(combine) = {run, QP_ROWS, takes};

/* ---- Gradients --------------------------------------------------------------------------------- */

static void dots(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *x = &c->in[X], *place = &c->in[PLACE];
    int64_t        k = place->shape[1], D = x->shape[1];
    float         *out = c->out[1].data;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const float *a = row_of(&c->in[LAST], i / k), *b = row_of(x, place_of(place, i / k, i % k));
        vf           sum = vf_set1(0);
        for (int64_t d = 0; d < D; d += VF_LANES) {
            int m = D - d < VF_LANES ? (int)(D - d) : VF_LANES;
            sum = vf_fma(vf_load_n(a + d, m), vf_load_n(b + d, m), sum);
        }
        out[i] = vf_sum(sum);
    }
}

/* Pieces are ranges of columns, so every sum is formed by one of them. */
static void columns(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *dx = &c->out[0], *place = &c->in[PLACE], *weight = &c->in[WEIGHT];
    int64_t        D = dx->shape[1];
    (void)worker;
    for (int64_t m = 0; m < dx->shape[0]; m++)
        memset((float *)dx->data + m * D + begin, 0, (size_t)(end - begin) * sizeof(float));
    for (int64_t n = 0; n < place->shape[0]; n++)
        for (int64_t j = 0; j < place->shape[1]; j++) {
            float *to = (float *)dx->data + place_of(place, n, j) * D + begin;
            add_row(to, to, row_of(weight, n)[j * weight->stride[1]], row_of(&c->in[LAST], n) + begin,
                    end - begin);
        }
}

static void grad_run(const qp_call *c) {
    int64_t D = c->in[X].shape[1], choices = qp_view_count(&c->in[PLACE]);
    int64_t share = (D / (2 * c->exec->threads) + 15) / 16 * 16;
    if (!index_check(c, PLACE, c->in[X].shape[0])) return;
    qp_parallel(c->exec, choices, GRAIN / (D + 1) + 1, dots, (void *)(uintptr_t)c);
    qp_parallel(c->exec, D, share < 64 ? 64 : share, columns, (void *)(uintptr_t)c);
}

QP_KERNEL(combine_grad) = {grad_run, QP_ROWS, takes};

#if QP_BODY
#include "ops/shape.h"

extern const qp_op qp_op_combine_grad;

static bool is_matrix(const qp_view *v, int64_t rows, int64_t columns) {
    return v->ndim == 2 && v->shape[0] == rows && v->shape[1] == columns;
}

static bool check(const qp_call *c, bool grad) {
    const qp_view *x = &c->in[X], *place = &c->in[PLACE], *weight = &c->in[WEIGHT];
    char           text[4][96];
    if (!index_check_type(c, PLACE)) return false;
    bool some = c->nin > LAST && c->in[LAST].ndim >= 0;
    bool fit = x->ndim == 2 && place->ndim == 2 && is_matrix(weight, place->shape[0], place->shape[1]) &&
               qp_dtype_is_float(x->dtype) && weight->dtype == x->dtype && (some || !grad);
    if (fit && some)
        fit = is_matrix(&c->in[LAST], place->shape[0], x->shape[1]) && c->in[LAST].dtype == x->dtype;
    for (int i = 0; i < 4 && !fit; i++)
        if (i < LAST || some) qpi_view_describe(&c->in[i], text[i], sizeof text[i]);
        else strcpy(text[i], "absent");
    if (!fit)
        qp_call_fail(c, QP_ERR_SHAPE,
                     "x is %s, place %s, weight %s, %s %s: expected [M, D], [N, k], [N, k], [N, D]", text[0],
                     text[1], text[2], grad ? "dy" : "residual", text[3]);
    return fit;
}

static void shape(qp_call *c) {
    if (check(c, false))
        shape_set(c, 0, c->in[X].dtype, 2, (int64_t[]){c->in[PLACE].shape[0], c->in[X].shape[1]});
}
static void grad_shape(qp_call *c) {
    if (!check(c, true)) return;
    shape_set(c, 0, c->in[X].dtype, 2, c->in[X].shape);
    shape_set(c, 1, c->in[X].dtype, 2, c->in[PLACE].shape);
}

static double at(const qp_view *v, int64_t i, int64_t j) {
    return qp_load(v, i * v->stride[0] + j * v->stride[1]);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X], *place = &c->in[PLACE];
    if (!index_check(c, PLACE, x->shape[0])) return;
    for (int64_t n = 0; n < place->shape[0]; n++)
        for (int64_t d = 0; d < x->shape[1]; d++) {
            double sum = c->nin > LAST && c->in[LAST].ndim >= 0 ? at(&c->in[LAST], n, d) : 0;
            for (int64_t j = 0; j < place->shape[1]; j++)
                sum += at(&c->in[WEIGHT], n, j) * at(x, place_of(place, n, j), d);
            qp_store(&c->out[0], n * x->shape[1] + d, sum);
        }
}

static void grad_plain(const qp_call *c) {
    const qp_view *x = &c->in[X], *place = &c->in[PLACE], *dy = &c->in[LAST];
    int64_t        D = x->shape[1], k = place->shape[1];
    if (!index_check(c, PLACE, x->shape[0])) return;
    for (int64_t i = 0; i < x->shape[0] * D; i++) qp_store(&c->out[0], i, 0);
    for (int64_t i = 0; i < place->shape[0] * k; i++) {
        int64_t m = place_of(place, i / k, i % k);
        double  dot = 0, w = at(&c->in[WEIGHT], i / k, i % k);
        for (int64_t d = 0; d < D; d++) {
            dot += at(dy, i / k, d) * at(x, m, d);
            qp_store(&c->out[0], m * D + d, qp_load(&c->out[0], m * D + d) + w * at(dy, i / k, d));
        }
        qp_store(&c->out[1], i, dot);
    }
}

static void backward(qp_rule *r) {
    qp_tensor grads[2];
    if (r->need[X] || r->need[WEIGHT]) {
        QP_CALL_MANY(combine_grad, NULL, grads, r->in[X], r->in[PLACE], r->in[WEIGHT], r->dout[0]);
        r->din[X] = grads[0];
        r->din[WEIGHT] = grads[1];
    }
    if (r->nin > LAST && r->need[LAST]) r->din[LAST] = r->dout[0];
}

static double flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->in[PLACE]) * (double)c->in[X].shape[1];
}
static double grad_flops(const qp_call *c) { return 2 * flops(c); }

static const qp_sample samples[] = {{.in = "x[7,5] i7[3,2] x[3,2]"},
                                    {.in = "x[9,67] i9[4,3] x[4,3] x[4,67]"},
                                    {.in = "x[5,20] i5[5,1] x[5,1] x[5,20]"},
                                    {.in = "x[3,4] i3[2,0] x[2,0] x[2,4]"},
                                    {.in = "x[3,4] i3[2,0] x[2,0]"},
                                    {.in = "x[4,3] i4[0,2] x[0,2]"},
                                    {0}};

QP_OP(combine) = {.name = "combine",
                  .source = "arXiv:2006.16668, equation 3",
                  .min_in = 3,
                  .max_in = 4,
                  .nout = 1,
                  .saves = QP_SAVE_IN(X) | QP_SAVE_IN(PLACE) | QP_SAVE_IN(WEIGHT),
                  .shape = shape,
                  .plain = plain,
                  .backward = backward,
                  .flops = flops,
                  .samples = samples};

static const qp_sample grad_samples[] = {{.in = "x[7,5] i7[3,2] x[3,2] x[3,5]", .no_grad = true},
                                         {.in = "x[9,67] i9[40,3] x[40,3] x[40,67]", .no_grad = true},
                                         {.in = "x[4,3] i4[0,2] x[0,2] x[0,3]", .no_grad = true},
                                         {0}};

QP_OP(combine_grad) = {.name = "combine_grad",
                       .source = "backward of combine",
                       .min_in = 4,
                       .max_in = 4,
                       .nout = 2,
                       .shape = grad_shape,
                       .plain = grad_plain,
                       .flops = grad_flops,
                       .samples = grad_samples};

qp_tensor qp_combine(qp_tensor x, qp_tensor place, qp_tensor weight, qp_tensor residual) {
    return QP_CALL(combine, NULL, x, place, weight, residual);
}
#endif
