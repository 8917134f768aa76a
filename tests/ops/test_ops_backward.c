/* Gradient rules: against differences in f64, then every other way to ask for the same
 * gradients against those. */
#include "harness.h"

/* How gradients are asked for. The zero value with a form: qp_grad of all inputs at once. */
typedef struct {
    form   f;
    layout seeds;  /* layout of the outputs' gradients */
    int    need;   /* 1 + the only input that needs one; 0: all */
    int    output; /* 1 + the only output that has one; 0: all */
    bool   twice;  /* the op is called twice; seeds are split between both */
    bool   walk;   /* qp_backward's walk, into leaves */
    bool   ones;   /* seeds are 1, expanded from one element */
    bool   written_ones;
} how;

static const how reference = {.f = {QP_F64, QP_I64, LAYOUT_FLAT, -1}};

static double weight(int output, int64_t k) { return 0.4 + cos(1.7 * (double)k + 0.6 * output + 0.3); }

/* Does a gradient come to this output? */
static bool differentiates(const qp_op *op, int output, qp_dtype t) {
    return qp_dtype_is_float(t) && !(op->hidden & QP_SAVE_OUT(output));
}

/* ---- Asking ------------------------------------------------------------------------------------------ */

typedef struct {
    int       n;
    guarded   memory[2 * QP_MAX_OUT];
    qp_tensor seed[2 * QP_MAX_OUT], y[2 * QP_MAX_OUT];
} asked;

static void make_seed(asked *q, qp_ctx *ctx, const op_case *c, const how *h, int output, double share) {
    qp_tensor y = q->y[q->n];
    input     as = {.ndim = qp_ndim(y), .count = qp_count(y)};
    q->seed[q->n] = QP_NONE;
    q->memory[q->n] = (guarded){0};
    if (differentiates(c->op, output, qp_dtype_of(y)) && (h->output == 0 || h->output == output + 1)) {
        for (int i = 0; i < as.ndim; i++) as.shape[i] = qp_size(y, i);
        as.value = malloc((size_t)(as.count + 1) * sizeof *as.value);
        for (int64_t k = 0; k < as.count; k++)
            as.value[k] = h->ones || h->written_ones ? 1 : share * (float)weight(output, k);
        q->memory[q->n] = guarded_make(&as, qp_dtype_of(y), h->seeds);
        q->seed[q->n] = guarded_tensor(ctx, &q->memory[q->n]);
        if (h->ones) memset(qpi_resolve(q->seed[q->n], "test")->value.view.stride, 0, sizeof as.shape);
        free(as.value);
    }
    q->n++;
}

static void ask(results *r, qp_ctx *ctx, const op_case *c, const how *h, asked *q, const inputs *x) {
    qp_tensor xs[QP_MAX_IN], dxs[QP_MAX_IN];
    int       nx = 0, of[QP_MAX_IN];
    for (int i = 0; i < c->nin; i++)
        if (gets_gradient(&c->in[i]) && (h->need == 0 || h->need == i + 1)) {
            of[nx] = i;
            xs[nx++] = x->tensor[i];
        }
    if (h->walk) qpi_walk(ctx, q->n, q->y, q->seed, 0, NULL, NULL, false, "test");
    else qp_grad(q->n, q->y, nx, xs, dxs, (qp_grad_options){.seeds = q->seed});
    for (int k = 0; k < nx && !qp_failed(ctx); k++) {
        qp_tensor d = h->walk ? qp_grad_of(xs[k]) : dxs[k];
        if (qp_is_none(d))
            d = qp_zeros(ctx, qp_dtype_of(xs[k]), qp_ndim(xs[k]), qpi_resolve(xs[k], "")->value.view.shape);
        r->a[of[k]] = array_read(d);
        if (r->a[of[k]].dtype != qp_dtype_of(xs[k]))
            complain(c, "the gradient of input %d has another type", of[k]);
    }
}

