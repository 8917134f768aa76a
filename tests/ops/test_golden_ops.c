/* PyTorch's word on each op: tests/golden/ops/OP.safetensors, made by tests/golden/make_ops.py,
 * which says what the files hold. In f64, and in f32 on every instruction set. */
#include <dirent.h>
#include <jansson.h>

#include "harness.h"
#include "quipu/format.h"

typedef struct {
    qp_ctx   *ctx;
    json_t   *attrs;
    int       nin, nout;
    qp_tensor in[QP_MAX_IN], out[QP_MAX_IN];
} call;

/* ---- Arguments ------------------------------------------------------------------------------------- */

static int64_t integer(const call *c, const char *key) {
    const json_t *v = json_object_get(c->attrs, key);
    return json_is_boolean(v) ? json_is_true(v)
                              : json_integer_value(json_is_array(v) ? json_array_get(v, 0) : v);
}
static double number(const call *c, const char *key) {
    return json_number_value(json_object_get(c->attrs, key));
}
static bool is_text(const call *c, const char *key, const char *text) {
    const char *s = json_string_value(json_object_get(c->attrs, key));
    return s && !strcmp(s, text);
}

/* How many numbers there are under the key. */
static int integers(const call *c, const char *key, int64_t *out) {
    const json_t *list = json_object_get(c->attrs, key);
    int           n = (int)json_array_size(list);
    for (int i = 0; i < n; i++) out[i] = json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static int axis_of(const call *c) { return (int)integer(c, "axis"); }

/* ---- Each file's op: in -> out -------------------------------------------------------------------------- */

#define UNARY(op) \
    static void run_##op(call *c) { c->out[0] = qp_##op(c->in[0]); }
#define BINARY(op) \
    static void run_##op(call *c) { c->out[0] = qp_##op(c->in[0], c->in[1]); }
#define ALONG(op) \
    static void run_##op(call *c) { c->out[0] = qp_##op(c->in[0], axis_of(c)); }
UNARY(exp)
UNARY(tanh)
UNARY(sigmoid) UNARY(relu) UNARY(gelu) UNARY(gelu_tanh) UNARY(silu) UNARY(softplus) UNARY(abs) UNARY(neg)
    UNARY(square) UNARY(log) UNARY(sqrt) UNARY(rsqrt) BINARY(add) BINARY(sub) BINARY(mul) BINARY(div)
        BINARY(maximum) BINARY(minimum) BINARY(pow) BINARY(eq) BINARY(ne) BINARY(lt) BINARY(le) BINARY(gt)
            BINARY(ge) BINARY(matmul) BINARY(embedding) BINARY(swiglu) ALONG(cumsum) ALONG(softmax)
                ALONG(log_softmax)

                    static void run_where(call *c) {
    c->out[0] = qp_where(qp_cast(c->in[0], QP_BOOL), c->in[1], c->in[2]);
}

static void reduce(call *c, qp_tensor (*op)(qp_tensor, int, const int *, bool)) {
    int64_t list[QP_MAX_DIMS];
    int     axes[QP_MAX_DIMS], n = integers(c, "axis", list);
    for (int i = 0; i < n; i++) axes[i] = (int)list[i];
    c->out[0] = op(c->in[0], n, axes, integer(c, "keepdim"));
}
static void run_sum(call *c) { reduce(c, qp_sum); }
static void run_mean(call *c) { reduce(c, qp_mean); }

/* Ops over one axis, one axis after the other, the last first. */
static void reduce_each(call *c, qp_tensor (*op)(qp_tensor, int, bool)) {
    int64_t list[QP_MAX_DIMS];
    int     n = integers(c, "axis", list);
    c->out[0] = c->in[0];
    for (int i = n - 1; i >= 0; i--) c->out[0] = op(c->out[0], (int)list[i], integer(c, "keepdim"));
}
static void run_max(call *c) { reduce_each(c, qp_max); }
static void run_logsumexp(call *c) { reduce_each(c, qp_logsumexp); }
static void run_argmax(call *c) { reduce_each(c, qp_argmax); }

static void run_topk(call *c) {
    qp_topk(c->in[0], integer(c, "k"), axis_of(c), integer(c, "largest"), &c->out[0], &c->out[1]);
    c->nout = 2;
}
static void run_sort(call *c) {
    qp_sort(c->in[0], axis_of(c), integer(c, "descending"), &c->out[0], &c->out[1]);
    c->nout = 2;
}
static void run_linear_int8(call *c) {
    qp_tensor bias = qp_is_none(c->in[3]) ? QP_NONE : qp_cast(c->in[3], QP_F32);
    c->out[0] = qp_linear_int8(c->in[0], qp_cast(c->in[1], QP_I8), qp_cast(c->in[2], QP_F32), bias);
}
static void run_linear(call *c) { c->out[0] = qp_linear(c->in[0], c->in[1], c->in[2], QP_ACT_NONE, QP_NONE); }
static void run_layer_norm(call *c) {
    c->out[0] = qp_layer_norm(c->in[0], c->in[1], c->in[2], number(c, "eps"));
}
static void run_rms_norm(call *c) { c->out[0] = qp_rms_norm(c->in[0], c->in[1], number(c, "eps")); }
static void run_one_hot(call *c) { c->out[0] = qp_one_hot(c->in[0], integer(c, "classes"), QP_I64); }

static void run_rope(call *c) {
    int64_t pairs = integer(c, "rotary") / 2;
    float   f[64];
    for (int64_t i = 0; i < pairs; i++) f[i] = (float)pow(number(c, "theta"), -(double)i / (double)pairs);
    qp_tensor frequency = qp_from(c->ctx, QP_F32, 1, &pairs, f);
    c->out[0] = qp_rope(c->in[0], c->in[1], frequency,
                        is_text(c, "style", "half") ? QP_ROPE_HALF : QP_ROPE_INTERLEAVED, 1);
}

static void run_attention(call *c) {
    qp_mask mask = {.causal = integer(c, "causal"), .window = integer(c, "window")};
    *(integer(c, "starts") ? &mask.starts : &mask.bias) = c->in[3];
    if (integer(c, "parents")) mask.parents = c->in[4];
    c->out[0] = qp_attention(c->in[0], c->in[1], c->in[2], mask, number(c, "scale"));
}

static void run_cross_entropy(call *c) {
    qp_loss_options o = {.ignore_index = integer(c, "ignore_index"), .sum = !is_text(c, "reduction", "mean")};
    if (!is_text(c, "reduction", "none")) {
        c->out[0] = qp_cross_entropy(c->in[0], c->in[1], o);
        return;
    }
    qp_tensor row[QP_MAX_IN];
    int64_t   n = qp_size(c->in[0], 0);
    for (int64_t i = 0; i < n; i++) {
        row[i] = qp_cross_entropy(qp_slice(c->in[0], 0, i, i + 1, 1), qp_slice(c->in[1], 0, i, i + 1, 1), o);
        row[i] = qp_reshape(row[i], 1, (int64_t[]){1});
    }
    c->out[0] = qp_concat((int)n, row, 0);
}

static void run_concat(call *c) { c->out[0] = qp_concat(c->nin, c->in, axis_of(c)); }
static void run_split(call *c) {
    int64_t sizes[QP_MAX_IN];
    c->nout = integers(c, "sizes", sizes);
    qp_split(c->in[0], axis_of(c), c->nout, sizes, c->out);
}
static void run_slice(call *c) {
    int64_t start[QP_MAX_DIMS], stop[QP_MAX_DIMS], step[QP_MAX_DIMS];
    int     n = integers(c, "start", start);
    integers(c, "stop", stop);
    integers(c, "step", step);
    c->out[0] = c->in[0];
    for (int i = 0; i < n; i++) c->out[0] = qp_slice(c->out[0], i, start[i], stop[i], step[i]);
}
static void run_permute(call *c) {
    int64_t list[QP_MAX_DIMS];
    int     axes[QP_MAX_DIMS], n = integers(c, "axes", list);
    for (int i = 0; i < n; i++) axes[i] = (int)list[i];
    c->out[0] = qp_permute(c->in[0], axes);
}
static void run_roll(call *c) {
    int64_t shifts[QP_MAX_DIMS], axes[QP_MAX_DIMS];
    int     n = integers(c, "shifts", shifts);
    integers(c, "axes", axes);
    c->out[0] = c->in[0];
    for (int i = 0; i < n; i++) c->out[0] = qp_roll(c->out[0], (int)axes[i], shifts[i]);
}
static void run_pad(call *c) {
    const json_t *pads = json_object_get(c->attrs, "pads");
    c->out[0] = c->in[0];
    for (size_t i = 0; i < json_array_size(pads); i++) {
        const json_t *pair = json_array_get(pads, i);
        int64_t       before = json_integer_value(json_array_get(pair, 0)),
                      after = json_integer_value(json_array_get(pair, 1));
        c->out[0] = qp_pad(c->out[0], (int)i, before, after, number(c, "value"));
    }
}
static void run_gather(call *c) { c->out[0] = qp_gather(c->in[0], axis_of(c), c->in[1]); }
static void run_scatter_add(call *c) { c->out[0] = qp_scatter_add(c->in[0], axis_of(c), c->in[1], c->in[2]); }

static void run_long_conv(call *c) { c->out[0] = qp_long_conv(c->in[0], c->in[1]); }
static void run_vandermonde(call *c) {
    c->out[0] = qp_vandermonde(c->in[0], c->in[1], c->in[2], c->in[3], integer(c, "T"), qp_dtype_of(c->in[0]));
}
/* f64 planes: what they are for. */
static void run_dplr_kernel(call *c) {
    c->out[0] = qp_dplr_kernel(qp_cast(c->in[0], QP_F64), integer(c, "T"), qp_dtype_of(c->in[0]));
}

static const struct {
    const char *name;
    void (*run)(call *c);
} ops[] = {
#define ROW(op) {#op, run_##op},
    ROW(exp) ROW(tanh) ROW(sigmoid) ROW(relu) ROW(gelu) ROW(gelu_tanh) ROW(silu) ROW(softplus) ROW(abs) ROW(neg)
        ROW(square) ROW(log) ROW(sqrt) ROW(rsqrt) ROW(swiglu) ROW(add) ROW(sub) ROW(mul) ROW(div) ROW(maximum)
            ROW(minimum) ROW(pow) ROW(eq) ROW(ne) ROW(lt) ROW(le) ROW(gt) ROW(ge) ROW(matmul) ROW(embedding)
                ROW(cumsum) ROW(softmax) ROW(log_softmax) ROW(where) ROW(sum) ROW(mean) ROW(max) ROW(logsumexp)
                    ROW(argmax) ROW(topk) ROW(sort) ROW(linear) ROW(linear_int8) ROW(layer_norm) ROW(rms_norm)
                        ROW(one_hot) ROW(rope) ROW(attention) ROW(cross_entropy) ROW(concat) ROW(split)
                            ROW(slice) ROW(permute) ROW(roll) ROW(pad) ROW(gather) ROW(scatter_add)
                                ROW(long_conv) ROW(vandermonde) ROW(dplr_kernel)};

/* ---- Cases ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *op, *tag;
    qp_file    *file;
    qp_ctx     *ctx;
    double      tolerance;
    qp_dtype    floats;
    int         wrong;
} golden;

/* QP_NONE if the file has no such tensor. */
static qp_tensor load(const golden *g, const char *kind, int i) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s%d", g->tag, kind, i);
    return qp_file_find(g->file, name) < 0 ? QP_NONE : qp_file_load(g->ctx, g->file, name, true);
}

