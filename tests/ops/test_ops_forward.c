/* Every op, every sample, every instruction set: the kernel against the definition, whatever
 * the layout, the type, the number of threads; nothing written where it should not be. */
#include "harness.h"

static const form f64_form = {QP_F64, QP_I64, LAYOUT_FLAT, -1};

static void label(char *text, size_t size, qp_isa isa, form f, const char *more) {
    static const char *const layouts[] = {"flat", "offset", "rows", "steps", "reversed", "mixed"};
    int                      used =
        snprintf(text, size, "%s %s %s%s", isa_name(isa), qp_dtype_name(f.floats), layouts[f.layout], more);
    if (f.only >= 0) snprintf(text + used, size - (size_t)used, " input %d", f.only);
}

static void check_form(const op_case *c, const results *expected, qp_isa isa, form f, double tolerance) {
    char text[96];
    label(text, sizeof text, isa, f, "");
    results r = run_case(context_of(isa, 0), c->op, c, f);
    compare(c, text, &r, expected, tolerance);
    results_free(&r);
}

/* ---- The kernel by itself, in watched memory --------------------------------------------------------- */

typedef struct {
    inputs  x;
    guarded out[QP_MAX_OUT], scratch;
    qp_view in[QP_MAX_IN], result[QP_MAX_OUT], shaped[QP_MAX_OUT];
    qp_exec exec;
    char    attr[QP_MAX_ATTR];
    qp_call call;
} direct;

static bool every_float_is_f32(const qp_call *c) {
    bool ok = c->out[0].dtype == QP_F32;
    for (int i = 0; i < c->nin; i++)
        ok = ok && (c->in[i].ndim < 0 || c->in[i].dtype == QP_F32 || !qp_dtype_is_float(c->in[i].dtype));
    for (int i = 0; i < c->nout; i++)
        ok = ok && (c->out[i].dtype == QP_F32 || !qp_dtype_is_float(c->out[i].dtype));
    return ok;
}

static void direct_merge(direct *d) {
    qp_view *views[1 + QP_MAX_IN] = {&d->result[0]};
    int      n = 1;
    for (int i = 0; i < d->call.nin; i++) {
        if (d->in[i].ndim < 0) continue;
        qpi_view_expand(&d->in[i], d->shaped[0].ndim, d->shaped[0].shape);
        views[n++] = &d->in[i];
    }
    qpi_views_merge(views, n);
}

static void direct_open(direct *d, qp_ctx *ctx, const op_case *c) {
    const qp_op *op = c->op;
    form         f = PLAIN_FORM;
    f.layout = LAYOUT_OFFSET;
    memset(d, 0, sizeof *d);
    inputs_make(&d->x, ctx, c, f);
    for (int i = 0; i < c->nin; i++) d->in[i] = c->in[i].ndim < 0 ? (qp_view){.ndim = -1} : d->x.memory[i].view;
    if (c->sample->attr) memcpy(d->attr, c->sample->attr, op->attr_bytes);
    d->call = (qp_call){ctx, op, d->attr, c->nin, op->nout, d->in, d->shaped, NULL, QP_F32};
    if (op->shape) op->shape(&d->call);
    else if (op->mutates) d->shaped[0] = d->in[0];
    else qpi_broadcast_shape(&d->call, 0);
    for (int i = 0; i < op->nout && !qp_failed(ctx); i++) {
        input as = {.ndim = d->shaped[i].ndim};
        memcpy(as.shape, d->shaped[i].shape, sizeof as.shape);
        if (!op->mutates) d->out[i] = guarded_make(&as, d->shaped[i].dtype, LAYOUT_OFFSET);
        d->result[i] = op->mutates ? d->in[0] : d->out[i].view;
        d->shaped[i] = d->result[i];
    }
}

static void direct_run(direct *d, qp_ctx *ctx, const op_case *c, const qp_kernel *k) {
    const qp_op *op = c->op;
    size_t       bytes = op->scratch ? op->scratch(&d->call, ctx->exec.threads) : 0;
    input        as = {.ndim = 1, .shape = {(int64_t)bytes}};
    d->scratch = guarded_make(&as, QP_U8, LAYOUT_FLAT);
    d->exec = ctx->exec;
    d->exec.scratch = bytes ? d->scratch.view.data : NULL;
    d->call.exec = &d->exec;
    d->call.out = d->result;
    if (k ? k->layout == QP_ELEMENTWISE : op->elementwise) direct_merge(d);
    (k ? k->run : op->plain)(&d->call);
}

