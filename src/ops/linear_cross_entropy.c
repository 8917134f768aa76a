/* loss = scale * sum over counted rows of lse(z) - z[target], z = x w^T, scale = 1 for the sum and
 * 1 / (counted rows) for the mean.   With g = scale (e^(z - lse) - [target]), 0 in ignored rows:
 * dx = dloss g w, dw = dloss g^T x.
 *
 * Rows are taken in chunks, whose logits are all that is ever held. Where backward will want
 * them, g w and g^T x are formed from the chunk at once, as hidden outputs: three products in
 * all, none repeated (the memory of arXiv:2411.09009 without its recomputation). */
#include "kernels/gemm.h"
#include "kernels/softmax.h"
#include "ops/op.h"

typedef struct {
    qp_loss_options loss;
    bool            dx, dw; /* form them */
} attr;

enum { X, W, TARGETS };
enum { LOSS, DX, DW };

#define LOGITS (16 << 20) /* floats of a chunk */
#define LEAST_ROWS 64     /* of a chunk: fewer would read and write dw too often */
#define MOST_ROWS 1024

typedef struct {
    const qp_call *c;
    qp_view        x; /* [.., D], rows anywhere */
    int64_t        n, d, v, chunk;
    double         scale;
    float         *rows, *logits; /* of the chunk */
    double        *loss;          /* of each row */
    int64_t        first;         /* row of the chunk */
    qp_exec        exec;          /* with the scratch of products */
} job;

static int64_t ignored(const qp_call *c) {
    int64_t index = ((const attr *)c->attr)->loss.ignore_index;
    return index ? index : -100;
}

static int64_t target(const qp_call *c, int64_t row) {
    return ((const int64_t *)c->in[TARGETS].data)[qp_view_offset(&c->in[TARGETS], row)];
}

/* Checks the targets; 1 or 1 / (rows that count), -1 after storing an error. */
static double scale_of(const qp_call *c) {
    int64_t v = c->in[W].shape[0], n = qp_view_count(&c->in[TARGETS]), counted = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = target(c, i);
        if (t == ignored(c)) continue;
        counted++;
        if (t >= 0 && t < v) continue;
        qp_call_fail(c, QP_ERR_ARGUMENT, "target %lld, expected 0 to %lld or %lld (ignored)", (long long)t,
                     (long long)v - 1, (long long)ignored(c));
        return -1;
    }
    return ((const attr *)c->attr)->loss.sum || counted == 0 ? 1 : 1 / (double)counted;
}

static bool takes(const qp_call *c) { return c->in[X].dtype == QP_F32 && qk_gemm_takes(c->in[W].dtype); }

static job plan(const qp_call *c) {
    const qp_view *w = &c->in[W];
    job j = {.c = c, .x = c->in[X], .n = qp_view_count(&c->in[TARGETS]), .d = w->shape[1], .v = w->shape[0]};
    j.chunk = LOGITS / (j.v + 1);
    if (j.chunk < LEAST_ROWS) j.chunk = LEAST_ROWS;
    if (j.chunk > MOST_ROWS) j.chunk = MOST_ROWS;
    int64_t chunks = (j.n + j.chunk - 1) / j.chunk;
    if (chunks > 1) j.chunk = (j.n + chunks - 1) / chunks; /* a short last one costs a pass over dw, too */
    else j.chunk = j.n;
    return j;
}

static size_t padded(int64_t count, size_t bytes) { return ((size_t)count * bytes + 63) / 64 * 64; }

/* z = rows w^T */
static qk_gemm_args logits_of(const job *j, int64_t rows) {
    const qp_view *w = &j->c->in[W];
    return (qk_gemm_args){.batch = 1,
                          .m = rows,
                          .n = j->v,
                          .k = j->d,
                          .a = j->rows,
                          .a_row = j->d,
                          .a_col = 1,
                          .b = w->data,
                          .b_type = w->dtype,
                          .b_row = w->stride[1],
                          .b_col = w->stride[0],
                          .c = j->logits,
                          .c_row = j->v,
                          .compute = j->c->compute,
                          .scale = 1};
}

/* Rounded to f16, g would vanish: its scale is one for all rows, and no loss scale is in it yet. */
static qp_dtype grad_compute(const job *j) { return j->c->compute == QP_F16 ? QP_F32 : j->c->compute; }

/* g replaces the logits, row by row: as bf16 in the first half of a row where the products would round
 * it to that, which halves what they read. */