static void judge(golden *g, const char *what, int i, qp_tensor got, qp_tensor expected) {
    if (qp_failed(g->ctx)) return;
    array  a = array_read(got), b = array_read(expected);
    double e = relative_error(&a, &b, 1e-2), limit = qp_dtype_is_float(b.dtype) ? g->tolerance : 0;
    if (!(e <= limit)) {
        print_error("%s, %s, %s on %s: %s %d differs by %.3g (at most %.3g)\n", g->op, g->tag,
                    qp_dtype_name(g->floats), isa_name(qp_stats_of(g->ctx).isa), what, i, e, limit);
        g->wrong++;
    }
    array_free(&a);
    array_free(&b);
}

static qp_tensor seed_of(qp_tensor y) {
    int64_t n = qp_count(y);
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = cos((double)i);
    qpi_slot *s = qpi_resolve(y, "test");
    qp_tensor t = s ? qp_empty(y.ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape) : y;
    if (s && qp_write(t, QP_F64, v, n) != QP_OK) t = qpi_poison(y.ctx);
    free(v);
    return t;
}

static void check_gradients(golden *g, const call *c) {
    qp_tensor xs[QP_MAX_IN], dxs[QP_MAX_IN], ys[QP_MAX_IN], seeds[QP_MAX_IN];
    int       nx = 0, ny = 0, of[QP_MAX_IN];
    for (int i = 0; i < c->nin; i++)
        if (!qp_is_none(load(g, "grad", i))) {
            of[nx] = i;
            xs[nx++] = c->in[i];
        }
    for (int i = 0; i < c->nout; i++)
        if (qp_dtype_is_float(qp_dtype_of(c->out[i]))) {
            ys[ny] = c->out[i];
            seeds[ny] = seed_of(ys[ny]);
            ny++;
        }
    if (!nx || qp_failed(g->ctx)) return;
    qp_grad(ny, ys, nx, xs, dxs, (qp_grad_options){.seeds = seeds});
    g->tolerance *= 5;
    for (int i = 0; i < nx; i++) judge(g, "gradient", of[i], dxs[i], load(g, "grad", of[i]));
}