static array guarded_read(const qp_view *v) {
    int64_t n = qp_view_count(v);
    array   a = {.dtype = v->dtype, .ndim = v->ndim, .count = n};
    memcpy(a.shape, v->shape, sizeof a.shape);
    a.value = calloc((size_t)n + 1, sizeof *a.value);
    a.bits = calloc((size_t)n + 1, qp_dtype_bytes(v->dtype));
    for (int64_t i = 0; i < n; i++) a.value[i] = qp_load(v, i);
    if (n) memcpy(a.bits, v->data, qp_dtype_size(v->dtype, n));
    return a;
}

/* Also the definition: k NULL. */
static void check_direct(const op_case *c, qp_ctx *ctx, const qp_kernel *k, const results *expected) {
    const qp_op *op = c->op;
    qp_scope     s = qp_enter(ctx);
    direct       d;
    results      r = {0};
    direct_open(&d, ctx, c);
    bool runs = !qp_failed(ctx) && (!k || (k->takes ? k->takes : every_float_is_f32)(&d.call));
    if (runs) direct_run(&d, ctx, c, k);
    r.failed = qp_failed(ctx);
    snprintf(r.error, sizeof r.error, "%s", qp_error(ctx));
    qp_clear(ctx);
    for (int i = 0; i < op->nout && runs && !r.failed; i++) r.a[r.n++] = guarded_read(&d.shaped[i]);
    for (int i = 1; i < c->nin && runs && !r.failed; i++)
        if ((op->mutates >> i & 1) && d.x.memory[i].view.data) r.a[r.n++] = guarded_read(&d.x.memory[i].view);
    const char *who = k ? "kernel" : "definition";
    if (!inputs_intact(&d.x, op)) complain(c, "%s: wrote into or around an input", who);
    if (!guarded_intact(&d.scratch, true)) complain(c, "%s: wrote beyond its scratch", who);
    for (int i = 0; i < op->nout; i++)
        if (!guarded_intact(&d.out[i], true)) complain(c, "%s: wrote around output %d", who, i);
    if (runs && k) compare_bits(c, "kernel in watched memory", &r, expected);
    if (runs && !k) compare(c, "definition in watched memory", &r, expected, 2 * tolerance_of(c));
    results_free(&r);
    qp_leave(s);
    inputs_free(&d.x);
    guarded_free(&d.scratch);
    for (int i = 0; i < op->nout; i++) guarded_free(&d.out[i]);
}

/* ---- Broadcast inputs: stride 0 against the same values written out ------------------------------------ */

static void check_expanded(const op_case *c, qp_ctx *ctx, int i, int axis) {
    op_case same = *c;
    input  *in = &same.in[i];
    int64_t inner = 1, size = in->shape[axis];
    for (int a = axis + 1; a < in->ndim; a++) inner *= in->shape[a];
    in->value = malloc((size_t)(in->count + 1) * sizeof *in->value);
    for (int64_t k = 0; k < in->count; k++)
        in->value[k] = c->in[i].value[k / (inner * size) * inner * size + k % inner];
    results written_out = run_case(ctx, c->op, &same, PLAIN_FORM), r = {0};

    qp_scope  s = qp_enter(ctx);
    inputs    x;
    qp_tensor out[QP_MAX_OUT];
    inputs_make(&x, ctx, &same, PLAIN_FORM);
    qpi_slot *slot = qpi_resolve(x.tensor[i], "test"); /* steps over its repetitions */
    for (int64_t k = 0; k < in->count; k++)
        if (k / inner % size) qp_store(&slot->value.view, k, NAN);
    slot->value.view.stride[axis] = 0;
    memcpy(x.memory[i].before, x.memory[i].buffer, x.memory[i].bytes);
    qp_apply_many(c->op, x.n, x.tensor, c->sample->attr, out);
    r.failed = qp_failed(ctx);
    snprintf(r.error, sizeof r.error, "%s", qp_error(ctx));
    qp_clear(ctx);
    for (int k = 0; k < c->op->nout && !r.failed; k++) r.a[r.n++] = array_read(out[k]);
    compare(c, "expanded input", &r, &written_out, tolerance_of(c));
    if (!inputs_intact(&x, c->op)) complain(c, "expanded input %d: wrote into an input", i);
    qp_leave(s);
    inputs_free(&x);
    results_free(&r);
    results_free(&written_out);
    free(in->value);
}

/* ---- Types: an op may decline one, or compute with it ---------------------------------------------- */