static qp_dtype grad_type(const job *j) { return grad_compute(j) == QP_BF16 ? QP_BF16 : QP_F32; }
static int64_t grad_row(const job *j) { return grad_type(j) == QP_BF16 ? 2 * j->v : j->v; }

/* dx = g w */
static qk_gemm_args dx_of(const job *j, int64_t rows) {
    qk_gemm_args g = logits_of(j, rows);
    g.n = j->d;
    g.k = j->v;
    g.a = j->logits;
    g.a_type = grad_type(j);
    g.a_row = grad_row(j);
    g.b_row = j->c->in[W].stride[0];
    g.b_col = j->c->in[W].stride[1];
    g.c = (float *)j->c->out[DX].data + j->first * j->d;
    g.c_row = j->d;
    g.compute = grad_compute(j);
    return g;
}

/* dw (+)= g^T rows */
static qk_gemm_args dw_of(const job *j, int64_t rows) {
    return (qk_gemm_args){.batch = 1,
                          .m = j->v,
                          .n = j->d,
                          .k = rows,
                          .a = j->logits,
                          .a_type = grad_type(j),
                          .a_row = 1,
                          .a_col = grad_row(j),
                          .b = j->rows,
                          .b_row = j->d,
                          .b_col = 1,
                          .c = j->c->out[DW].data,
                          .c_row = j->d,
                          .compute = grad_compute(j),
                          .scale = 1,
                          .accumulate = j->first > 0,
                          .far = true};
}

/* Rows of the chunk side by side. */
static void gather(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int64_t    step = j->x.stride[j->x.ndim - 1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const float *from = (const float *)j->x.data + qp_view_offset(&j->x, (j->first + i) * j->d);
        for (int64_t k = 0; k < j->d; k++) j->rows[i * j->d + k] = from[k * step];
    }
}

/* g from column k of a row of logits on: n values. */
static inline void store_grad(const job *j, float *row, int64_t k, vf g, int n) {
    if (grad_type(j) == QP_BF16) vf_store_bf16_n((uint16_t *)row + k, g, n);
    else if (n == VF_LANES) vf_store(row + k, g);
    else vf_store_n(row + k, g, n);
}

/* The loss of each row; logits become g where gradients are wanted. */
static void settle(void *arg, int64_t begin, int64_t end, int worker) {
    const job  *j = arg;
    const attr *a = j->c->attr;
    float       scale = (float)j->scale;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float  *z = j->logits + i * j->v;
        int64_t t = target(j->c, j->first + i), k = 0;
        bool    counts = t != ignored(j->c);
        double  lse = counts ? qk_row_logsumexp(z, j->v) : 0;
        j->loss[j->first + i] = counts ? lse - (double)z[t] : 0;
        if (!a->dx && !a->dw) continue;
        if (!counts) {
            memset(z, 0, (size_t)j->v * sizeof *z);
            continue;
        }
        vf    shift = vf_set1((float)lse);
        float at_target = (scale * vf_exp(vf_set1(z[t]) - shift))[0] - scale;
        for (; k < j->v; k += VF_LANES) {
            int rest = (int)(j->v - k < VF_LANES ? j->v - k : VF_LANES);
            vf  p = scale * vf_exp((rest == VF_LANES ? vf_load(z + k) : vf_load_n(z + k, rest)) - shift);
            store_grad(j, z, k, p, rest);
        }
        store_grad(j, z, t, vf_set1(at_target), 1);
    }
}

static void run(const qp_call *c) {
    const attr *a = c->attr;
    job         j = plan(c);
    double      sum = 0;
    char       *scratch = c->exec->scratch;
    j.scale = scale_of(c);
    if (j.scale < 0) return;
    if (a->dw && j.n == 0) memset(c->out[DW].data, 0, (size_t)(j.v * j.d) * sizeof(float));
    j.loss = (double *)scratch;
    j.rows = (float *)(scratch += padded(j.n, sizeof(double)));
    j.logits = (float *)(scratch += padded(j.chunk * j.d, sizeof(float)));
    j.exec = *c->exec;
    j.exec.scratch = scratch + padded(j.chunk * j.v, sizeof(float));
    for (; j.first < j.n; j.first += j.chunk) {
        int64_t rows = j.n - j.first < j.chunk ? j.n - j.first : j.chunk;
        qp_parallel(&j.exec, rows, 16, gather, &j);
        qk_gemm_args g = logits_of(&j, rows);
        QK(qk_gemm)(&j.exec, &g);
        qp_parallel(&j.exec, rows, 1 + 8192 / (j.v + 1), settle, &j);
        g = dx_of(&j, rows);
        if (a->dx) QK(qk_gemm)(&j.exec, &g);
        g = dw_of(&j, rows);
        if (a->dw) QK(qk_gemm)(&j.exec, &g);
    }
    for (int64_t i = 0; i < j.n; i++) sum += j.loss[i];
    *(float *)c->out[LOSS].data = (float)(j.scale * sum);
}

