/* y_t = a_t y_(t - 1) + x_t along axis 1, from a state on, for whole rows of numbers that share a factor; reversed:
 * y_t = a_(t + 1) y_(t + 1) + x_t from the end.
 *
 *   dx = the same of dy, reversed    da_t = the sum of dx_t y_(t - 1)    dstate = a_0 dx_0
 */
#include "ops/op.h"

typedef struct {
    bool reverse;
} attr;

enum { X, A, STATE };

#define WIDTH 1024 /* numbers of a piece */

typedef struct {
    const qp_call *c;
    int64_t        T, H, E, cuts;
    bool           reverse;
} job;

static job job_of(const qp_call *c) {
    const int64_t *n = c->in[X].shape;
    return (job){c, n[1], n[2], n[3], (n[3] + WIDTH - 1) / WIDTH, ((const attr *)c->attr)->reverse};
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const qp_view *state = j->c->nin > STATE && j->c->in[STATE].ndim >= 0 ? &j->c->in[STATE] : NULL;
    const float   *x = j->c->in[X].data, *a = j->c->in[A].data, *from = state ? state->data : NULL;
    float         *y = j->c->out[0].data;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t e = i % j->cuts * WIDTH, h = i / j->cuts % j->H, b = i / j->cuts / j->H;
        int64_t width = j->E - e < WIDTH ? j->E - e : WIDTH;
        for (int64_t k = 0; k < j->T; k++) {
            int64_t      t = j->reverse ? j->T - 1 - k : k, row = (b * j->T + t) * j->H + h;
            int64_t      step = j->reverse ? j->H : -j->H; /* to the row before in the order of the scan */
            const float *last = k      ? y + (row + step) * j->E + e
                                : from ? from + (b * j->H + h) * j->E + e
                                       : NULL;
            vf           factor = vf_set1(last ? a[j->reverse ? row + j->H : row] : 0);
            for (int64_t d = 0; d < width; d += VF_LANES) {
                int m = width - d < VF_LANES ? (int)(width - d) : VF_LANES;
                vf  v = vf_load_n(x + row * j->E + e + d, m);
                if (last) v = vf_fma(factor, vf_load_n(last + d, m), v);
                vf_store_n(y + row * j->E + e + d, v, m);
            }
        }
    }
}

static void run(const qp_call *c) {
    job j = job_of(c);
    if (j.T && j.E)
        qp_parallel(c->exec, c->in[X].shape[0] * j.H * j.cuts, 1 + 8192 / (j.T * (j.E < WIDTH ? j.E : WIDTH)),
                    piece, &j);
}

QP_KERNEL(decay_scan) = {run, QP_FLAT, NULL};

#if QP_BODY
#include "ops/shape.h"

extern const qp_op qp_op_decay_scan;

static bool is(const qp_view *v, int ndim, const int64_t *shape, qp_dtype type) {
    bool same = v->ndim == ndim && v->dtype == type;
    for (int i = 0; i < ndim && same; i++) same = v->shape[i] == shape[i];
    return same;
}

static void shape(qp_call *c) {
    const qp_view *x = &c->in[X], *state = c->nin > STATE && c->in[STATE].ndim >= 0 ? &c->in[STATE] : NULL;
    bool           ok = x->ndim == 4 && qp_dtype_is_float(x->dtype) && is(&c->in[A], 3, x->shape, x->dtype);
    if (ok && state)
        ok = !((const attr *)c->attr)->reverse &&
             is(state, 3, (int64_t[]){x->shape[0], x->shape[2], x->shape[3]}, x->dtype);
    if (ok) shape_set(c, 0, x->dtype, 4, x->shape);
    else
        qp_call_fail(c, QP_ERR_SHAPE,
                     "expected x [B, T, H, E], factors [B, T, H] and a state [B, H, E], one floating type");
}

static void plain(const qp_call *c) {
    job            j = job_of(c);
    const qp_view *x = &c->in[X], *a = &c->in[A],
                  *state = c->nin > STATE && c->in[STATE].ndim >= 0 ? &c->in[STATE] : NULL;
    for (int64_t i = 0; i < x->shape[0] * j.H * j.E; i++) {
        int64_t e = i % j.E, h = i / j.E % j.H, b = i / j.E / j.H;
        double  y = state ? qp_load(state, qp_view_offset(state, i)) : 0;
        for (int64_t k = 0; k < j.T; k++) {
            int64_t t = j.reverse ? j.T - 1 - k : k, row = (b * j.T + t) * j.H + h;
            bool    first = j.reverse && k == 0;
            y = (first ? 0 : y * qp_load(a, qp_view_offset(a, j.reverse ? row + j.H : row))) +
                qp_load(x, qp_view_offset(x, row * j.E + e));
            qp_store(&c->out[0], row * j.E + e, y);
        }
    }
}

static void backward(qp_rule *r) {
    if (((const attr *)r->attr)->reverse) {
        qp_fail(r->ctx, QP_ERR_UNSUPPORTED, "decay_scan: no gradient of a gradient");
        return;
    }
    qp_tensor g = QP_CALL(decay_scan, &(attr){true}, r->dout[0], r->in[A]);
    int64_t   B = qp_size(g, 0), T = qp_size(g, 1), H = qp_size(g, 2), E = qp_size(g, 3);
    qp_tensor first = r->nin > STATE ? r->in[STATE] : QP_NONE;
    r->din[X] = g;
    if (r->need[A]) {
        if (qp_is_none(first)) first = qp_zeros(r->ctx, qp_dtype_of(g), 3, (int64_t[]){B, H, E});
        qp_tensor before =
            qp_concat(2, (qp_tensor[]){qp_reshape(first, 4, (int64_t[]){B, 1, H, E}), r->out[0]}, 1);
        r->din[A] = qp_sum(qp_mul(g, qp_slice(before, 1, 0, T, 1)), 1, (int[]){3}, false);
    }
    if (r->nin > STATE && r->need[STATE] && T > 0)
        r->din[STATE] = qp_mul(qp_reshape(qp_slice(g, 1, 0, 1, 1), 3, (int64_t[]){B, H, E}),
                               qp_reshape(qp_slice(r->in[A], 1, 0, 1, 1), 3, (int64_t[]){B, H, 1}));
}

static double flops(const qp_call *c) { return 2.0 * (double)qp_view_count(&c->in[X]); }

static const qp_sample samples[] = {{.in = "x[2,5,3,4] u[2,5,3]"},
                                    {.in = "x[1,7,2,37] u[1,7,2] x[1,2,37]"},
                                    {.in = "x[1,2,1,1030] u[1,2,1] x[1,1,1030]", .no_grad = true},
                                    {.in = "x[2,5,3,18] u[2,5,3]", .attr = &(attr){true}, .no_grad = true},
                                    {.in = "x[1,1,2,3] u[1,1,2] x[1,2,3]"},
                                    {.in = "x[0,5,3,4] u[0,5,3]"},
                                    {0}};

QP_OP(decay_scan) = {.name = "decay_scan",
                     .source = "arXiv:2405.21060, section 6",
                     .min_in = 2,
                     .max_in = 3,
                     .nout = 1,
                     .attr_bytes = sizeof(attr),
                     .saves = QP_SAVE_IN(A) | QP_SAVE_IN(STATE) | QP_SAVE_OUT(0),
                     .shape = shape,
                     .plain = plain,
                     .backward = backward,
                     .flops = flops,
                     .samples = samples};

qp_tensor qp_decay_scan(qp_tensor x, qp_tensor a, qp_tensor state) {
    return QP_CALL(decay_scan, &(attr){0}, x, a, state);
}
#endif
