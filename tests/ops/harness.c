/* Running, judging, the program's frame. */
#include "harness.h"
#include "core/isa.h"

/* ---- Results -------------------------------------------------------------------------------------- */

array array_read(qp_tensor t) {
    array a = {.dtype = qp_dtype_of(t), .ndim = qp_ndim(t), .count = qp_count(t)};
    for (int i = 0; i < a.ndim; i++) a.shape[i] = qp_size(t, i);
    a.value = calloc((size_t)a.count + 1, sizeof *a.value);
    a.bits = calloc((size_t)a.count + 1, qp_dtype_bytes(a.dtype));
    if (qp_read(t, QP_F64, a.value, a.count) != QP_OK || qp_read(t, a.dtype, a.bits, a.count) != QP_OK)
        for (int64_t i = 0; i < a.count; i++) a.value[i] = NAN;
    return a;
}

void array_free(array *a) {
    free(a->value);
    free(a->bits);
    *a = (array){0};
}

void results_free(results *r) {
    for (int i = 0; i < r->n; i++) array_free(&r->a[i]);
    r->n = 0;
}

qp_op definition_of(const qp_op *op) {
    qp_op plain = *op; /* not in the registry: no kernels */
    plain.kernel = (qp_kernel){0};
    return plain;
}

results run_case(qp_ctx *ctx, const qp_op *op, const op_case *c, form f) {
    results   r = {0};
    inputs    x;
    qp_tensor out[QP_MAX_OUT];
    qp_scope  s = qp_enter(ctx);
    inputs_make(&x, ctx, c, f);
    qp_apply_many(op, x.n, x.tensor, c->sample->attr, out);
    r.failed = qp_failed(ctx);
    r.code = qp_error_code(ctx);
    snprintf(r.error, sizeof r.error, "%s", qp_error(ctx));
    qp_clear(ctx);
    for (int i = 0; i < op->nout && !r.failed; i++) r.a[r.n++] = array_read(out[i]);
    for (int i = 1; i < x.n && !r.failed; i++)
        if ((op->mutates >> i & 1) && !qp_is_none(x.tensor[i])) r.a[r.n++] = array_read(x.tensor[i]);
    for (int i = 0; i < op->nout && r.failed; i++)
        if (!qpi_is_poison(out[i])) complain(c, "failed (%s) but output %d is no poison", r.error, i);
    if (!inputs_intact(&x, op))
        complain(c, "wrote outside its outputs (%s, layout %d)", qp_dtype_name(f.floats), f.layout);
    qp_leave(s);
    inputs_free(&x);
    return r;
}

/* ---- Judging ---------------------------------------------------------------------------------------- */

static int complaints;
enum { PRINTED = 12 };

void complain(const op_case *c, const char *format, ...) {
    char    text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (complaints++ >= PRINTED) return;
    print_error("%s, sample %d \"%s\"%s: %s\n", c->op->name, (int)(c->sample - c->op->samples), c->sample->in,
                c->larger ? ", enlarged" : "", text);
}

static bool same_shape(const array *a, const array *b) {
    return a->ndim == b->ndim && !memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape);
}

double relative_error(const array *a, const array *b, double least) {
    double most = 0, scale = least;
    if (!same_shape(a, b)) return INFINITY;
    for (int64_t i = 0; i < a->count; i++) {
        double x = a->value[i], y = b->value[i];
        if (isfinite(y) && fabs(y) > scale) scale = fabs(y);
        if ((isnan(x) && isnan(y)) || x == y) continue;
        if (!isfinite(x) || !isfinite(y)) return INFINITY;
        if (fabs(x - y) > most) most = fabs(x - y);
    }
    return most / scale;
}

bool same_bits(const array *a, const array *b) {
    return a->dtype == b->dtype && same_shape(a, b) &&
           (!a->count || !memcmp(a->bits, b->bits, (size_t)a->count * qp_dtype_bytes(a->dtype)));
}

static bool both_ran(const op_case *c, const char *what, const results *got, const results *expected) {
    if (got->failed && !expected->failed) complain(c, "%s: failed: %s", what, got->error);
    if (!got->failed && expected->failed) complain(c, "%s: did not fail: %s", what, expected->error);
    return !got->failed && !expected->failed;
}