QP_KERNEL(linear_cross_entropy) = {run, QP_ANY, takes};

#if QP_BODY
#include "core/core.h"
#include "ops/recording.h"

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[X], *w = &c->in[W], *t = &c->in[TARGETS];
    qp_dtype       type = x->dtype == QP_F64 ? QP_F64 : QP_F32;
    bool fits = x->ndim > 0 && w->ndim == 2 && x->shape[x->ndim - 1] == w->shape[1] && t->ndim == x->ndim - 1;
    for (int i = 0; i < t->ndim && fits; i++) fits = t->shape[i] == x->shape[i];
    fits &= qp_dtype_is_float(x->dtype) && qp_dtype_is_float(w->dtype) && t->dtype == QP_I64;
    if (!fits) {
        char xt[96], wt[96], tt[96];
        qpi_view_describe(x, xt, sizeof xt);
        qpi_view_describe(w, wt, sizeof wt);
        qpi_view_describe(t, tt, sizeof tt);
        qp_call_fail(c, QP_ERR_SHAPE, "x %s, w %s and targets %s: expected floats [.., D] and [V, D], i64 [..]",
                     xt, wt, tt);
        return;
    }
    qpi_view_init(&c->out[LOSS], type, 0, NULL);
    qpi_view_init(&c->out[DX], type, a->dx ? x->ndim : 1, a->dx ? x->shape : (int64_t[]){0});
    qpi_view_init(&c->out[DW], type, a->dw ? 2 : 1, a->dw ? w->shape : (int64_t[]){0});
}

static void plain_row(const qp_call *c, int64_t row, double scale, double lse, const double *z) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[X], *w = &c->in[W];
    int64_t        d = w->shape[1], t = target(c, row);
    for (int64_t k = 0; k < d; k++) {
        double xk = qp_load(x, qp_view_offset(x, row * d + k)), dx = 0;
        for (int64_t j = 0; j < w->shape[0]; j++) {
            double g = t == ignored(c) ? 0 : scale * (exp(z[j] - lse) - (j == t));
            dx += g * qp_load(w, j * w->stride[0] + k * w->stride[1]);
            if (a->dw) qp_store(&c->out[DW], j * d + k, qp_load(&c->out[DW], j * d + k) + g * xk);
        }
        if (a->dx) qp_store(&c->out[DX], row * d + k, dx);
    }
}

static void plain(const qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[X], *w = &c->in[W];
    int64_t        n = qp_view_count(&c->in[TARGETS]), d = w->shape[1], v = w->shape[0];
    double         scale = scale_of(c), loss = 0, *z = c->exec->scratch;
    for (int64_t i = 0; i < qp_view_count(&c->out[DW]); i++) qp_store(&c->out[DW], i, 0);
    for (int64_t row = 0; row < n && scale >= 0; row++) {
        double max = -INFINITY, sum = 0;
        for (int64_t j = 0; j < v; j++) {
            z[j] = 0;
            for (int64_t k = 0; k < d; k++)
                z[j] += qp_load(x, qp_view_offset(x, row * d + k)) *
                        qp_load(w, j * w->stride[0] + k * w->stride[1]);
            max = fmax(max, z[j]);
        }
        for (int64_t j = 0; j < v; j++) sum += exp(z[j] - max);
        if (target(c, row) != ignored(c)) loss += max + log(sum) - z[target(c, row)];
        if (a->dx || a->dw) plain_row(c, row, scale, max + log(sum), z);
    }
    qp_store(&c->out[LOSS], 0, scale * loss);
}

extern const qp_op qp_op_linear_cross_entropy, qp_op_add_scaled;