static void check_one(golden *g, void (*run)(call *c), json_t *attrs) {
    call     c = {.ctx = g->ctx, .attrs = attrs, .nout = 1};
    double   tolerance = g->tolerance;
    qp_scope s = qp_enter(g->ctx);
    for (qp_tensor t; !qp_is_none(t = load(g, "in", c.nin));) {
        bool is_float = qp_dtype_of(t) == QP_F64;
        c.in[c.nin] = is_float ? qp_cast(t, g->floats) : t;
        if (is_float) qp_require_grad(c.in[c.nin], true);
        c.nin++;
    }
    assert_true(c.nin > 0);
    if (!strcmp(g->op, "rope")) { /* angles are f32 */
        double largest = 0;
        array  a = array_read(c.in[1]);
        for (int64_t i = 0; i < a.count; i++) largest = fmax(largest, a.value[i]);
        array_free(&a);
        g->tolerance += 1.2e-7 * (1 + largest);
    }
    if (!strcmp(g->op, "dplr_kernel")) g->tolerance += 1e-8; /* what lies beyond its transform */
    run(&c);
    int n = 0;
    for (qp_tensor t; !qp_is_none(t = load(g, "out", n)); n++) judge(g, "output", n, c.out[n], t);
    assert_int_equal(n, c.nout);
    check_gradients(g, &c);
    if (qp_failed(g->ctx)) {
        print_error("%s, %s, %s: %s\n", g->op, g->tag, qp_dtype_name(g->floats), qp_error(g->ctx));
        g->wrong++;
    }
    qp_clear(g->ctx);
    qp_leave(s);
    g->tolerance = tolerance;
}