/* Gradients by input; those not asked for have no values. */
static results gradients(qp_ctx *ctx, const op_case *c, how h) {
    results  r = {.n = c->nin};
    inputs   x;
    asked    q = {0};
    qp_scope s = qp_enter(ctx);
    inputs_make(&x, ctx, c, h.f);
    for (int i = 0; i < c->nin; i++)
        if (gets_gradient(&c->in[i]) && (h.need == 0 || h.need == i + 1)) qp_require_grad(x.tensor[i], true);
    for (int call = 0; call < 1 + h.twice; call++) {
        qp_apply_many(c->op, x.n, x.tensor, c->sample->attr, q.y + q.n);
        for (int j = 0; j < c->op->nout && !qp_failed(ctx); j++)
            make_seed(&q, ctx, c, &h, j, !h.twice ? 1 : call ? 0.75 : 0.25);
    }
    array before = {0}, after = {0};
    if (!qp_failed(ctx)) {
        before = array_read(q.y[0]);
        ask(&r, ctx, c, &h, &q, &x);
    }
    r.failed = qp_failed(ctx);
    snprintf(r.error, sizeof r.error, "%s", qp_error(ctx));
    qp_clear(ctx);
    if (!r.failed) after = array_read(q.y[0]);
    if (!r.failed && !same_bits(&before, &after)) complain(c, "backward changed the op's output");
    array_free(&before);
    array_free(&after);
    if (!inputs_intact(&x, c->op)) complain(c, "backward wrote into or around an input");
    for (int j = 0; j < q.n; j++)
        if (!guarded_intact(&q.memory[j], false))
            complain(c, "backward wrote into or around an output's gradient");
    qp_leave(s);
    inputs_free(&x);
    for (int j = 0; j < q.n; j++) guarded_free(&q.memory[j]);
    return r;
}

static void check_how(const op_case *c, const char *what, qp_ctx *ctx, how h, const results *expected,
                      double tolerance) {
    char    text[128];
    results r = gradients(ctx, c, h), wanted = *expected;
    snprintf(text, sizeof text, "%s, %s", what, qp_dtype_name(h.f.floats));
    for (int i = 0; i < c->nin; i++)
        if (h.need && h.need != i + 1) wanted.a[i] = (array){0};
    compare_from(c, text, &r, &wanted, tolerance, h.ones ? 1 : h.f.floats == QP_F32 ? 0.2 : 1e-2);
    results_free(&r);
}

/* ---- Differences ---------------------------------------------------------------------------------------- */

typedef struct {
    const op_case *c;
    qp_ctx        *ctx;
    qp_op          definition;
    inputs         x;
} probe;

/* All differentiable outputs, one behind the other. */
static double *evaluate(probe *p, int64_t *count) {
    qp_tensor out[QP_MAX_OUT];
    qp_scope  s = qp_enter(p->ctx);
    double   *v = NULL;
    *count = 0;
    qp_apply_many(&p->definition, p->x.n, p->x.tensor, p->c->sample->attr, out);
    for (int j = 0; j < p->definition.nout && !qp_failed(p->ctx); j++) {
        int64_t n = qp_count(out[j]);
        if (!differentiates(p->c->op, j, qp_dtype_of(out[j]))) continue;
        v = realloc(v, (size_t)(*count + n + 1) * sizeof *v);
        if (qp_read(out[j], QP_F64, v + *count, n) != QP_OK) break;
        for (int64_t k = 0; k < n; k++) v[*count + k] *= (float)weight(j, k);
        *count += n;
    }
    qp_leave(s);
    return v;
}

static double difference(double a, double b) { return a == b ? 0 : a - b; } /* infinite, too */

