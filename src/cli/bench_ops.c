/* Ops, forward, backward and both as in training, at the sizes of a small model's activations. The
 * roofline is the longer of the arithmetic at the peak and the bytes at the speed of copying as many,
 * both as the ops state them. */
#include <math.h>
#include <string.h>

#include "cli/bench.h"
#include "core/core.h"

#define MAX_IN 6
#define STATES 16
#define MAX_OUT 2
#define VOCABULARY 8192
#define GPT2 50257

typedef struct {
    const char *name; /* of the op */
    const char *in;   /* x, y [R, C]; v, u [C]; w [C, C]; q, k, l [4, R/4, C/64, 64]; 4 [1, R, C/64, 64];
                         t targets [R] below C; i ids [R]; e [VOCABULARY, C]; p positions; f frequencies;
                         h [GPT2, C]; g targets [R] below GPT2; a, d [1, R, C], d in 0..1; r [STATES, C];
                         m, n [1, R, STATES]; D decays like 4, A small ones; B [C/64, 64];
                         N [C] below 0 */
    void (*run)(const qp_tensor *in, qp_tensor *out);
    int64_t sizes[2][2]; /* R, C */
} test;

#define UNARY(op) \
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
static void run_causal(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_attention(in[0], in[1], in[2], (qp_mask){.causal = true}, 0);
}
static void run_linear_cross_entropy(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_linear_cross_entropy(in[0], in[1], in[2], (qp_loss_options){0});
}
static void run_long_conv(const qp_tensor *in, qp_tensor *out) { out[0] = qp_long_conv(in[0], in[1]); }
static void run_linear_int8(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_linear_int8(in[0], in[1], in[2], QP_NONE);
}
static void run_selective_scan(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_selective_scan(in[0], in[1], in[2], in[3], in[4], in[5], QP_NONE, NULL);
}
static void run_wkv(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_wkv((qp_wkv_inputs){.r = in[0], .w = in[1], .k = in[2], .v = in[3], .u = in[4]}, NULL);
}
static void run_wkv_removing(const qp_tensor *in, qp_tensor *out) {
    out[0] =
        qp_wkv((qp_wkv_inputs){.r = in[0], .w = in[1], .k = in[2], .v = in[3], .a = in[4], .b = in[5]}, NULL);
}
static void run_wkv4(const qp_tensor *in, qp_tensor *out) {
    int64_t shape[3] = {1, qp_size(in[2], 0), qp_size(in[2], 1)};
    out[0] = qp_wkv4(in[0], in[1], qp_reshape(in[2], 3, shape), qp_reshape(in[3], 3, shape), QP_NONE, NULL);
}
static void run_attention(const qp_tensor *in, qp_tensor *out) {
    out[0] = qp_attention(in[0], in[1], in[2], (qp_mask){0}, 0);
}

#define USUAL {{1024, 768}, {1024, 3072}}

static const test tests[] = {{"add", "xy", run_add, USUAL},
                             {"mul", "xy", run_mul, USUAL},
                             {"exp", "x", run_exp, USUAL},
                             {"tanh", "x", run_tanh, USUAL},
                             {"gelu", "x", run_gelu, USUAL},
                             {"gelu_tanh", "x", run_gelu_tanh, USUAL},
                             {"silu", "x", run_silu, USUAL},
                             {"swiglu", "xy", run_swiglu, USUAL},
                             {"sum", "x", run_sum, USUAL},
                             {"max", "x", run_max, USUAL},
                             {"argmax", "x", run_argmax, USUAL},
                             {"cumsum", "x", run_cumsum, USUAL},
                             {"softmax", "x", run_softmax, USUAL},
                             {"log_softmax", "x", run_log_softmax, USUAL},
                             {"layer_norm", "xvu", run_layer_norm, USUAL},
                             {"rms_norm", "xv", run_rms_norm, USUAL},
                             {"add_rms_norm", "xyv", run_add_rms_norm, USUAL},
                             {"cross_entropy", "xt", run_cross_entropy, USUAL},
                             {"embedding", "ei", run_embedding, USUAL},
                             {"rope", "qpf", run_rope, USUAL},
                             {"contiguous", "x", run_transpose, USUAL},
                             {"dropout", "x", run_dropout, USUAL},
                             {"attention", "qkl", run_attention, USUAL},
                             {"linear", "xw", run_linear, USUAL},
                             {"linear_int8", "x8s", run_linear_int8, USUAL},
                             {"cross_entropy", "xt", run_cross_entropy, {{1024, GPT2}}},
                             {"linear_cross_entropy", "xhg", run_linear_cross_entropy, {{1024, 768}}},
                             {"attention", "444", run_causal, {{4096, 512}, {16384, 512}}},
                             {"selective_scan", "adrmnv", run_selective_scan, {{512, 768}, {8192, 1536}}},
                             {"long_conv", "ax", run_long_conv, {{4096, 256}, {16384, 256}}},
                             {"wkv4", "Nvxy", run_wkv4, {{8192, 768}, {16384, 768}}},
                             {"wkv", "4D44B", run_wkv, {{8192, 768}, {16384, 768}}}, /* RWKV 5 and 6 */
                             {"wkv", "4D44AA", run_wkv_removing, {{8192, 768}, {16384, 768}}}}; /* RWKV 7 */

