/* Ops, forward and backward, at the sizes of a small model's activations. The roofline of a
 * call is the longer of its arithmetic at the peak and its bytes (each input and output once) at
 * the speed of copying as many. */
#include <math.h>
#include <string.h>

#include "cli/bench.h"
#include "core/core.h"

#define MAX_IN 4
#define MAX_OUT 2
#define VOCABULARY 8192

typedef struct {
    const char *name; /* of the op, whose cost and saved values count */
    const char *in;   /* x, y [R, C]; v, u [C]; w [C, C]; q, k, l [4, R/4, C/64, 64];
                         t targets [R] below C; i ids [R]; e [VOCABULARY, C]; p positions; f frequencies */
    void (*run)(const qp_tensor *in, qp_tensor *out);
    double backward; /* its arithmetic, of that forward; 0: no gradient */
} test;

#define UNARY(op)                                                                                              \
    static void run_##op(const qp_tensor *in, qp_tensor *out) { out[0] = qp_##op(in[0]); }
UNARY(exp)
UNARY(tanh)
UNARY(gelu)
UNARY(gelu_tanh)
UNARY(silu)

static void run_add(const qp_tensor *in, qp_tensor *out) { out[0] = qp_add(in[0], in[1]); }
static void run_mul(const qp_tensor *in, qp_tensor *out) { out[0] = qp_mul(in[0], in[1]); }
static void run_swiglu(const qp_tensor *in, qp_tensor *out) { out[0] = qp_swiglu(in[0], in[1]); }
static void run_sum(const qp_tensor *in, qp_tensor *out) { out[0] = qp_sum(in[0], 1, (int[]){1}, false); }
static void run_max(const qp_tensor *in, qp_tensor *out) { out[0] = qp_max(in[0], 1, false); }
static void run_argmax(const qp_tensor *in, qp_tensor *out) { out[0] = qp_argmax(in[0], 1, false); }
static void run_cumsum(const qp_tensor *in, qp_tensor *out) { out[0] = qp_cumsum(in[0], 1); }
static void run_softmax(const qp_tensor *in, qp_tensor *out) { out[0] = qp_softmax(in[0], 1); }
static void run_log_softmax(const qp_tensor *in, qp_tensor *out) { out[0] = qp_log_softmax(in[0], 1); }
static void run_rms_norm(const qp_tensor *in, qp_tensor *out) { out[0] = qp_rms_norm(in[0], in[1], 1e-5); }
static void run_layer_norm(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_layer_norm(in[0], in[1], in[2], 1e-5);
}
static void run_dropout(const qp_tensor *in, qp_tensor *out) { out[0] = qp_dropout(in[0], 0.1); }
static void run_embedding(const qp_tensor *in, qp_tensor *out) { out[0] = qp_embedding(in[0], in[1]); }
static void run_rope(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_rope(in[0], in[1], in[2], QP_ROPE_HALF, 1);
}
static void run_transpose(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_contiguous(qp_transpose(in[0], 0, 1));
}
static void run_cross_entropy(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_cross_entropy(in[0], in[1], (qp_loss_options){0});
}
static void run_add_rms_norm(const qp_tensor *in, qp_tensor *out) {
    qp_add_rms_norm(in[0], in[1], in[2], 1e-5, &out[0], &out[1]);
}
static void run_linear(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_linear(in[0], in[1], QP_NONE, QP_ACT_NONE, QP_NONE);
}
static void run_attention(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_attention(in[0], in[1], in[2], (qp_mask){0}, 0);
}