/* d/dt of the weighted sum of outputs as input i moves along v: four points. */
static double slope(probe *p, int i, const double *v) {
    static const double at[] = {-2, -1, 1, 2}, factor[] = {1, -8, 8, -1};
    const double        h = 3e-4;
    const input        *in = &p->c->in[i];
    double             *f[4], sum = 0;
    int64_t             n = 0;
    for (int k = 0; k < 4; k++) {
        for (int64_t e = 0; e < in->count; e++)
            qp_store(&p->x.memory[i].view, e, in->value[e] + at[k] * h * v[e]);
        f[k] = evaluate(p, &n);
    }
    for (int64_t e = 0; e < n; e++) /* differences first: equal values cancel exactly */
        sum += factor[2] * difference(f[2][e], f[1][e]) + factor[0] * difference(f[0][e], f[3][e]);
    for (int k = 0; k < 4; k++) free(f[k]);
    for (int64_t e = 0; e < in->count; e++) qp_store(&p->x.memory[i].view, e, in->value[e]);
    return sum / (12 * h);
}

static void judge_slope(const op_case *c, int i, const char *what, int64_t e, double got, double expected,
                        double scale) {
    if (!(fabs(got - expected) <= 1e-6 * fmax(scale, 1e-3)))
        complain(c, "gradient of input %d, %s %lld: %.9g, by differences %.9g (scale %.3g)", i, what,
                 (long long)e, got, expected, scale);
}

static void check_differences(const op_case *c, const results *g) {
    probe p = {c, context_of(QP_ISA_BASE, 0), definition_of(c->op), {0}};
    bool  before = qp_no_grad(p.ctx, true);
    inputs_make(&p.x, p.ctx, c, reference.f);
    for (int i = 0; i < c->nin; i++) {
        const array *a = &g->a[i];
        if (!gets_gradient(&c->in[i]) || a->count == 0) continue;
        double *v = calloc((size_t)a->count, sizeof *v), most = 0, norm = 0;
        for (int64_t e = 0; e < a->count; e++) {
            most = fmax(most, fabs(a->value[e]));
            norm += a->value[e] * a->value[e];
        }
        int64_t step = a->count > 24 ? a->count / 12 | 1 : 1; /* a dozen of the many */
        for (int64_t e = 0; e < a->count; e += step) {
            v[e] = 1;
            judge_slope(c, i, "element", e, a->value[e], slope(&p, i, v), most);
            v[e] = 0;
        }
        for (int d = 0; d < 2; d++) { /* and all together */
            double along = 0;
            for (int64_t e = 0; e < a->count; e++) {
                v[e] = 1.4 * sin(12.9 * (double)e + 7 * d + 1);
                along += v[e] * a->value[e];
            }
            judge_slope(c, i, "direction", d, along, slope(&p, i, v), sqrt(norm));
        }
        free(v);
    }
    if (qp_failed(p.ctx)) complain(c, "differences: %s", qp_error(p.ctx));
    qp_clear(p.ctx);
    inputs_free(&p.x);
    qp_no_grad(p.ctx, before);
}

/* ---- One case ---------------------------------------------------------------------------------------------- */

static void check_partial(const op_case *c, const results *g, qp_ctx *ctx) {
    for (int i = 0; i < c->nin; i++) {
        how h = reference;
        h.need = i + 1;
        if (gets_gradient(&c->in[i])) check_how(c, "one input alone", ctx, h, g, 1e-12);
    }
    if (c->op->nout < 2) return;
    results sum = {.n = c->nin};
    for (int j = 0; j < c->op->nout; j++) {
        how h = reference;
        h.output = j + 1;
        results r = gradients(ctx, c, h);
        if (r.failed) complain(c, "output %d alone: %s", j, r.error);
        for (int i = 0; i < c->nin && !r.failed; i++) {
            for (int64_t k = 0; k < sum.a[i].count; k++) r.a[i].value[k] += sum.a[i].value[k];
            array_free(&sum.a[i]);
            sum.a[i] = r.a[i];
        }
        if (r.failed) results_free(&r);
    }
    compare(c, "outputs one by one", &sum, g, 1e-12);
    results_free(&sum);
}

