/* The recurrence of RWKV 4 (Peng et al. 2023, arXiv:2305.13048, eq. 16 and appendix D), each channel by
 * itself:
 *
 *   y_t = (a_{t-1} + e^(u + k_t) v_t) / (b_{t-1} + e^(u + k_t))
 *   a_t = e^w a_{t-1} + e^(k_t) v_t       b_t = e^w b_{t-1} + e^(k_t)
 *
 * w < 0 is the logarithm of the decay. The state [B, 3, D] is a, b and the exponent p by which both are to be
 * multiplied as e^p; where b is 0 there has been nothing. Backward, d = dy / (b_{t-1} + e^(u + k)) and A, B the
 * gradients of a_t and b_t as later positions have them:
 *
 *   dk = e^(u + k) d (v - y) + e^k (A v + B)        dv = e^(u + k) d + e^k A
 *   du = e^(u + k) d (v - y) summed over t          dw = e^w (A a_{t-1} + B b_{t-1}) summed
 *   A_{t-1} = e^w A + d                             B_{t-1} = e^w B - d y
 */
#include "core/core.h"
#include "kernels/wkv.h"
#include "ops/op.h"

enum {
    W = QK_WKV4_W,
    U = QK_WKV4_U,
    K = QK_WKV4_K,
    V = QK_WKV4_V,
    STATE = QK_WKV4_STATE,
    INPUTS = QK_WKV4_INPUTS
};

/* Inputs from `first` on; a state left out is absent. */
static void inputs(const qp_call *c, int first, qp_view *in) {
    for (int i = 0; i < INPUTS; i++) in[i] = first + i < c->nin ? c->in[first + i] : (qp_view){.ndim = -1};
}

static void run(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    QK(qk_wkv4_run)(c->exec, in, &c->out[0], &c->out[1]);
}
static void run_grad(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    QK(qk_wkv4_grad_run)(c->exec, in, &c->in[0], c->out);
}

QP_KERNEL(wkv4) = {run, QP_ROWS, NULL};
QP_KERNEL(wkv4_grad) = {run_grad, QP_ROWS, NULL};

#if QP_BODY
extern const qp_op qp_op_wkv4_grad;

static bool check(const qp_call *c, const qp_view *in) {
    bool    fits = in[K].ndim == 3 && in[V].ndim == 3 && in[W].ndim == 1 && in[U].ndim == 1;
    int64_t D = fits ? in[K].shape[2] : 0;
    for (int i = 0; i < 3 && fits; i++) fits = in[V].shape[i] == in[K].shape[i];
    fits = fits && in[W].shape[0] == D && in[U].shape[0] == D;
    if (in[STATE].ndim >= 0)
        fits = fits && in[STATE].ndim == 3 && in[STATE].shape[0] == in[K].shape[0] && in[STATE].shape[1] == 3 &&
               in[STATE].shape[2] == D;
    if (!fits) qp_call_fail(c, QP_ERR_SHAPE, "expected w, u [D], k, v [B, T, D] and state [B, 3, D]");
    for (int i = U; i < STATE && fits; i++)
        if (in[i].dtype != in[W].dtype) qp_call_fail(c, QP_ERR_TYPE, "inputs of different types");
    return fits;
}

static void shape(qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    if (!check(c, in)) return;
    qpi_view_init(&c->out[0], in[K].dtype, 3, in[K].shape);
    qpi_view_init(&c->out[1], in[K].dtype, 3, (int64_t[]){in[K].shape[0], 3, in[K].shape[2]});
}

static void grad_shape(qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    if (!check(c, in)) return;
    for (int i = 0; i < QK_WKV4_GRADIENTS; i++) {
        if (i == W || i == U)
            qpi_view_init(&c->out[i], in[K].dtype, 2, (int64_t[]){in[K].shape[0], in[K].shape[2]});
        else qpi_view_init(&c->out[i], in[K].dtype, 3, in[K].shape);
    }
    bool fits = c->in[0].ndim == 3;
    for (int i = 0; i < 3 && fits; i++) fits = c->in[0].shape[i] == in[K].shape[i];
    if (!fits) qp_call_fail(c, QP_ERR_SHAPE, "expected dy [B, T, D]");
}