static const test tests[] = {{"add", "xy", run_add, 1},
                             {"mul", "xy", run_mul, 2},
                             {"exp", "x", run_exp, 1},
                             {"tanh", "x", run_tanh, 1},
                             {"gelu", "x", run_gelu, 1},
                             {"gelu_tanh", "x", run_gelu_tanh, 1},
                             {"silu", "x", run_silu, 1},
                             {"swiglu", "xy", run_swiglu, 3},
                             {"sum", "x", run_sum, 1},
                             {"max", "x", run_max, 1},
                             {"argmax", "x", run_argmax, 0},
                             {"cumsum", "x", run_cumsum, 1},
                             {"softmax", "x", run_softmax, 1},
                             {"log_softmax", "x", run_log_softmax, 1},
                             {"layer_norm", "xvu", run_layer_norm, 2},
                             {"rms_norm", "xv", run_rms_norm, 2},
                             {"add_rms_norm", "xyv", run_add_rms_norm, 2},
                             {"cross_entropy", "xt", run_cross_entropy, 1},
                             {"embedding", "ei", run_embedding, 1},
                             {"rope", "qpf", run_rope, 1},
                             {"contiguous", "x", run_transpose, 1},
                             {"dropout", "x", run_dropout, 1},
                             {"attention", "qkl", run_attention, 2.5},
                             {"linear", "xw", run_linear, 2}};

/* ---- Inputs --------------------------------------------------------------------------------------- */

static qp_tensor indices(qp_ctx *ctx, int64_t n, int64_t limit) {
    qp_tensor t = qp_empty(ctx, QP_I64, 1, &n);
    int64_t  *p = qp_data_of(t);
    for (int64_t i = 0; p && i < n; i++) p[i] = i * 7919 % limit;
    return t;
}

static qp_tensor input(qp_ctx *ctx, char kind, int64_t R, int64_t C) {
    int64_t half = 32, T = R / 4, shape[4] = {R, C, 0, 0};
    int     ndim = 2;
    switch (kind) {
    case 't': return indices(ctx, R, C);
    case 'i': return indices(ctx, R, VOCABULARY);
    case 'p': return qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T});
    case 'f': return qp_full(ctx, QP_F32, 1, &half, 0.01);
    case 'e': shape[0] = VOCABULARY; break;
    case 'w': shape[0] = C; break;
    case 'v':
    case 'u':
        shape[0] = C;
        ndim = 1;
        break;
    case 'q':
    case 'k':
    case 'l':
        shape[0] = 4, shape[1] = T, shape[2] = C / 64, shape[3] = 64;
        ndim = 4;
        break;
    default: break;
    }
    return qp_randn(ctx, QP_F32, ndim, shape);
}

/* ---- One op ------------------------------------------------------------------------------------------ */

typedef struct {
    const test *t;
    qp_tensor   in[MAX_IN], out[MAX_OUT], x[MAX_IN], seeds[MAX_OUT]; /* x: inputs with a gradient */
    int         nin, nout, nx;
} call;

static void run_forward(void *arg) {
    call     *k = arg;
    qp_scope  s = qp_enter(k->in[0].ctx);
    qp_tensor out[MAX_OUT];
    k->t->run(k->in, out);
    qp_leave(s);
}

static void run_backward(void *arg) {
    call     *k = arg;
    qp_scope  s = qp_enter(k->in[0].ctx);
    qp_tensor dx[MAX_IN];
    qp_grad(k->nout, k->out, k->nx, k->x, dx, (qp_grad_options){.retain = true, .seeds = k->seeds});
    qp_leave(s);
}

static double bytes_of(qp_tensor t) { return (double)qp_count(t) * (double)qp_dtype_bytes(qp_dtype_of(t)); }

static double bytes_of_all(const qp_tensor *t, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += bytes_of(t[i]);
    return sum;
}

/* What the op itself states; one operation for each output element where it says nothing. */
static double flops_of(const call *k, const qp_op *op) {
    char    attr[QP_MAX_ATTR] = {0};
    qp_view in[MAX_IN], out[MAX_OUT];
    if (!op || !op->flops) return (double)qp_count(k->out[0]);
    qp_call c = {
        .ctx = k->in[0].ctx, .op = op, .attr = attr, .nin = k->nin, .nout = k->nout, .in = in, .out = out};
    for (int i = 0; i < k->nin; i++) in[i] = qpi_resolve(k->in[i], "bench")->value.view;
    for (int i = 0; i < k->nout; i++) out[i] = qpi_resolve(k->out[i], "bench")->value.view;
    return op->flops(&c);
}