/* The values as the 16-bit type holds them. */
static void round_to(op_case *to, const op_case *from, qp_dtype t, int only) {
    *to = *from;
    for (int i = 0; i < to->nin; i++) {
        input *in = &to->in[i];
        if (in->ndim < 0) continue;
        in->value = malloc((size_t)(in->count + 1) * sizeof *in->value);
        memcpy(in->value, from->in[i].value, (size_t)in->count * sizeof *in->value);
        if (input_dtype(in, (form){.floats = t}) != t || (only >= 0 && only != i)) continue;
        uint16_t half;
        qp_view  v = {.data = &half, .dtype = t};
        for (int64_t k = 0; k < in->count; k++) {
            qp_store(&v, 0, in->value[k]);
            in->value[k] = qp_load(&v, 0);
        }
    }
}

static void check_halves(const op_case *c, qp_isa isa, qp_dtype t, int only) {
    op_case rounded;
    round_to(&rounded, c, t, only);
    if (only >= 0) /* the others stay f32 */
        for (int i = 0; i < c->nin; i++) rounded.in[i].constant |= i != only && is_float_input(&c->in[i]);
    form    f = {t, QP_I64, LAYOUT_FLAT, -1};
    results r = run_case(context_of(isa, 0), c->op, &rounded, f);
    if (!r.failed) {
        for (int i = 0; i < c->nin; i++) rounded.in[i].constant = c->in[i].constant;
        qp_op   definition = definition_of(c->op);
        results exact = run_case(context_of(QP_ISA_BASE, 0), &definition, &rounded, f64_form);
        double  tolerance = 4 * tolerance_of(c), unit = t == QP_BF16 ? 0x1p-6 : 0x1p-9;
        if (c->op->mutates) unit *= 2; /* rounded with each addition */
        for (int i = 0; i < r.n; i++)
            if (r.a[i].dtype == t && unit > tolerance) tolerance = unit;
        char text[96];
        label(text, sizeof text, isa, f, only < 0 ? "" : " alone");
        if (!exact.failed) compare(c, text, &r, &exact, tolerance);
        results_free(&exact);
    }
    results_free(&r);
    case_free(&rounded);
}

static void check_types(const op_case *c, qp_isa isa, const results *expected) {
    form     narrow = {QP_F32, QP_I32, LAYOUT_FLAT, -1};
    qp_dtype halves[] = {QP_BF16, QP_F16};
    bool     integers = false;
    int      floats = 0;
    for (int i = 0; i < c->nin; i++) {
        integers |= strchr("iot", c->in[i].kind) != NULL;
        floats += gets_gradient(&c->in[i]);
    }
    if (integers) {
        results r = run_case(context_of(isa, 0), c->op, c, narrow);
        if (!r.failed) compare(c, "i32 for i64", &r, expected, tolerance_of(c));
        results_free(&r);
    }
    for (int h = 0; h < 2 && floats; h++) {
        check_halves(c, isa, halves[h], -1);
        for (int i = 0; i < c->nin && floats > 1; i++)
            if (gets_gradient(&c->in[i])) check_halves(c, isa, halves[h], i);
    }
}

/* ---- One case ----------------------------------------------------------------------------------------------- */

static void check_threads(const op_case *c, qp_isa isa, const results *single) {
    for (int t = 0; t < THREAD_COUNTS; t++) {
        char    text[64];
        results r = run_case(context_of(isa, t), c->op, c, PLAIN_FORM);
        snprintf(text, sizeof text, "%s with %d threads", isa_name(isa), thread_counts[t]);
        compare_bits(c, text, &r, single);
        results_free(&r);
    }
}

static void check_layouts(const op_case *c, qp_isa isa, const results *expected) {
    for (layout l = LAYOUT_OFFSET; l < LAYOUT_COUNT; l++) {
        check_form(c, expected, isa, (form){QP_F32, QP_I64, l, -1}, tolerance_of(c));
        for (int i = 0; i < c->nin && c->nin > 1; i++)
            check_form(c, expected, isa, (form){QP_F32, QP_I64, l, i}, tolerance_of(c));
    }
    for (int i = 0; i < c->nin; i++)
        for (int a = 0; a < c->in[i].ndim; a++)
            if (c->in[i].shape[a] > 1 && c->in[i].count && !(c->op->mutates >> i & 1) &&
                is_float_input(&c->in[i]))
                check_expanded(c, context_of(isa, 0), i, a);
}

