/* The recurrence of RWKV 5 and 6 (Peng et al. 2024, arXiv:2404.05892) and of RWKV 7 (Peng et al. 2025,
 * arXiv:2503.14456): for each head a state S [K, V].
 *
 *   5, 6:  y_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t      S_t = diag(w_t) S_{t-1} + k_t v_t^T
 *   7:     y_t = S_t^T r_t                                S_t = diag(w_t) S_{t-1} + k_t v_t^T + b_t (a_t^T S_{t-1})
 *
 * w is the decay itself, a factor. Backward, G_t the gradient of S_t as later positions have it:
 *
 *   5, 6:  dr = S_{t-1} dy + u k (dy . v)     dk = G v + u r (dy . v)     dv = G^T k + (r . u k) dy
 *          dw = rows of G S_{t-1} summed      du = r k (dy . v)           G_{t-1} = diag(w) G + r dy^T
 *   7:     G += r dy^T, then   dr = S_t dy    dk = G v                    dv = G^T k
 *          dw as above    db = G (S_{t-1}^T a)    da = S_{t-1} (G^T b)    G_{t-1} = diag(w) G + a (G^T b)^T
 *
 * States before t are made again in chunks, from those kept at the beginnings of chunks. */
#include "core/core.h"
#include "kernels/wkv.h"
#include "ops/op.h"

enum {
    R = QK_WKV_R,
    W = QK_WKV_W,
    K = QK_WKV_K,
    V = QK_WKV_V,
    U = QK_WKV_U,
    A = QK_WKV_A,
    B = QK_WKV_B,
    STATE = QK_WKV_STATE,
    INPUTS = QK_WKV_INPUTS,
    DY = 0
};

/* Inputs from `first` on; those left out are absent. */
static void inputs(const qp_call *c, int first, qp_view *in) {
    for (int i = 0; i < INPUTS; i++) in[i] = first + i < c->nin ? c->in[first + i] : (qp_view){.ndim = -1};
}

static void run(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    QK(qk_wkv_run)(c->exec, in, &c->out[0], &c->out[1]);
}

static void run_grad(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    QK(qk_wkv_grad_run)(c->exec, in, &c->in[DY], c->out);
}

QP_KERNEL(wkv) = {run, QP_ROWS, NULL};
QP_KERNEL(wkv_grad) = {run_grad, QP_ROWS, NULL};

#if QP_BODY
extern const qp_op qp_op_wkv_grad;

typedef struct {
    int64_t B, T, H, K, V;
} sizes;

static sizes sizes_of(const qp_view *in) {
    return (sizes){in[K].shape[0], in[K].shape[1], in[K].shape[2], in[K].shape[3], in[V].shape[3]};
}

/* Is v absent, or of these sizes? */
static bool is(const qp_view *v, int ndim, const int64_t *shape) {
    bool fits = v->ndim == ndim;
    for (int i = 0; i < ndim && fits; i++) fits = v->shape[i] == shape[i];
    return fits || v->ndim < 0;
}

static bool check(const qp_call *c, const qp_view *in) {
    bool  given = in[K].ndim == 4 && in[V].ndim == 4 && in[R].ndim == 4 && in[W].ndim == 4;
    sizes n = given ? sizes_of(in) : (sizes){0};
    bool  fits = given;
    for (int i = R; i <= B && fits; i++) {
        const int64_t rows[] = {n.B, n.T, n.H, i == V ? n.V : n.K};
        fits = i == U ? is(&in[U], 2, (int64_t[]){n.H, n.K}) : is(&in[i], 4, rows);
    }
    fits = fits && is(&in[STATE], 4, (int64_t[]){n.B, n.H, n.K, n.V});
    bool removes = in[A].ndim >= 0;
    if (!fits)
        qp_call_fail(c, QP_ERR_SHAPE,
                     "expected r, w, k, a, b [B, T, H, K], v [B, T, H, V], u [H, K] and state [B, H, K, V]");
    else if (removes != (in[B].ndim >= 0) || removes == (in[U].ndim >= 0))
        qp_call_fail(c, QP_ERR_ARGUMENT, "expected either u, or a and b");
    for (int i = W; i < STATE && fits; i++)
        if (in[i].ndim >= 0 && in[i].dtype != in[R].dtype)
            qp_call_fail(c, QP_ERR_TYPE, "inputs of different types");
    return fits;
}

static void shape(qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    if (!check(c, in)) return;
    sizes n = sizes_of(in);
    qpi_view_init(&c->out[0], in[R].dtype, 4, (int64_t[]){n.B, n.T, n.H, n.V});
    qpi_view_init(&c->out[1], in[R].dtype, 4, (int64_t[]){n.B, n.H, n.K, n.V});
}

