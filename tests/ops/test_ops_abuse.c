/* Calls that no program should make: each ends in a result or in an error that names the op,
 * with poison, and never in memory that is not its own. */
#include "harness.h"

static qp_ctx *ctx;

/* What a call may change about a sample. */
typedef struct {
    int      nin;
    input    in[QP_MAX_IN + 2];
    qp_dtype dtype[QP_MAX_IN + 2];
    layout   layout;
} odd_call;

static void odd_from(odd_call *o, const op_case *c) {
    memset(o, 0, sizeof *o);
    o->nin = c->nin;
    for (int i = 0; i < c->nin; i++) {
        o->in[i] = c->in[i];
        o->dtype[i] = input_dtype(&c->in[i], PLAIN_FORM);
    }
}

/* Gradients of whatever came out; an error is as good as a result. */
static void differentiate(const qp_op *op, const qp_tensor *y, int nx, const qp_tensor *x) {
    qp_tensor seed[QP_MAX_OUT], xs[QP_MAX_IN], dx[QP_MAX_IN];
    int       n = 0;
    for (int i = 0; i < nx; i++)
        if (qp_requires_grad(x[i])) xs[n++] = x[i];
    for (int j = 0; j < op->nout; j++) {
        seed[j] = QP_NONE;
        if (!qp_dtype_is_float(qp_dtype_of(y[j])) || (op->hidden & QP_SAVE_OUT(j))) continue;
        qpi_slot *s = qpi_resolve(y[j], "test");
        seed[j] = qp_full(ctx, s->value.view.dtype, s->value.view.ndim, s->value.view.shape, 1);
    }
    qp_grad(op->nout, y, n, xs, dx, (qp_grad_options){.seeds = seed});
    for (int i = 0; i < n; i++)
        if (qp_failed(ctx) != qpi_is_poison(dx[i])) print_error("%s: a gradient without its error\n", op->name);
}

static void check_error(const op_case *c, const char *what, const qp_tensor *out) {
    if (qp_error_code(ctx) != QP_ERR_MEMORY && strncmp(qp_error(ctx), c->op->name, strlen(c->op->name)))
        complain(c, "%s: the error does not name the op: %s", what, qp_error(ctx));
    for (int j = 0; j < c->op->nout; j++)
        if (!qpi_is_poison(out[j])) complain(c, "%s: failed, but output %d is no poison", what, j);
}

/* QP_OK or the error. */
static qp_code odd_run(const op_case *c, const char *what, const odd_call *o, const void *attr) {
    guarded   memory[QP_MAX_IN + 2];
    qp_tensor x[QP_MAX_IN + 2], out[QP_MAX_OUT];
    qp_scope  s = qp_enter(ctx);
    for (int i = 0; i < o->nin; i++) {
        memory[i] = (guarded){0};
        x[i] = QP_NONE;
        if (o->in[i].ndim < 0) continue;
        memory[i] = guarded_make(&o->in[i], o->dtype[i], o->layout);
        x[i] = guarded_tensor(ctx, &memory[i]);
        if (c->op->backward && qp_dtype_is_float(o->dtype[i])) qp_require_grad(x[i], true);
    }
    qp_apply_many(c->op, o->nin, x, attr, out);
    qp_code code = qp_error_code(ctx);
    if (code != QP_OK) check_error(c, what, out);
    else if (c->op->backward) differentiate(c->op, out, o->nin, x);
    for (int j = 0; j < c->op->nout && code == QP_OK && !qp_failed(ctx); j++) {
        array a = array_read(out[j]);
        array_free(&a);
    }
    qp_clear(ctx);
    qp_leave(s);
    for (int i = 0; i < o->nin; i++) {
        if (!guarded_intact(&memory[i], c->op->mutates >> i & 1))
            complain(c, "%s: wrote into or around input %d", what, i);
        guarded_free(&memory[i]);
    }
    return code;
}

/* ---- Numbers of inputs, poison, strangers ------------------------------------------------------------ */