static double saved_bytes(const call *k, const qp_op *op) {
    double sum = 0;
    for (int i = 0; op && i < k->nin; i++)
        if (op->saves & QP_SAVE_IN(i)) sum += bytes_of(k->in[i]);
    for (int i = 0; op && i < k->nout; i++)
        if (op->saves & QP_SAVE_OUT(i)) sum += bytes_of(k->out[i]);
    return sum;
}

static void row(bench *b, const call *k, const char *pass, int64_t R, int64_t C, double seconds, double bytes,
                double flops, double bandwidth) {
    double ideal = fmax(bytes / bandwidth, flops / b->peak);
    bench_row(
        b,
        json_pack("{s:s, s:s, s:[I, I], s:o, s:o, s:o, s:o}", "op", k->t->name, "pass", pass, "size",
                  (json_int_t)R, (json_int_t)C, "seconds", cli_json_number(seconds), "gbytes",
                  cli_json_number(bytes / seconds * 1e-9), "gflops", cli_json_number(flops / seconds * 1e-9),
                  "roofline_share", cli_json_number(ideal / seconds)),
        "%-14s %-9s %5lldx%-5lld %10.1f %9.1f %9.1f %10.0f%%", k->t->name, pass, (long long)R, (long long)C,
        seconds * 1e6, bytes / seconds * 1e-9, flops / seconds * 1e-9, 100 * ideal / seconds);
}

static void measure(bench *b, const test *t, int64_t R, int64_t C, double bandwidth) {
    qp_scope     scope = qp_enter(b->ctx);
    const qp_op *op = qp_op_find(t->name);
    call         k = {.t = t};
    for (const char *p = t->in; *p; p++) k.in[k.nin++] = input(b->ctx, *p, R, C);
    t->run(k.in, k.out);
    k.nout = op && op->nout > 1 && !qp_is_none(k.out[1]) ? 2 : 1;
    if (!qp_failed(b->ctx)) {
        double flops = flops_of(&k, op), bytes = bytes_of_all(k.in, k.nin) + bytes_of_all(k.out, k.nout);
        if (!strcmp(t->name, "embedding")) bytes = 2 * bytes_of(k.out[0]); /* of the table only those rows */
        row(b, &k, "forward", R, C, bench_seconds(b, run_forward, &k), bytes, flops, bandwidth);
        for (int i = 0; i < k.nin; i++)
            if (qp_dtype_is_float(qp_dtype_of(k.in[i])) && t->in[i] != 'f') k.x[k.nx++] = k.in[i];
        for (int i = 0; i < k.nx; i++) qp_require_grad(k.x[i], true);
        if (t->backward > 0) t->run(k.in, k.out);
        for (int i = 0; i < k.nout; i++) k.seeds[i] = qp_detach(qp_affine(k.out[i], 0, 1));
        bytes = bytes_of_all(k.seeds, k.nout) + saved_bytes(&k, op) + bytes_of_all(k.x, k.nx);
        if (t->backward > 0)
            row(b, &k, "backward", R, C, bench_seconds(b, run_backward, &k), bytes, flops * t->backward,
                bandwidth);
    }
    qp_leave(scope);
}

static void run(bench *b) {
    static const int64_t sizes[][2] = {{1024, 768}, {1024, 3072}};
    bench_roofline(b);
    bench_title(b, "%-14s %-9s %11s %10s %9s %9s %11s", "op", "pass", "size", "us", "GB/s", "GFLOP/s",
                "of roofline");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        double bandwidth = bench_copy(b, sizes[i][0] * sizes[i][1]);
        for (size_t k = 0; k < sizeof tests / sizeof tests[0] && !qp_failed(b->ctx); k++)
            measure(b, &tests[k], sizes[i][0], sizes[i][1], bandwidth);
    }
}

const bench_kind bench_ops = {"ops", run};