static void grad_shape(qp_call *c) {
    static const int64_t none[1] = {0};
    qp_view              in[INPUTS];
    inputs(c, 1, in);
    if (!check(c, in)) return;
    sizes n = sizes_of(in);
    for (int i = 0; i < QK_WKV_GRADIENTS; i++) {
        qpi_view_init(&c->out[i], in[R].dtype, 1, none);
        if (in[i].ndim < 0) continue;
        if (i == U) qpi_view_init(&c->out[i], in[R].dtype, 3, (int64_t[]){n.B, n.H, n.K});
        else qpi_view_init(&c->out[i], in[R].dtype, 4, (int64_t[]){n.B, n.T, n.H, i == V ? n.V : n.K});
    }
    if (!is(&c->in[DY], 4, (int64_t[]){n.B, n.T, n.H, n.V}))
        qp_call_fail(c, QP_ERR_SHAPE, "expected dy [B, T, H, V]");
}

/* ---- Definition ---------------------------------------------------------------------------------- */

static double at4(const qp_view *v, int64_t b, int64_t t, int64_t h, int64_t i) {
    return qp_load(v, b * v->stride[0] + t * v->stride[1] + h * v->stride[2] + i * v->stride[3]);
}
static void put4(const qp_view *v, int64_t b, int64_t t, int64_t h, int64_t i, double x) {
    qp_store(v, b * v->stride[0] + t * v->stride[1] + h * v->stride[2] + i * v->stride[3], x);
}
static double bonus_of(const qp_view *in, int64_t h, int64_t i) {
    return qp_load(&in[U], h * in[U].stride[0] + i * in[U].stride[1]);
}

static void first_state(const qp_view *in, sizes n, int64_t b, int64_t h, double *S) {
    for (int64_t i = 0; i < n.K; i++)
        for (int64_t x = 0; x < n.V; x++) S[i * n.V + x] = in[STATE].ndim < 0 ? 0 : at4(&in[STATE], b, h, i, x);
}

/* Column x of S, the state before t, becomes that behind t in `to`. Returns a^T S. */
static double move(const qp_view *in, sizes n, int64_t b, int64_t t, int64_t h, int64_t x, const double *S,
                   double *to) {
    double gone = 0, v = at4(&in[V], b, t, h, x);
    bool   removes = in[A].ndim >= 0;
    for (int64_t i = 0; i < n.K && removes; i++) gone += at4(&in[A], b, t, h, i) * S[i * n.V + x];
    for (int64_t i = 0; i < n.K; i++) {
        double removed = removes ? at4(&in[B], b, t, h, i) * gone : 0;
        to[i * n.V + x] = at4(&in[W], b, t, h, i) * S[i * n.V + x] + at4(&in[K], b, t, h, i) * v + removed;
    }
    return gone;
}

static void plain(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    sizes   n = sizes_of(in);
    double *S = c->exec->scratch;
    for (int64_t head = 0; head < n.B * n.H; head++) {
        int64_t b = head / n.H, h = head % n.H;
        first_state(in, n, b, h, S);
        for (int64_t t = 0; t < n.T; t++)
            for (int64_t x = 0; x < n.V; x++) {
                double y = 0, v = at4(&in[V], b, t, h, x);
                for (int64_t i = 0; i < n.K && in[U].ndim >= 0; i++)
                    y += at4(&in[R], b, t, h, i) *
                         (S[i * n.V + x] + bonus_of(in, h, i) * at4(&in[K], b, t, h, i) * v);
                move(in, n, b, t, h, x, S, S);
                for (int64_t i = 0; i < n.K && in[U].ndim < 0; i++)
                    y += at4(&in[R], b, t, h, i) * S[i * n.V + x];
                put4(&c->out[0], b, t, h, x, y);
            }
        for (int64_t i = 0; i < n.K; i++)
            for (int64_t x = 0; x < n.V; x++) put4(&c->out[1], b, h, i, x, S[i * n.V + x]);
    }
}

/* Of one head: G as in the formulas, S^T a, G^T b [V], du [K], and the states before each position and behind
 * the last. */
typedef struct {
    const qp_call *c;
    const qp_view *in;
    sizes          n;
    int64_t        b, h;
    double        *G, *gone, *dgone, *du, *S;
} plain_head;

static double of(const plain_head *p, int input, int64_t t, int64_t i) {
    return at4(&p->in[input], p->b, t, p->h, i);
}
static double dy_of(const plain_head *p, int64_t t, int64_t x) { return at4(&p->c->in[DY], p->b, t, p->h, x); }