/* ---- Inputs --------------------------------------------------------------------------------------- */

static qp_tensor indices(qp_ctx *ctx, int64_t n, int64_t limit) {
    qp_tensor t = qp_empty(ctx, QP_I64, 1, &n);
    int64_t  *p = qp_data_write(t);
    for (int64_t i = 0; p && i < n; i++) p[i] = i * 7919 % limit;
    return t;
}

static qp_tensor input(qp_ctx *ctx, char kind, int64_t R, int64_t C) {
    int64_t half = 32, T = R / 4, shape[4] = {R, C, 0, 0};
    int     ndim = 2;
    switch (kind) {
    case 't': return indices(ctx, R, C);
    case 'i': return indices(ctx, R, VOCABULARY);
    case 'g': return indices(ctx, R, GPT2);
    case 'p': return qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T});
    case 'f': return qp_full(ctx, QP_F32, 1, &half, 0.01);
    case 'e': shape[0] = VOCABULARY; break;
    case 'h': shape[0] = GPT2; break;
    case 'w': shape[0] = C; break;
    case '8': return qp_cast(qp_affine(qp_randn(ctx, QP_F32, 2, (int64_t[]){C, C}), 40, 0), QP_I8);
    case 'N': return qp_full(ctx, QP_F32, 1, &C, -0.05);
    case 'D':
    case 'A': return qp_full(ctx, QP_F32, 4, (int64_t[]){1, R, C / 64, 64}, kind == 'D' ? 0.95 : 0.01);
    case 'B': return qp_randn(ctx, QP_F32, 2, (int64_t[]){C / 64, 64});
    case 's': return qp_full(ctx, QP_F32, 1, &C, 0.01);
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
    case 'm':
    case 'n': return qp_randn(ctx, QP_F32, 3, (int64_t[]){1, R, STATES});
    case 'r': return qp_affine(qp_sigmoid(qp_randn(ctx, QP_F32, 2, (int64_t[]){STATES, C})), STATES, 0);
    case 'a': return qp_randn(ctx, QP_F32, 3, (int64_t[]){1, R, C});
    case 'd': return qp_softplus(qp_affine(qp_randn(ctx, QP_F32, 3, (int64_t[]){1, R, C}), 1, -3));
    case '4':
        shape[0] = 1, shape[1] = R, shape[2] = C / 64, shape[3] = 64;
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

/* As in training: the record is made and used up. */
static void run_both(void *arg) {
    call     *k = arg;
    qp_scope  s = qp_enter(k->in[0].ctx);
    qp_tensor out[MAX_OUT], dx[MAX_IN];
    k->t->run(k->in, out);
    qp_grad(k->nout, out, k->nx, k->x, dx, (qp_grad_options){.seeds = k->seeds});
    qp_leave(s);
}

/* What the calls within fn state. */
typedef struct {
    double flops, bytes;
} cost;

static void add_cost(void *user, const qp_call *c, double seconds) {
    cost *sum = user;
    (void)seconds;
    sum->flops += qp_call_flops(c);
    sum->bytes += qp_call_bytes(c);
}