/* ---- Definition ----------------------------------------------------------------------------------- */

typedef struct {
    double a, b, p;
} sums;

static double at3(const qp_view *v, int64_t b, int64_t t, int64_t d) {
    return qp_load(v, b * v->stride[0] + t * v->stride[1] + d * v->stride[2]);
}
static void put3(const qp_view *v, int64_t b, int64_t t, int64_t d, double x) {
    qp_store(v, b * v->stride[0] + t * v->stride[1] + d * v->stride[2], x);
}

static sums start(const qp_view *state, int64_t b, int64_t d) {
    sums s = {.p = QK_WKV4_NOTHING};
    if (state->ndim < 0) return s;
    s = (sums){at3(state, b, 0, d), at3(state, b, 1, d), at3(state, b, 2, d)};
    if (s.b == 0) s.p = QK_WKV4_NOTHING;
    return s;
}

/* s and e^x (v, 1) added, times e^-p */
static sums add(sums s, double x, double v) {
    double p = fmax(s.p, x), old = exp(s.p - p), new = exp(x - p);
    return (sums){old * s.a + new * v, old * s.b + new, p};
}

static void plain(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    const int64_t *n = in[K].shape;
    for (int64_t i = 0; i < n[0] * n[2]; i++) {
        int64_t b = i / n[2], d = i % n[2];
        double  w = qp_load(&in[W], d * in[W].stride[0]), u = qp_load(&in[U], d * in[U].stride[0]);
        sums    s = start(&in[STATE], b, d);
        for (int64_t t = 0; t < n[1]; t++) {
            double k = at3(&in[K], b, t, d), v = at3(&in[V], b, t, d);
            sums   read = add(s, u + k, v);
            put3(&c->out[0], b, t, d, read.a / read.b);
            s = add((sums){s.a, s.b, s.p + w}, k, v);
        }
        put3(&c->out[1], b, 0, d, s.a);
        put3(&c->out[1], b, 1, d, s.b);
        put3(&c->out[1], b, 2, d, s.p);
    }
}

/* One channel; s: T sums, those before each position. */
static void plain_grad_channel(const qp_call *c, const qp_view *in, int64_t b, int64_t d, sums *s) {
    double  w = qp_load(&in[W], d * in[W].stride[0]), u = qp_load(&in[U], d * in[U].stride[0]), dw = 0, du = 0;
    int64_t T = in[K].shape[1];
    sums    now = start(&in[STATE], b, d), g = {.p = QK_WKV4_NOTHING};
    for (int64_t t = 0; t < T; t++) {
        s[t] = now;
        now = add((sums){now.a, now.b, now.p + w}, at3(&in[K], b, t, d), at3(&in[V], b, t, d));
    }
    for (int64_t t = T - 1; t >= 0; t--) {
        double k = at3(&in[K], b, t, d), v = at3(&in[V], b, t, d), e = exp(k + g.p);
        sums   read = add(s[t], u + k, v);
        double y = read.a / read.b, g_y = at3(&c->in[0], b, t, d) / read.b, own = exp(u + k - read.p) * g_y;
        put3(&c->out[K], b, t, d, own * (v - y) + e * (g.a * v + g.b));
        put3(&c->out[V], b, t, d, own + e * g.a);
        du += own * (v - y);
        dw += exp(w + g.p + s[t].p) * (g.a * s[t].a + g.b * s[t].b);
        double p = fmax(g.p + w, -read.p), old = exp(g.p + w - p), new = exp(-read.p - p);
        g = (sums){old * g.a + new * g_y, old * g.b - new * g_y * y, p};
    }
    qp_store(&c->out[W], b * c->out[W].stride[0] + d * c->out[W].stride[1], dw);
    qp_store(&c->out[U], b * c->out[U].stride[0] + d * c->out[U].stride[1], du);
}

