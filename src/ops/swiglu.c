/* x = [gate | up] along the last axis, y = silu(gate) up.
 * dgate = dy up silu'(gate), dup = dy silu(gate). arXiv:2002.05202 */
#include "kernels/activation.h"
#include "kernels/elementwise.h"
#include "ops/op.h"

#define CUT 4096 /* elements of a row that one piece takes */

typedef struct {
    const qp_call *c;
    int64_t        width, cuts; /* of y's rows */
} rows_job;

static void run_rows(const qp_call *c, int64_t rows, int64_t width,
                     void (*piece)(void *, int64_t, int64_t, int)) {
    rows_job job = {c, width, (width + CUT - 1) / CUT};
    qp_parallel(c->exec, rows * job.cuts, width < CUT ? 1 + CUT / (width + 1) : 1, piece, &job);
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const rows_job *job = arg;
    const qp_view  *x = &job->c->in[0];
    int64_t         width = job->width;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / job->cuts, start = i % job->cuts * CUT, n = width - start < CUT ? width - start : CUT;
        const float *gate = (const float *)x->data + qp_view_offset(x, row * 2 * width) + start,
                    *up = gate + width;
        float  *y = (float *)job->c->out[0].data + row * width + start;
        int64_t j = 0;
        for (; j + VF_LANES <= n; j += VF_LANES) vf_store(y + j, vf_load(up + j) * qk_silu(vf_load(gate + j)));
        int m = (int)(n - j);
        if (m) vf_store_n(y + j, vf_load_n(up + j, m) * qk_silu(vf_load_n(gate + j, m)), m);
    }
}

static void run(const qp_call *c) {
    int64_t width = c->out[0].shape[c->out[0].ndim - 1];
    if (width) run_rows(c, qp_view_count(&c->out[0]) / width, width, piece);
}

QP_KERNEL(swiglu) = {run, QP_ROWS, NULL};

static inline void slopes(vf gate, vf up, vf dy, vf *dgate, vf *dup) {
    vf s = qk_sigmoid(gate);
    *dgate = dy * up * (s * vf_fma(gate, 1.0f - s, vf_set1(1.0f)));
    *dup = dy * (gate * s);
}

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const rows_job *job = arg;
    const qp_view  *x = &job->c->in[0], *dy = &job->c->in[1];
    int64_t         width = job->width;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / job->cuts, start = i % job->cuts * CUT, n = width - start < CUT ? width - start : CUT;
        const float *gate = (const float *)x->data + qp_view_offset(x, row * 2 * width) + start,
                    *up = gate + width;
        const float *d = (const float *)dy->data + qp_view_offset(dy, row * width) + start;
        float       *dgate = (float *)job->c->out[0].data + row * 2 * width + start, *dup = dgate + width;
        int64_t      j = 0;
        vf           a, b;
        for (; j + VF_LANES <= n; j += VF_LANES) {
            slopes(vf_load(gate + j), vf_load(up + j), vf_load(d + j), &a, &b);
            vf_store(dgate + j, a);
            vf_store(dup + j, b);
        }
        int m = (int)(n - j);
        if (m == 0) continue;
        slopes(vf_load_n(gate + j, m), vf_load_n(up + j, m), vf_load_n(d + j, m), &a, &b);
        vf_store_n(dgate + j, a, m);
        vf_store_n(dup + j, b, m);
    }
}

static void grad_run(const qp_call *c) {
    int64_t width = c->out[0].shape[c->out[0].ndim - 1] / 2;
    if (width) run_rows(c, qp_view_count(&c->out[0]) / (2 * width), width, grad_piece);
}

QP_KERNEL(swiglu_grad) = {grad_run, QP_ROWS, NULL};

#if QP_BODY
#include <stdio.h>

#include "ops/shape.h"

extern const qp_op qp_op_swiglu_grad;

static bool check(qp_call *c) {
    const qp_view *x = &c->in[0];
    char           text[96];
    if (x->ndim > 0 && x->shape[x->ndim - 1] % 2 == 0) return true;
    qpi_view_describe(x, text, sizeof text);
    qp_call_fail(c, QP_ERR_SHAPE, "x is %s, expected an even last axis: [gate | up]", text);
    return false;
}

static void shape(qp_call *c) {
    if (!check(c)) return;
    qp_view x = c->in[0];
    x.shape[x.ndim - 1] /= 2;
    shape_set(c, 0, x.dtype, x.ndim, x.shape);
}

static void grad_shape(qp_call *c) {
    const qp_view *x = &c->in[0], *dy = &c->in[1];
    if (!check(c)) return;
    int  last = x->ndim - 1;
    bool same = dy->dtype == x->dtype && dy->ndim == x->ndim && dy->shape[last] == x->shape[last] / 2;
    for (int i = 0; i < last && same; i++) same = dy->shape[i] == x->shape[i];
    if (same)
        shape_set(c, 0, x->dtype, x->ndim, x->shape);
    else
        qp_call_fail(c, QP_ERR_SHAPE, "dy has not the shape and type of y");
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->out[0];
    int64_t        count = qp_view_count(y), width = y->shape[y->ndim - 1];
    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / width * 2 * width + i % width;
        double  gate = qp_load(x, qp_view_offset(x, at)), up = qp_load(x, qp_view_offset(x, at + width));
        qp_store(y, i, up * gate / (1 + exp(-gate)));
    }
}

static void grad_plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *dy = &c->in[1], *dx = &c->out[0];
    int64_t        count = qp_view_count(dy), width = dx->shape[dx->ndim - 1] / 2;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / width * 2 * width + i % width;
        double  gate = qp_load(x, qp_view_offset(x, at)), up = qp_load(x, qp_view_offset(x, at + width));
        double  s = 1 / (1 + exp(-gate)), d = qp_load(dy, qp_view_offset(dy, i));
        qp_store(dx, at, d * up * s * (1 + gate * (1 - s)));
        qp_store(dx, at + width, d * gate * s);
    }
}

static void backward(qp_rule *r) { r->din[0] = QP_CALL(swiglu_grad, NULL, r->in[0], r->dout[0]); }

static const qp_sample samples[] = {{.in = "x[3,10]"}, {.in = "x[2]"},   {.in = "x[2,3,70]"},
                                    {.in = "x[0,4]"},  {.in = "x[2,0]"}, {0}};

QP_OP(swiglu) = {.name = "swiglu",
                 .source = "arXiv:2002.05202, equation 5 without the products",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .saves = QP_SAVE_IN(0),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[3,10] x[3,5]"}, {.in = "x[2,3,70] x[2,3,35]"}, {.in = "x[0,4] x[0,2]"}, {0}};

QP_OP(swiglu_grad) = {.name = "swiglu_grad",
                      .source = "backward of swiglu",
                      .min_in = 2,
                      .max_in = 2,
                      .nout = 1,
                      .shape = grad_shape,
                      .plain = grad_plain,
                      .samples = grad_samples};

qp_tensor qp_swiglu(qp_tensor x) { return QP_CALL(swiglu, NULL, x); }
#endif