static int check_file(const char *path, const char *op, void (*run)(call *c)) {
    golden  g = {.op = op, .ctx = context_of(QP_ISA_BASE, 0)};
    json_t *cases;
    g.file = qp_file_open(g.ctx, path, (qp_file_options){0});
    if (!g.file) fail_msg("%s", qp_error(g.ctx));
    cases = json_loads(qp_file_meta(g.file, "attrs"), 0, NULL);
    assert_true(json_object_size(cases) > 0);
    const char *tag;
    json_t     *attrs;
    json_object_foreach(cases, tag, attrs) {
        g.tag = tag;
        g.ctx = context_of(QP_ISA_BASE, 0);
        g.floats = QP_F64;
        g.tolerance = 2e-12;
        check_one(&g, run, attrs);
        for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++) {
            g.ctx = context_of(isa, 0);
            g.floats = QP_F32;
            g.tolerance = 3e-6;
            check_one(&g, run, attrs);
        }
    }
    json_decref(cases);
    qp_file_close(g.file);
    return g.wrong;
}

/* ---- Files ------------------------------------------------------------------------------------------------------ */

static void test_file(void **state) {
    const char *op = *state;
    char        path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/ops/%s.safetensors", SOURCE_DIR, op);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!strcmp(ops[i].name, op)) {
            assert_int_equal(check_file(path, op, ops[i].run), 0);
            return;
        }
    fail_msg("no op is called %s here", op);
}

int main(int argc, char **argv) {
    struct CMUnitTest tests[256];
    size_t            n = 0;
    DIR              *d = opendir(SOURCE_DIR "/tests/golden/ops");
    for (struct dirent *e; d && n < 256 && (e = readdir(d));) {
        char *dot = strrchr(e->d_name, '.'), *name;
        if (!dot || strcmp(dot, ".safetensors") || !(name = strndup(e->d_name, (size_t)(dot - e->d_name))))
            continue;
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], name);
        if (wanted) tests[n++] = (struct CMUnitTest){name, test_file, NULL, NULL, name};
        else free(name);
    }
    if (d) closedir(d);
    if (n == 0 || (argc < 2 && n < 60))
        return fprintf(stderr, "%zu golden files, expected at least 60\n", n), 1;
    int failed = _cmocka_run_group_tests("golden ops", tests, n, open_contexts, close_contexts);
    for (size_t i = 0; i < n; i++) free(tests[i].initial_state);
    return failed;
}