void compare(const op_case *c, const char *what, const results *got, const results *expected,
             double tolerance) {
    compare_from(c, what, got, expected, tolerance, 1e-3);
}

void compare_from(const op_case *c, const char *what, const results *got, const results *expected,
                  double tolerance, double least) {
    if (!both_ran(c, what, got, expected)) return;
    for (int i = 0; i < got->n; i++) {
        const array *a = &got->a[i], *b = &expected->a[i];
        bool         exact = !qp_dtype_is_float(b->dtype);
        double       limit = exact ? 0 : tolerance, e = relative_error(a, b, exact ? 1 : least);
        if (e <= limit) continue;
        int64_t worst = 0, n = same_shape(a, b) ? a->count : 0;
        for (int64_t k = 0; k < n; k++)
            if (!(fabs(a->value[k] - b->value[k]) <= fabs(a->value[worst] - b->value[worst]))) worst = k;
        complain(c, "%s: result %d differs by %.3g (at most %.3g); element %lld of %lld is %.9g, expected %.9g",
                 what, i, e, limit, (long long)worst, (long long)n, n ? a->value[worst] : 0,
                 n ? b->value[worst] : 0);
    }
}

void compare_bits(const op_case *c, const char *what, const results *got, const results *expected) {
    if (!both_ran(c, what, got, expected)) return;
    for (int i = 0; i < got->n; i++)
        if (!same_bits(&got->a[i], &expected->a[i]))
            complain(c, "%s: result %d has other bits (relative difference %.3g)", what, i,
                     relative_error(&got->a[i], &expected->a[i], 1e-30));
}

/* ---- Contexts and the program ------------------------------------------------------------------------ */

const int      thread_counts[THREAD_COUNTS] = {1, 2, 5};
qp_isa         first_isa = QP_ISA_BASE;
static qp_ctx *contexts[QP_ISA_AVX512 + 1][THREAD_COUNTS];

qp_ctx *context_of(qp_isa isa, int which) { return contexts[isa][which]; }
const char *isa_name(qp_isa isa) {
    return isa == QP_ISA_BASE ? "base" : isa == QP_ISA_AVX2 ? "avx2" : "avx512";
}

int open_contexts(void **state) {
    (void)state;
    if (getenv("QUIPU_TEST_WITHOUT_EXTRAS")) {
        qpi_cpu_without_extras();
        first_isa = QP_ISA_AVX512; /* the others have none */
    }
    for (qp_isa isa = QP_ISA_BASE; isa <= qpi_cpu_isa(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            contexts[isa][t] =
                qp_open((qp_options){.threads = thread_counts[t], .isa = isa, .memory_cap = 1u << 30});
            if (!contexts[isa][t]) return -1;
        }
    return 0;
}

int close_contexts(void **state) {
    (void)state;
    for (qp_isa isa = QP_ISA_BASE; isa <= QP_ISA_AVX512; isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) qp_close(contexts[isa][t]);
    return 0;
}

void each_case(const qp_op *op, void (*test)(const op_case *c)) {
    for (const qp_sample *s = op->samples; s && s->in; s++) {
        op_case c;
        if (case_make(&c, op, s)) test(&c);
        else complain(&c, "the sample's text is not of the language");
        case_free(&c);
    }
}

static void (*test_op)(const qp_op *op);

static void run_one(void **state) {
    complaints = 0;
    test_op(*state);
    if (complaints > PRINTED) print_error("and %d more\n", complaints - PRINTED);
    if (complaints) fail();
}

int run_ops(int argc, char **argv, void (*test)(const qp_op *op)) {
    int count = 0, used = 0;
    while (qp_op_at(count)) count++;
    struct CMUnitTest *tests = calloc((size_t)count + 1, sizeof *tests);
    for (int i = 0; i < count; i++) {
        const qp_op *op = qp_op_at(i);
        bool         wanted = argc < 2;
        for (int k = 1; k < argc; k++) wanted |= !strcmp(argv[k], op->name);
        if (wanted) tests[used++] = (struct CMUnitTest){op->name, run_one, NULL, NULL, (void *)op};
    }
    test_op = test;
    int failed = _cmocka_run_group_tests("ops", tests, (size_t)used, open_contexts, close_contexts);
    free(tests);
    return failed;
}