static void expect_failure(const op_case *c, const char *what, int nin, const qp_tensor *x) {
    qp_tensor out[QP_MAX_OUT];
    qp_apply_many(c->op, nin, x, c->sample->attr, out);
    if (!qp_failed(ctx)) complain(c, "%s: no error", what);
    else check_error(c, what, out);
    qp_clear(ctx);
}

static void check_handles(const op_case *c) {
    inputs    x;
    qp_tensor in[QP_MAX_IN + 2] = {{0}}, out[QP_MAX_OUT];
    qp_scope  s = qp_enter(ctx);
    inputs_make(&x, ctx, c, PLAIN_FORM);
    memcpy(in, x.tensor, (size_t)c->nin * sizeof *in);
    for (int i = 0; i < c->nin; i++) {
        if (qp_is_none(in[i])) continue;
        qp_tensor own = in[i];
        in[i] = qpi_poison(ctx);
        qp_apply_many(c->op, c->nin, in, c->sample->attr, out);
        if (qp_error_code(ctx) != QP_ERR_STATE) complain(c, "poison as input %d: %s", i, qp_error(ctx));
        for (int j = 0; j < c->op->nout; j++)
            if (!qpi_is_poison(out[j])) complain(c, "poison as input %d: output %d is none", i, j);
        qp_clear(ctx);
        in[i] = QP_NONE;
        if (i < c->op->min_in && c->nin > 1) expect_failure(c, "an input missing", c->nin, in);
        in[i] = qp_alias(own);
        qp_drop(in[i]);
        expect_failure(c, "a stale input", c->nin, in);
        qp_ctx *other =
            ctx == context_of(QP_ISA_BASE, 1) ? context_of(QP_ISA_BASE, 2) : context_of(QP_ISA_BASE, 1);
        in[i] = qp_scalar(other, QP_F32, 1);
        if (i > 0) expect_failure(c, "an input of another context", c->nin, in);
        qp_drop(in[i]);
        in[i] = own;
    }
    if (c->op->min_in > 1) expect_failure(c, "too few inputs", c->op->min_in - 1, in);
    for (int i = c->nin; i <= c->op->max_in; i++) in[i] = in[0];
    expect_failure(c, "too many inputs", c->op->max_in + 1, in);
    qp_leave(s);
    inputs_free(&x);
}

static void check_read_only(const op_case *c) {
    for (int i = 0; i < c->nin && c->op->mutates; i++) {
        if (!(c->op->mutates >> i & 1) || c->in[i].ndim < 0) continue;
        inputs   x;
        qp_scope s = qp_enter(ctx);
        inputs_make(&x, ctx, c, PLAIN_FORM);
        qpi_resolve(x.tensor[i], "test")->value.storage->read_only = true;
        expect_failure(c, "read-only memory", c->nin, x.tensor);
        if (!guarded_intact(&x.memory[i], false)) complain(c, "wrote to read-only input %d", i);
        qp_leave(s);
        inputs_free(&x);
    }
}

/* ---- Types, shapes, values, attributes ------------------------------------------------------------------ */

static bool whole_blocks(const input *in, qp_dtype t) {
    return qp_dtype_block(t) == 1 || in->ndim < 0 ||
           (in->ndim > 0 && in->shape[in->ndim - 1] % qp_dtype_block(t) == 0);
}

static void check_types(const op_case *c) {
    for (int i = 0; i < c->nin; i++)
        for (qp_dtype t = 0; t < QP_DTYPE_COUNT; t++) {
            odd_call o;
            bool     whole = true;
            for (int k = 0; k < c->nin; k++) whole &= whole_blocks(&c->in[k], t);
            if (!whole) continue;
            odd_from(&o, c);
            o.dtype[i] = t;
            odd_run(c, "another type", &o, c->sample->attr);
            for (int k = 0; k < c->nin; k++) o.dtype[k] = t;
            if (i == 0) odd_run(c, "another type for all", &o, c->sample->attr);
        }
}