/* What passes through a^T S at t. */
static void plain_grad_removed(const plain_head *p, int64_t t, const double *S) {
    for (int64_t x = 0; x < p->n.V; x++) {
        p->gone[x] = p->dgone[x] = 0;
        for (int64_t i = 0; i < p->n.K; i++) {
            double *g = &p->G[i * p->n.V + x];
            *g += of(p, R, t, i) * dy_of(p, t, x);
            p->gone[x] += of(p, A, t, i) * S[i * p->n.V + x];
            p->dgone[x] += of(p, B, t, i) * *g;
        }
    }
}

/* Row i of the state at t; S: the state before it, S + K V: behind it. */
static void plain_grad_row(const plain_head *p, int64_t t, int64_t i, const double *S) {
    const qp_view *out = p->c->out;
    sizes          n = p->n;
    bool           removes = p->in[A].ndim >= 0;
    double         r = of(p, R, t, i), k = of(p, K, t, i), w = of(p, W, t, i),
                   u = removes ? 0 : bonus_of(p->in, p->h, i);
    double         dr = 0, dk = 0, dw = 0, da = 0, db = 0, bonus = 0;
    for (int64_t x = 0; x < n.V; x++) {
        double dy = dy_of(p, t, x), v = of(p, V, t, x), before = S[i * n.V + x], *g = &p->G[i * n.V + x];
        bonus += dy * v;
        dr += dy * (removes ? S[(n.K + i) * n.V + x] : before);
        dk += *g * v;
        dw += *g * before;
        if (removes) {
            db += *g * p->gone[x];
            da += before * p->dgone[x];
        }
        *g = w * *g + (removes ? of(p, A, t, i) * p->dgone[x] : r * dy);
    }
    put4(&out[R], p->b, t, p->h, i, dr + u * k * bonus);
    put4(&out[K], p->b, t, p->h, i, dk + u * r * bonus);
    put4(&out[W], p->b, t, p->h, i, dw);
    p->du[i] += r * k * bonus;
    if (!removes) return;
    put4(&out[A], p->b, t, p->h, i, da);
    put4(&out[B], p->b, t, p->h, i, db);
}

static void plain_grad_head(const plain_head *p) {
    sizes          n = p->n;
    const qp_view *out = p->c->out;
    int64_t        size = n.K * n.V;
    bool           removes = p->in[A].ndim >= 0;
    first_state(p->in, n, p->b, p->h, p->S);
    for (int64_t t = 0; t < n.T; t++)
        for (int64_t x = 0; x < n.V; x++)
            move(p->in, n, p->b, t, p->h, x, p->S + t * size, p->S + (t + 1) * size);
    memset(p->G, 0, (size_t)size * sizeof(double));
    memset(p->du, 0, (size_t)n.K * sizeof(double));
    for (int64_t t = n.T - 1; t >= 0; t--) {
        if (removes) plain_grad_removed(p, t, p->S + t * size);
        for (int64_t x = 0; x < n.V; x++) {
            double dv = 0;
            for (int64_t i = 0; i < n.K; i++) {
                double through = removes ? 0 : bonus_of(p->in, p->h, i) * of(p, R, t, i) * dy_of(p, t, x);
                dv += of(p, K, t, i) * (p->G[i * n.V + x] + through);
            }
            put4(&out[V], p->b, t, p->h, x, dv);
        }
        for (int64_t i = 0; i < n.K; i++) plain_grad_row(p, t, i, p->S + t * size);
    }
    for (int64_t i = 0; i < n.K && !removes; i++)
        qp_store(&out[U], p->b * out[U].stride[0] + p->h * out[U].stride[1] + i * out[U].stride[2], p->du[i]);
}

static void plain_grad(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    sizes      n = sizes_of(in);
    plain_head p = {.c = c, .in = in, .n = n, .G = c->exec->scratch};
    p.gone = p.G + n.K * n.V;
    p.dgone = p.gone + n.V;
    p.du = p.dgone + n.V;
    p.S = p.du + n.K;
    for (int64_t head = 0; head < n.B * n.H; head++) {
        p.b = head / n.H;
        p.h = head % n.H;
        plain_grad_head(&p);
    }
}

/* The definition's, where it runs: types other than f32. */
static size_t scratch(const qp_call *c, int threads) {
    size_t plain = (size_t)(c->in[K].shape[3] * c->in[V].shape[3]) * sizeof(double),
           fast = qk_wkv_scratch(c->in, threads);
    return c->in[K].dtype == QP_F32 && fast > plain ? fast : plain;
}
static size_t grad_scratch(const qp_call *c, int threads) {
    const qp_view *in = c->in + 1;
    size_t         plain =
        (size_t)((in[K].shape[1] + 2) * in[K].shape[3] * in[V].shape[3] + in[K].shape[3] + 2 * in[V].shape[3]) *
        sizeof(double);
    size_t fast = qk_wkv_grad_scratch(in, threads);
    return fast > plain ? fast : plain;
}