static void check_ways(const op_case *c, const results *g, qp_ctx *ctx, qp_dtype floats, double tolerance) {
    how h = reference;
    h.f.floats = floats;
    check_how(c, "qp_grad", ctx, h, g, tolerance);
    h.walk = true;
    check_how(c, "qp_backward", ctx, h, g, tolerance);
    h.twice = true;
    check_how(c, "two uses, qp_backward", ctx, h, g, tolerance);
    h.walk = false;
    check_how(c, "two uses, qp_grad", ctx, h, g, tolerance);
    h.twice = false;
    for (layout l = LAYOUT_OFFSET; l < LAYOUT_COUNT; l++) {
        h.seeds = l;
        check_how(c, "strided gradient of the output", ctx, h, g, tolerance);
        h.seeds = LAYOUT_FLAT;
        h.f.layout = l;
        check_how(c, "strided inputs", ctx, h, g, tolerance);
        h.f.layout = LAYOUT_FLAT;
    }
    how written = reference;
    written.written_ones = true;
    results ones = gradients(ctx, c, written);
    h.ones = true;
    check_how(c, "expanded gradient of the output", ctx, h, &ones, tolerance);
    results_free(&ones);
}

static void check_threads(const op_case *c, qp_isa isa) {
    how h = reference;
    h.f.floats = QP_F32;
    h.walk = true;
    results single = gradients(context_of(isa, 0), c, h);
    for (int t = 1; t < THREAD_COUNTS; t++) {
        char    text[64];
        results r = gradients(context_of(isa, t), c, h);
        snprintf(text, sizeof text, "gradients on %s with %d threads", isa_name(isa), thread_counts[t]);
        if (!single.failed)
            for (int i = 0; i < r.n; i++) /* absent ones compare as empty */
                if (!gets_gradient(&c->in[i])) r.a[i].dtype = single.a[i].dtype;
        compare_bits(c, text, &r, &single);
        results_free(&r);
    }
    results_free(&single);
}

static size_t held(qp_ctx *ctx) { return qp_stats_of(ctx).bytes; }

static void check_case(const op_case *c) {
    bool any = false;
    for (int i = 0; i < c->nin; i++) any |= gets_gradient(&c->in[i]);
    if (!c->op->backward || c->sample->no_grad || !any) return;
    qp_ctx *ctx = context_of(QP_ISA_BASE, 0);
    results g = gradients(ctx, c, reference);
    size_t  before = held(ctx);
    if (g.failed) {
        complain(c, "backward in f64: %s", g.error);
        results_free(&g);
        return;
    }
    check_differences(c, &g);
    check_partial(c, &g, ctx);
    check_ways(c, &g, ctx, QP_F64, 1e-12);
    how     h = reference;
    results again = gradients(ctx, c, h);
    if (held(ctx) > before) complain(c, "%zu bytes stay behind", held(ctx) - before);
    results_free(&again);
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++) {
        check_ways(c, &g, context_of(isa, 0), QP_F32, 5 * tolerance_of(c));
        check_threads(c, isa);
    }
    results_free(&g);
    for (int which = 0; which < 2; which++) {
        op_case larger;
        if (!case_enlarge(&larger, c, which)) continue;
        g = gradients(ctx, &larger, reference);
        if (g.failed) complain(&larger, "backward in f64: %s", g.error);
        for (qp_isa isa = first_isa; isa <= qpi_cpu_isa() && !g.failed; isa++) {
            h.f.floats = QP_F32;
            check_how(&larger, isa_name(isa), context_of(isa, 0), h, &g, 5 * tolerance_of(&larger));
            check_threads(&larger, isa);
        }
        results_free(&g);
        case_free(&larger);
    }
}

static void test(const qp_op *op) { each_case(op, check_case); }

int main(int argc, char **argv) { return run_ops(argc, argv, test); }