/* The gradient of the loss itself is what the forward pass has stored. */
static void backward(qp_rule *r) {
    attr      a = *(const attr *)r->attr;
    qp_tensor y[3] = {r->out[LOSS], r->out[DX], r->out[DW]}, dloss = r->dout[LOSS];
    if (qp_is_none(dloss)) return;
    if (a.dx < r->need[X] || a.dw < r->need[W]) {
        a.dx = r->need[X];
        a.dw = r->need[W];
        QP_CALL_MANY(linear_cross_entropy, &a, y, r->in[X], r->in[W], r->in[TARGETS]);
    }
    if (r->need[X]) r->din[X] = r->ones ? y[DX] : qp_mul(y[DX], dloss);
    if (r->need[W]) r->din[W] = r->ones ? y[DW] : QP_CALL(add_scaled, NULL, qp_grad_into(r, W), y[DW], dloss);
}

static double flops(const qp_call *c) {
    const attr *a = c->attr;
    double      product = 2.0 * (double)qp_view_count(&c->in[TARGETS]) * (double)qp_view_count(&c->in[W]);
    return product * (1 + a->dx + a->dw);
}

static size_t product_bytes(const job *j, int threads) {
    qk_gemm_args g[] = {logits_of(j, j->chunk), dx_of(j, j->chunk), dw_of(j, j->chunk)};
    size_t       most = 0;
    for (int i = 0; i < 3; i++)
        for (int64_t rows = j->chunk; rows > 0; rows = rows == j->chunk ? j->n % j->chunk : 0) {
            *(i == DW ? &g[i].k : &g[i].m) = rows;
            size_t bytes = qk_gemm_scratch(1, g[i].m, g[i].n, g[i].k, threads);
            if (bytes > most) most = bytes;
        }
    return (most + 63) / 64 * 64;
}

static size_t scratch(const qp_call *c, int threads) {
    job    j = plan(c);
    size_t kernel = padded(j.n, sizeof(double)) + padded(j.chunk * j.d, sizeof(float)) +
                    padded(j.chunk * j.v, sizeof(float)) + product_bytes(&j, threads);
    size_t definition = (size_t)j.v * sizeof(double);
    return kernel > definition ? kernel : definition;
}

static const qp_sample samples[] = {
    {.in = "x[3,4] x[5,4] i5[3]"},
    {.in = "x[2,3,5] x[7,5] i7[2,3]", .attr = &(attr){.loss = {.sum = true}}},
    {.in = "x[9,4] x[4,4] i4[9]", .attr = &(attr){.loss = {.ignore_index = 2}}},
    {.in = "x[4] x[7,4] i7[]"},
    {.in = "x[0,4] x[7,4] i7[0]"},
    {.in = "x[1,1] x[1,1] i1[1]"},
    {.in = "x[9,4] x[37,4] i37[9]", .attr = &(attr){.dx = true, .dw = true}, .no_grad = true},
    {.in = "x[0,4] x[7,4] i7[0]", .attr = &(attr){.dx = true, .dw = true}, .no_grad = true},
    {.in = "x[1100,3] x[5,3] i5[1100]",
     .attr = &(attr){.dx = true, .dw = true, .loss = {.ignore_index = 4}},
     .no_grad = true},
    {0}};

QP_OP(linear_cross_entropy) = {.name = "linear_cross_entropy",
                               .source = "torch.nn.functional.cross_entropy of linear",
                               .min_in = 3,
                               .max_in = 3,
                               .nout = 3,
                               .attr_bytes = sizeof(attr),
                               .saves = QP_SAVE_ALL_IN | QP_SAVE_OUT(DX) | QP_SAVE_OUT(DW),
                               .hidden = QP_SAVE_OUT(DX) | QP_SAVE_OUT(DW),
                               .shape = shape,
                               .plain = plain,
                               .backward = backward,
                               .scratch = scratch,
                               .flops = flops,
                               .autocast = true,
                               .samples = samples};

qp_tensor qp_linear_cross_entropy(qp_tensor x, qp_tensor w, qp_tensor targets, qp_loss_options options) {
    attr      a = {options, recording(x.ctx, 1, &x), recording(w.ctx, 1, &w)};
    qp_tensor y[3];
    if (w.ctx && qp_dtype_block(qp_dtype_of(w)) > 1) w = qp_cast(w, QP_F32);
    QP_CALL_MANY(linear_cross_entropy, &a, y, x, w, targets);
    qp_drop(y[DX]);
    qp_drop(y[DW]);
    return y[LOSS];
}
#endif