static void plain_grad(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    for (int64_t b = 0; b < in[K].shape[0]; b++)
        for (int64_t d = 0; d < in[K].shape[2]; d++) plain_grad_channel(c, in, b, d, c->exec->scratch);
}

static size_t grad_scratch(const qp_call *c, int threads) {
    size_t plain = (size_t)c->in[1 + K].shape[1] * sizeof(sums),
           fast = qk_wkv4_grad_scratch(c->in + 1, threads);
    return fast > plain ? fast : plain;
}

static double flops(const qp_call *c) { return 60.0 * (double)qp_view_count(&c->in[K]); }
static double grad_flops(const qp_call *c) { return 220.0 * (double)qp_view_count(&c->in[1 + K]); }

static void backward(qp_rule *r) {
    qp_tensor in[1 + INPUTS] = {r->dout[0]}, out[QK_WKV4_GRADIENTS];
    for (int i = 0; i < INPUTS; i++) in[1 + i] = i < r->nin ? r->in[i] : QP_NONE;
    qp_apply_many(&qp_op_wkv4_grad, 1 + INPUTS, in, NULL, out);
    for (int i = 0; i < QK_WKV4_GRADIENTS; i++)
        if (r->need[i]) r->din[i] = i == W || i == U ? qp_sum(out[i], 1, (int[]){0}, false) : out[i];
}

#define TOLERANCE .tolerance = 1e-5
static const qp_sample samples[] = {
    {.in = "x[3] x[3] x[2,5,3] x[2,5,3]", TOLERANCE},
    {.in = "x[1] x[1] x[1,1,1] x[1,1,1]", TOLERANCE},
    {.in = "x[4] x[4] x[2,3,4] x[2,3,4] !p[2,3,4]", TOLERANCE},
    {.in = "x[67] x[67] x[2,70,67] x[2,70,67] !p[2,3,67]", .no_grad = true, TOLERANCE},
    {.in = "x[3] x[3] x[1,0,3] x[1,0,3]", .no_grad = true},
    {0}};

QP_OP(wkv4) = {.name = "wkv4",
               .source = "arXiv:2305.13048",
               .min_in = 4,
               .max_in = INPUTS,
               .nout = 2,
               .saves = QP_SAVE_ALL_IN,
               .hidden = QP_SAVE_OUT(1),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .flops = flops,
               .samples = samples};

static const qp_sample grad_samples[] = {
    /* w above 0, which no decay is: what comes first outweighs all, and dw is a difference of equal terms */
    {.in = "x[2,5,3] x[3] x[3] x[2,5,3] x[2,5,3]", .no_grad = true, .tolerance = 1e-3},
    {.in = "x[2,130,67] x[67] x[67] x[2,130,67] x[2,130,67] p[2,3,67]", .no_grad = true, .tolerance = 1e-4},
    {.in = "x[1,0,3] x[3] x[3] x[1,0,3] x[1,0,3]", .no_grad = true},
    {0}};

QP_OP(wkv4_grad) = {.name = "wkv4_grad",
                    .source = "backward of wkv4",
                    .min_in = 5,
                    .max_in = 1 + INPUTS,
                    .nout = QK_WKV4_GRADIENTS,
                    .shape = grad_shape,
                    .plain = plain_grad,
                    .scratch = grad_scratch,
                    .flops = grad_flops,
                    .samples = grad_samples};

qp_tensor qp_wkv4(qp_tensor w, qp_tensor u, qp_tensor k, qp_tensor v, qp_tensor state, qp_tensor *last) {
    qp_tensor out[2];
    QP_CALL_MANY(wkv4, NULL, out, w, u, k, v, state);
    if (last) *last = out[1];
    return out[0];
}
#endif