static void check_definition(const op_case *c, const results *expected) {
    qp_op definition = definition_of(c->op);
    for (layout l = LAYOUT_FLAT; l < LAYOUT_COUNT && !c->op->view; l++) {
        results r = run_case(context_of(QP_ISA_BASE, 0), &definition, c, (form){QP_F64, QP_I64, l, -1});
        compare(c, "definition in f64, another layout", &r, expected, 1e-14);
        results_free(&r);
    }
    results r = run_case(context_of(QP_ISA_BASE, 0), &definition, c, PLAIN_FORM);
    compare(c, "definition in f32", &r, expected, fmax(tolerance_of(c), 2e-6));
    results_free(&r);
}

static void check_isa(const op_case *c, qp_isa isa, const results *expected, bool thorough) {
    qp_ctx *ctx = context_of(isa, 0);
    char    text[64];
    results fast = run_case(ctx, c->op, c, PLAIN_FORM), wide;
    snprintf(text, sizeof text, "%s f32", isa_name(isa));
    compare(c, text, &fast, expected, tolerance_of(c));
    check_threads(c, isa, &fast);
    if (!c->op->view && qpi_kernel_for(c->op, isa)) check_direct(c, ctx, qpi_kernel_for(c->op, isa), &fast);
    if (!c->op->view && isa == QP_ISA_BASE) check_direct(c, ctx, NULL, &fast);
    if (thorough) {
        wide = run_case(ctx, c->op, c, f64_form);
        snprintf(text, sizeof text, "%s f64", isa_name(isa));
        compare(c, text, &wide, expected, 1e-13);
        results_free(&wide);
        check_layouts(c, isa, expected);
        check_types(c, isa, expected);
    }
    results_free(&fast);
}

static void check_case(const op_case *c) {
    qp_op   definition = definition_of(c->op);
    results expected = run_case(context_of(QP_ISA_BASE, 0), &definition, c, f64_form);
    if (expected.failed) complain(c, "definition in f64: %s", expected.error);
    else check_definition(c, &expected);
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa() && !expected.failed; isa++)
        check_isa(c, isa, &expected, true);
    results_free(&expected);
    for (int which = 0; which < 3; which++) {
        op_case larger;
        if (!case_enlarge(&larger, c, which)) continue;
        expected = run_case(context_of(QP_ISA_BASE, 0), &definition, &larger, f64_form);
        for (qp_isa isa = first_isa; isa <= qpi_cpu_isa() && !expected.failed; isa++)
            check_isa(&larger, isa, &expected, false);
        results_free(&expected);
        case_free(&larger);
    }
}

/* ---- The descriptor -------------------------------------------------------------------------------------------- */

static void check_descriptor(const qp_op *op) {
    op_case c = {.op = op, .sample = &(qp_sample){.in = "the descriptor"}};
    if (!op->name || !op->source) complain(&c, "no name or source");
    if (qp_op_find(op->name) != op) complain(&c, "another op has this name");
    if (op->min_in < 1 || op->max_in < op->min_in || op->max_in > QP_MAX_IN) complain(&c, "numbers of inputs");
    if (op->nout < 1 || op->nout > QP_MAX_OUT) complain(&c, "number of outputs");
    if (op->attr_bytes > QP_MAX_ATTR) complain(&c, "attributes are too large");
    if (!op->plain && !op->view) complain(&c, "no definition");
    if (op->view && op->nout != 1) complain(&c, "a view has one output");
    if (op->mutates && (op->nout != 1 || !(op->mutates & 1) || op->backward)) complain(&c, "mutates");
    if (!op->shape && op->nout != 1 && !op->mutates) complain(&c, "no shape rule");
    for (int i = 0; i < 32; i++)
        if ((op->saves >> i & 1) &&
            (i < 24 ? i >= op->max_in && op->saves << 8 != QP_SAVE_ALL_IN << 8 : i - 24 >= op->nout))
            complain(&c, "saves a value that it has not");
    for (int j = 0; j < QP_MAX_OUT; j++)
        if ((op->hidden & QP_SAVE_OUT(j)) && j >= op->nout) complain(&c, "hides an output that it has not");
    if (op->saves && !op->backward) complain(&c, "saves without a gradient rule");
    if (!op->samples || !op->samples[0].in) complain(&c, "no samples");
}

static void test(const qp_op *op) {
    check_descriptor(op);
    each_case(op, check_case);
}

int main(int argc, char **argv) { return run_ops(argc, argv, test); }
