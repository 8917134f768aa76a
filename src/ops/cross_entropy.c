/* loss = scale * sum over counted rows of lse - x[target], lse = log sum e^x, scale = 1 for the
 * sum and 1 / (counted rows) for the mean.   dx = scale dloss (e^(x - lse) - [target]).
 * lse is a second output, 0 in rows that do not count; its gradient is e^(x - lse) dlse. */
#include "kernels/softmax.h"
#include "ops/op.h"

static int64_t ignored(const qp_call *c) {
    int64_t index = ((const qp_loss_options *)c->attr)->ignore_index;
    return index ? index : -100;
}

static int64_t row_count(const qp_call *c) { return qp_view_count(&c->in[1]); }
static int64_t classes(const qp_call *c) { return c->in[0].shape[c->in[0].ndim - 1]; }

static int64_t target(const qp_call *c, int64_t row) {
    return ((const int64_t *)c->in[1].data)[qp_view_offset(&c->in[1], row)];
}

/* Input i if it is there. */
static const qp_view *optional(const qp_call *c, int i) {
    return i < c->nin && c->in[i].ndim >= 0 ? &c->in[i] : NULL;
}

/* Checks the targets; 1 or 1 over the rows that count, -1 after an error. */
static double scale_of(const qp_call *c) {
    int64_t rows = row_count(c), v = classes(c), ignore = ignored(c), counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t t = target(c, i);
        if (t == ignore) continue;
        counted++;
        if (t >= 0 && t < v) continue;
        qp_call_fail(c, QP_ERR_ARGUMENT, "target %lld, expected 0 to %lld or %lld (ignored)", (long long)t,
                     (long long)v - 1, (long long)ignore);
        return -1;
    }
    return ((const qp_loss_options *)c->attr)->sum || counted == 0 ? 1 : 1 / (double)counted;
}

/* scratch: the loss of each row */
static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *c = arg;
    const int64_t *targets = c->in[1].data;
    double        *loss = c->exec->scratch;
    int64_t        v = classes(c), ignore = ignored(c);
    for (int64_t i = begin; i < end; i++) {
        const float *x = (const float *)c->in[0].data + i * v;
        bool         counts = targets[i] != ignore;
        double       lse = counts ? qk_row_logsumexp(x, v) : 0;
        ((float *)c->out[1].data)[i] = (float)lse;
        loss[i] = counts ? lse - (double)x[targets[i]] : 0;
    }
}

static void run(const qp_call *c) {
    int64_t rows = row_count(c);
    double  scale = scale_of(c), sum = 0, *loss = c->exec->scratch;
    if (scale < 0) return;
    qp_parallel(c->exec, rows, 1 + 8192 / (classes(c) + 1), piece, (void *)c);
    for (int64_t i = 0; i < rows; i++) sum += loss[i];
    *(float *)c->out[0].data = (float)(scale * sum);
}

QP_KERNEL(cross_entropy) = {run, QP_FLAT, NULL};

typedef struct {
    const qp_call *c;
    float          dloss; /* times scale */
} grad_job;

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const grad_job *job = arg;
    const qp_call  *c = job->c;
    const int64_t  *targets = c->in[1].data;
    const qp_view  *dlse = optional(c, 4);
    int64_t         v = classes(c), ignore = ignored(c);
    for (int64_t i = begin; i < end; i++) {
        const float *x = (const float *)c->in[0].data + i * v;
        float       *dx = (float *)c->out[0].data + i * v;
        if (targets[i] == ignore) {
            memset(dx, 0, (size_t)v * sizeof *dx);
            continue;
        }
        float   lse = ((const float *)c->in[2].data)[i];
        float   g = job->dloss + (dlse ? ((const float *)dlse->data)[i] : 0);
        int64_t j = 0;
        for (; j + VF_LANES <= v; j += VF_LANES) vf_store(dx + j, g * vf_exp(vf_load(x + j) - lse));
        int m = (int)(v - j);
        if (m) vf_store_n(dx + j, g * vf_exp(vf_load_n(x + j, m) - lse), m);
        dx[targets[i]] -= job->dloss;
    }
}

static void grad_run(const qp_call *c) {
    double scale = scale_of(c), dloss = optional(c, 3) ? *(const float *)c->in[3].data : 0;
    if (scale < 0) return;
    grad_job job = {c, (float)(scale * dloss)};
    qp_parallel(c->exec, row_count(c), 1 + 8192 / (classes(c) + 1), grad_piece, &job);
}