static double work(const qp_view *in) {
    return (double)qp_view_count(&in[K]) * (double)in[V].shape[3] * (in[U].ndim < 0 ? 9 : 5);
}
static double flops(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 0, in);
    return work(in);
}
static double grad_flops(const qp_call *c) {
    qp_view in[INPUTS];
    inputs(c, 1, in);
    return 4 * work(in);
}

static void backward(qp_rule *r) {
    qp_tensor in[1 + INPUTS] = {r->dout[0]}, out[QK_WKV_GRADIENTS];
    for (int i = 0; i < INPUTS; i++) in[1 + i] = i < r->nin ? r->in[i] : QP_NONE;
    qp_apply_many(&qp_op_wkv_grad, 1 + INPUTS, in, NULL, out);
    for (int i = 0; i < QK_WKV_GRADIENTS; i++)
        if (i < r->nin && r->need[i]) r->din[i] = i == U ? qp_sum(out[U], 1, (int[]){0}, false) : out[i];
}

#define TOLERANCE .tolerance = 1e-5
static const qp_sample samples[] = {
    {.in = "x[2,5,2,3] u[2,5,2,3] x[2,5,2,3] x[2,5,2,4] x[2,3]", TOLERANCE},
    {.in = "x[1,3,1,1] u[1,3,1,1] x[1,3,1,1] x[1,3,1,1] x[1,1] - - !x[1,1,1,1]", TOLERANCE},
    {.in = "x[2,4,2,3] u[2,4,2,3] x[2,4,2,3] x[2,4,2,2] - s[2,4,2,3] s[2,4,2,3]", TOLERANCE},
    {.in = "x[1,2,3,5] u[1,2,3,5] x[1,2,3,5] x[1,2,3,2] - s[1,2,3,5] s[1,2,3,5] !x[1,3,5,2]", TOLERANCE},
    {.in = "x[1,70,1,17] u[1,70,1,17] x[1,70,1,17] x[1,70,1,35] x[1,17] - - !x[1,1,17,35]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[1,33,2,64] u[1,33,2,64] x[1,33,2,64] x[1,33,2,80] x[2,64]", .no_grad = true, TOLERANCE},
    {.in = "x[1,33,2,64] u[1,33,2,64] x[1,33,2,64] x[1,33,2,64] - s[1,33,2,64] s[1,33,2,64]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[2,0,2,3] u[2,0,2,3] x[2,0,2,3] x[2,0,2,4] x[2,3]", .no_grad = true},
    {0}};

QP_OP(wkv) = {.name = "wkv",
              .source = "arXiv:2404.05892, 2503.14456",
              .min_in = 4,
              .max_in = INPUTS,
              .nout = 2,
              .saves = QP_SAVE_ALL_IN,
              .hidden = QP_SAVE_OUT(1),
              .shape = shape,
              .plain = plain,
              .backward = backward,
              .scratch = scratch,
              .flops = flops,
              .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "x[2,5,2,4] x[2,5,2,3] u[2,5,2,3] x[2,5,2,3] x[2,5,2,4] x[2,3]", .no_grad = true, TOLERANCE},
    {.in = "x[1,70,2,35] x[1,70,2,17] u[1,70,2,17] x[1,70,2,17] x[1,70,2,35] x[2,17] - - x[1,2,17,35]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[2,5,2,2] x[2,5,2,3] u[2,5,2,3] x[2,5,2,3] x[2,5,2,2] - s[2,5,2,3] s[2,5,2,3]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[1,2,1,35] x[1,2,1,81] u[1,2,1,81] x[1,2,1,81] x[1,2,1,35] - s[1,2,1,81] s[1,2,1,81] x[1,1,81,35]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[1,70,2,33] x[1,70,2,17] u[1,70,2,17] x[1,70,2,17] x[1,70,2,33] - s[1,70,2,17] s[1,70,2,17]",
     .no_grad = true,
     TOLERANCE},
    {.in = "x[1,0,2,4] x[1,0,2,3] u[1,0,2,3] x[1,0,2,3] x[1,0,2,4] x[2,3]", .no_grad = true},
    {0}};

QP_OP(wkv_grad) = {.name = "wkv_grad",
                   .source = "backward of wkv",
                   .min_in = 5,
                   .max_in = 1 + INPUTS,
                   .nout = QK_WKV_GRADIENTS,
                   .shape = grad_shape,
                   .plain = plain_grad,
                   .scratch = grad_scratch,
                   .flops = grad_flops,
                   .samples = grad_samples};

qp_tensor qp_wkv(qp_wkv_inputs x, qp_tensor *last) {
    qp_tensor out[2];
    QP_CALL_MANY(wkv, NULL, out, x.r, x.w, x.k, x.v, x.u, x.a, x.b, x.state);
    if (last) *last = out[1];
    return out[0];
}
#endif