static cost cost_of(bench *b, void (*fn)(void *), call *k) {
    cost sum = {0};
    qp_observe(b->ctx, add_cost, &sum);
    fn(k);
    qp_observe(b->ctx, NULL, NULL);
    return sum;
}

static void row(bench *b, call *k, const char *pass, int64_t R, int64_t C, void (*fn)(void *),
                double bandwidth) {
    double seconds = bench_seconds(b, fn, k);
    cost   c = cost_of(b, fn, k);
    double ideal = fmax(c.bytes / bandwidth, c.flops / b->peak);
    bench_row(b,
              json_pack("{s:s, s:s, s:[I, I], s:o, s:o, s:o, s:o}", "op", k->t->name, "pass", pass, "size",
                        (json_int_t)R, (json_int_t)C, "seconds", cli_json_number(seconds), "gbytes",
                        cli_json_number(c.bytes / seconds * 1e-9), "gflops",
                        cli_json_number(c.flops / seconds * 1e-9), "roofline_share",
                        cli_json_number(ideal / seconds)),
              "%-20s %-9s %5lldx%-5lld %10.1f %9.1f %9.1f %10.0f%%", k->t->name, pass, (long long)R,
              (long long)C, seconds * 1e6, c.bytes / seconds * 1e-9, c.flops / seconds * 1e-9,
              100 * ideal / seconds);
}

static void measure_gradient(bench *b, call *k, int64_t R, int64_t C, double bandwidth) {
    for (int i = 0; i < k->nin; i++)
        if (qp_dtype_is_float(qp_dtype_of(k->in[i])) && k->t->in[i] != 'f') k->x[k->nx++] = k->in[i];
    for (int i = 0; i < k->nx; i++) qp_require_grad(k->x[i], true);
    k->t->run(k->in, k->out);
    if (!qp_requires_grad(k->out[0])) return;
    for (int i = 0; i < k->nout; i++) k->seeds[i] = qp_detach(qp_affine(k->out[i], 0, 1));
    row(b, k, "backward", R, C, run_backward, bandwidth);
    for (int i = 0; i < k->nout; i++) qp_drop(k->out[i]);
    row(b, k, "both", R, C, run_both, bandwidth);
}

static void measure(bench *b, const test *t, int64_t R, int64_t C) {
    qp_scope     scope = qp_enter(b->ctx);
    const qp_op *op = qp_op_find(t->name);
    call         k = {.t = t};
    double       bandwidth = bench_copy(b, R * C);
    for (const char *p = t->in; *p; p++) k.in[k.nin++] = input(b->ctx, *p, R, C);
    t->run(k.in, k.out);
    k.nout = op && op->nout > 1 && !qp_is_none(k.out[1]) ? 2 : 1;
    if (!qp_failed(b->ctx)) {
        row(b, &k, "forward", R, C, run_forward, bandwidth);
        measure_gradient(b, &k, R, C, bandwidth);
    }
    qp_leave(scope);
}

static bool wanted(const bench *b, const char *name) {
    int          n;
    const char **only = cli_list(b->c, "only", &n);
    for (int i = 0; i < n; i++)
        if (!strcmp(only[i], name)) return true;
    return n == 0;
}

/* Every op asked for is one of the tests. */
static bool known(bench *b) {
    int          n;
    const char **only = cli_list(b->c, "only", &n);
    for (int i = 0; i < n; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof tests / sizeof tests[0]; k++) found |= !strcmp(only[i], tests[k].name);
        if (!found)
            qp_fail(b->ctx, QP_ERR_ARGUMENT, "bench ops: --only %.60s: there is no such measurement", only[i]);
    }
    return !qp_failed(b->ctx);
}

static void run(bench *b) {
    if (!known(b)) return;
    bench_roofline(b);
    bench_title(b, "%-20s %-9s %11s %10s %9s %9s %11s", "op", "pass", "size", "us", "GB/s", "GFLOP/s",
                "of roofline");
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        const int64_t (*sizes)[2] = tests[i].sizes;
        for (int k = 0; k < 2 && sizes[k][0] && !qp_failed(b->ctx); k++)
            if (wanted(b, tests[i].name)) measure(b, &tests[i], sizes[k][0], sizes[k][1]);
    }
}

const bench_kind bench_ops = {"ops", run};