QP_KERNEL(cross_entropy_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
#include <stdio.h>

#include "ops/shape.h"

extern const qp_op qp_op_cross_entropy_grad;

static bool check(qp_call *c) {
    const qp_view *x = &c->in[0], *t = &c->in[1];
    char           a[96], b[96];
    bool           fits = x->ndim > 0 && t->ndim == x->ndim - 1;
    for (int i = 0; i < t->ndim && fits; i++) fits = t->shape[i] == x->shape[i];
    qpi_view_describe(x, a, sizeof a);
    qpi_view_describe(t, b, sizeof b);
    if (!fits) qp_call_fail(c, QP_ERR_SHAPE, "logits %s and targets %s: expected [.., V] and [..]", a, b);
    else if (t->dtype != QP_I64 || !qp_dtype_is_float(x->dtype))
        qp_call_fail(c, QP_ERR_TYPE, "logits %s and targets %s: expected floats and i64", a, b);
    else return true;
    return false;
}

/* The loss of 16-bit logits is f32. */
static void shape(qp_call *c) {
    if (!check(c)) return;
    qp_dtype t = c->in[0].dtype == QP_F64 ? QP_F64 : QP_F32;
    shape_set(c, 0, t, 0, NULL);
    shape_set(c, 1, t, c->in[1].ndim, c->in[1].shape);
}

static bool is_rows(const qp_call *c, const qp_view *v) {
    const qp_view *t = &c->in[1];
    return v->ndim == t->ndim && memcmp(v->shape, t->shape, (size_t)t->ndim * sizeof *t->shape) == 0;
}

static void grad_shape(qp_call *c) {
    if (!check(c)) return;
    if (!is_rows(c, &c->in[2]) || (optional(c, 3) && qp_view_count(&c->in[3]) != 1) ||
        (optional(c, 4) && !is_rows(c, &c->in[4])))
        qp_call_fail(c, QP_ERR_SHAPE, "expected lse [..], dloss [], dlse [..] for targets [..]");
    else shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
}

static double logit(const qp_call *c, int64_t row, int64_t j) {
    return qp_load(&c->in[0], qp_view_offset(&c->in[0], row * classes(c) + j));
}

static void plain(const qp_call *c) {
    double scale = scale_of(c), sum = 0;
    for (int64_t i = 0; i < row_count(c) && scale >= 0; i++) {
        double max = -INFINITY, terms = 0, lse = 0;
        bool   counts = target(c, i) != ignored(c);
        for (int64_t j = 0; j < classes(c) && counts; j++) max = fmax(max, logit(c, i, j));
        for (int64_t j = 0; j < classes(c) && counts; j++) terms += exp(logit(c, i, j) - max);
        if (counts) lse = max + log(terms);
        if (counts) sum += lse - logit(c, i, target(c, i));
        qp_store(&c->out[1], i, lse);
    }
    qp_store(&c->out[0], 0, scale * sum);
}

static void grad_plain(const qp_call *c) {
    const qp_view *dlse = optional(c, 4);
    double         scale = scale_of(c), dloss = optional(c, 3) ? scale * qp_load(&c->in[3], 0) : 0;
    for (int64_t i = 0; i < row_count(c) && scale >= 0; i++) {
        double lse = qp_load(&c->in[2], qp_view_offset(&c->in[2], i));
        double g = dloss + (dlse ? qp_load(dlse, qp_view_offset(dlse, i)) : 0);
        for (int64_t j = 0; j < classes(c); j++) {
            double d = g * exp(logit(c, i, j) - lse) - (j == target(c, i) ? dloss : 0);
            qp_store(&c->out[0], i * classes(c) + j, target(c, i) == ignored(c) ? 0 : d);
        }
    }
}

static void backward(qp_rule *r) {
    r->din[0] = QP_CALL(cross_entropy_grad, r->attr, r->in[0], r->in[1], r->out[1], r->dout[0], r->dout[1]);
}

static size_t scratch(const qp_call *c, int threads) {
    (void)threads;
    return (size_t)row_count(c) * sizeof(double);
}

static double flops(const qp_call *c) { return 3 * (double)qp_view_count(&c->in[0]); }

static const qp_sample samples[] = {{.in = "x[3,5] i5[3]"},
                                    {.in = "x[2,3,67] i67[2,3]", .attr = &(qp_loss_options){.sum = true}},
                                    {.in = "x[9,4] i4[9]", .attr = &(qp_loss_options){.ignore_index = 2}},
                                    {.in = "x[4,1] i1[4]"},
                                    {.in = "x[7] i7[]"},
                                    {.in = "x[2,9000] i9000[2]"},
                                    {.in = "x[0,3] i3[0]"},
                                    {0}};

QP_OP(cross_entropy) = {.name = "cross_entropy",
                        .source = "torch.nn.functional.cross_entropy",
                        .min_in = 2,
                        .max_in = 2,
                        .nout = 2,
                        .attr_bytes = sizeof(qp_loss_options),
                        .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1) | QP_SAVE_OUT(1),
                        .shape = shape,
                        .plain = plain,
                        .backward = backward,
                        .scratch = scratch,
                        .flops = flops,
                        .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,5] i5[3] x[3] x[]"},
    {.in = "x[2,3,67] i67[2,3] x[2,3] x[] x[2,3]", .attr = &(qp_loss_options){.sum = true}},
    {.in = "x[9,4] i4[9] x[9] x[] -", .attr = &(qp_loss_options){.ignore_index = 2}},
    {.in = "x[0,3] i3[0] x[0] x[]"},
    {0}};

QP_OP(cross_entropy_grad) = {.name = "cross_entropy_grad",
                             .source = "backward of cross_entropy",
                             .min_in = 3,
                             .max_in = 5,
                             .nout = 1,
                             .attr_bytes = sizeof(qp_loss_options),
                             .shape = grad_shape,
                             .plain = grad_plain,
                             .flops = flops,
                             .samples = grad_samples};

qp_tensor qp_cross_entropy(qp_tensor logits, qp_tensor targets, qp_loss_options options) {
    qp_tensor y[2];
    QP_CALL_MANY(cross_entropy, &options, y, logits, targets);
    qp_drop(y[1]);
    return y[0];
}
#endif