static void reshaped(const op_case *c, int i, int ndim, const int64_t *shape, const char *what) {
    odd_call o;
    odd_from(&o, c);
    input *in = &o.in[i];
    in->ndim = ndim;
    in->count = 1;
    for (int a = 0; a < ndim; a++) in->count *= in->shape[a] = shape[a];
    if (!whole_blocks(in, o.dtype[i])) return;
    in->value = malloc((size_t)(in->count + 1) * sizeof *in->value);
    for (int64_t k = 0; k < in->count; k++)
        in->value[k] = c->in[i].count ? c->in[i].value[k % c->in[i].count] : 0;
    odd_run(c, what, &o, c->sample->attr);
    o.layout = LAYOUT_MIXED;
    odd_run(c, what, &o, c->sample->attr);
    free(in->value);
}

static void check_shapes(const op_case *c) {
    for (int i = 0; i < c->nin; i++) {
        const input *in = &c->in[i];
        int64_t      shape[QP_MAX_DIMS + 1] = {0};
        if (in->ndim < 0 || in->count > 2000) continue;
        reshaped(c, i, 0, NULL, "no axes");
        reshaped(c, i, 1, (int64_t[]){in->count}, "one axis");
        reshaped(c, i, 8, (int64_t[]){1, 2, 1, 3, 1, 2, 1, 2}, "eight axes");
        memcpy(shape, in->shape, sizeof in->shape);
        for (int a = 0; a < in->ndim; a++) {
            static const int change[] = {1, -1, 7};
            for (int k = 0; k < 4; k++) {
                shape[a] = k < 3 ? in->shape[a] + change[k] : 0;
                if (shape[a] >= 0) reshaped(c, i, in->ndim, shape, "another size");
            }
            shape[a] = in->shape[a];
        }
        if (in->ndim > 0) reshaped(c, i, in->ndim - 1, shape, "an axis less");
        if (in->ndim == QP_MAX_DIMS) continue;
        shape[in->ndim] = 1;
        reshaped(c, i, in->ndim + 1, shape, "an axis more");
        shape[in->ndim] = 3;
        reshaped(c, i, in->ndim + 1, shape, "an axis more");
    }
}

static void check_values(const op_case *c) {
    static const double integers[] = {-1, 1e6, -0x1p63, 0x1p63, 0x1p31, -100};
    static const double floats[] = {0, NAN, INFINITY, -INFINITY, 3e38, -3e38, 1e-45, 1e-30};
    for (int i = 0; i < c->nin; i++) {
        const input  *in = &c->in[i];
        bool          is_float = is_float_input(in);
        const double *v = is_float ? floats : integers;
        if (in->ndim < 0) continue;
        for (int k = 0; k < (is_float ? 8 : 6); k++)
            for (int first = 0; first < 2; first++) { /* all elements, or the first */
                odd_call o;
                odd_from(&o, c);
                o.in[i].value = malloc((size_t)(in->count + 1) * sizeof(double));
                memcpy(o.in[i].value, in->value, (size_t)in->count * sizeof(double));
                for (int64_t e = 0; e < in->count && (e == 0 || !first); e++) o.in[i].value[e] = v[k];
                odd_run(c, "an odd value", &o, c->sample->attr);
                free(o.in[i].value);
            }
    }
}

/* Another sample's attributes, and none. */
static void check_attributes(const op_case *c) {
    odd_call o;
    odd_from(&o, c);
    odd_run(c, "no attributes", &o, NULL);
    for (const qp_sample *s = c->op->samples; s->in && c->op->attr_bytes; s++)
        odd_run(c, "another sample's attributes", &o, s->attr);
}

static void check_case(const op_case *c) {
    int64_t total = 0;
    for (int i = 0; i < c->nin; i++) total += c->in[i].ndim < 0 ? 0 : c->in[i].count;
    if (total > 20000) return;
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++) {
        if (isa > QP_ISA_BASE && isa < qpi_cpu_isa()) continue;
        ctx = context_of(isa, 0);
        check_handles(c);
        check_read_only(c);
        check_types(c);
        check_shapes(c);
        check_values(c);
        check_attributes(c);
    }
}

static void test(const qp_op *op) { each_case(op, check_case); }

int main(int argc, char **argv) { return run_ops(argc, argv, test); }
