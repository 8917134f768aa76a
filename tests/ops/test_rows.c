/* A row's result does not depend on how many rows share the call: for each sample and each leading
 * axis, where the definition computes rows by themselves (the definition of one row gives the bits
 * of that row among 64), kernels must, too, for any number of rows. */
#include "harness.h"

enum { ROWS = 64 };
static const int counts[] = {1, 2, 3, 7, 8, 16, 33, 64};
static const int looked_at[] = {0, 1, 2, 6, 7, 12, 15, 32, 63};
enum { COUNTS = sizeof counts / sizeof *counts, LOOKED_AT = sizeof looked_at / sizeof *looked_at };

/* Rows first..first+n-1 of the inputs in the set, along the axis. */
static op_case cut(const op_case *from, uint32_t set, int axis, int64_t first, int64_t n) {
    op_case c = *from;
    for (int i = 0; i < c.nin; i++) {
        input       *in = &c.in[i];
        const input *whole = &from->in[i];
        if (in->ndim < 0) continue;
        int64_t inner = 1, outer = 1, size = set >> i & 1 ? n : 0;
        for (int a = 0; a < in->ndim && size; a++)
            *(a < axis ? &outer : &inner) *= a == axis ? 1 : in->shape[a];
        if (size) {
            in->shape[axis] = n;
            in->count = outer * n * inner;
        }
        in->value = malloc((size_t)(in->count + 1) * sizeof *in->value);
        if (!size) memcpy(in->value, whole->value, (size_t)in->count * sizeof *in->value);
        for (int64_t o = 0; o < outer && size; o++)
            memcpy(in->value + o * n * inner, whole->value + (o * whole->shape[axis] + first) * inner,
                   (size_t)(n * inner) * sizeof *in->value);
    }
    return c;
}

static results run_rows(qp_ctx *ctx, const qp_op *op, const op_case *all, uint32_t set, int axis, int64_t first,
                        int64_t n, qp_dtype floats) {
    op_case c = cut(all, set, axis, first, n);
    form    f = PLAIN_FORM;
    f.floats = floats;
    results r = run_case(ctx, op, &c, f);
    case_free(&c);
    return r;
}

/* Is `one` row r of `many`, bit for bit? Outputs without the axis must be equal. */
static bool is_row(const qp_op *op, const results *many, const results *one, int axis, int64_t rows,
                   int64_t r) {
    for (int k = 0; k < one->n; k++) {
        const array *a = &many->a[k], *b = &one->a[k];
        if (op->hidden & QP_SAVE_OUT(k)) continue;
        if (a->ndim <= axis || a->shape[axis] != rows || b->shape[axis] != 1) {
            if (!same_bits(a, b)) return false;
            continue;
        }
        int64_t inner = 1, outer = 1;
        for (int x = 0; x < a->ndim; x++)
            if (x != axis) *(x < axis ? &outer : &inner) *= a->shape[x];
        size_t bytes = (size_t)inner * qp_dtype_bytes(a->dtype);
        if (b->count != outer * inner || a->dtype != b->dtype) return false;
        for (int64_t o = 0; o < outer; o++)
            if (memcmp((char *)a->bits + (size_t)(o * rows + r) * bytes, (char *)b->bits + (size_t)o * bytes,
                       bytes))
                return false;
    }
    return one->n > 0;
}

/* Does the first output have the rows? Otherwise there is nothing to say. */
static bool has_rows(const results *r, int axis, int64_t rows) {
    return !r->failed && r->n > 0 && r->a[0].ndim > axis && r->a[0].shape[axis] == rows && r->a[0].count > 0;
}

static int  found;    /* ways in which the op has rows */
static bool has_axes; /* does it have outputs that could? */

static bool defined_by_rows(const op_case *all, uint32_t set, int axis) {
    qp_op   definition = definition_of(all->op);
    qp_ctx *ctx = context_of(QP_ISA_BASE, 0);
    results many = run_rows(ctx, &definition, all, set, axis, 0, ROWS, QP_F64);
    bool    ok = has_rows(&many, axis, ROWS);
    has_axes |= !many.failed && many.a[0].ndim > 0;
    for (int i = 0; i < LOOKED_AT && ok; i += 2) {
        results one = run_rows(ctx, &definition, all, set, axis, looked_at[i], 1, QP_F64);
        ok = !one.failed && is_row(all->op, &many, &one, axis, ROWS, looked_at[i]);
        results_free(&one);
    }
    results_free(&many);
    return ok;
}

static void check_kernels(const op_case *all, uint32_t set, int axis, qp_isa isa, qp_dtype autocast) {
    qp_ctx *ctx = context_of(isa, 0);
    qp_autocast(ctx, autocast);
    results one[LOOKED_AT];
    for (int i = 0; i < LOOKED_AT; i++)
        one[i] = run_rows(ctx, all->op, all, set, axis, looked_at[i], 1, QP_F32);
    for (int n = 0; n < COUNTS; n++) {
        results many = run_rows(ctx, all->op, all, set, axis, 0, counts[n], QP_F32);
        for (int i = 0; i < LOOKED_AT && looked_at[i] < counts[n]; i++)
            if (many.failed || one[i].failed ||
                !is_row(all->op, &many, &one[i], axis, counts[n], looked_at[i])) {
                complain(all, "%s, autocast to %s: row %d of %d along axis %d has other bits than alone",
                         isa_name(isa), qp_dtype_name(autocast), looked_at[i], counts[n], axis);
                break;
            }
        results_free(&many);
    }
    for (int i = 0; i < LOOKED_AT; i++) results_free(&one[i]);
    qp_autocast(ctx, QP_F32);
}

/* The case with ROWS rows in the inputs of the set. */
static bool widen(op_case *to, const op_case *from, uint32_t set, int axis) {
    int64_t total = 0;
    *to = *from;
    for (int i = 0; i < to->nin; i++) {
        input *in = &to->in[i];
        if (in->ndim < 0) continue;
        if (set >> i & 1) in->shape[axis] = ROWS;
        in->count = 1;
        for (int a = 0; a < in->ndim; a++) in->count *= in->shape[a];
        total += in->count;
    }
    return total < 400000 && case_refill(to);
}

/* Inputs of one size along the axis may have its rows: the first set of them, the largest first,
 * that the definition takes row by row; 0 if there is none. */
static uint32_t check_size(const op_case *c, int axis, int64_t size, uint32_t among) {
    static const qp_dtype types[] = {QP_F32, QP_BF16, QP_F16};
    uint32_t              candidates = 0;
    for (int i = 0; i < c->nin && i < 8; i++)
        if (c->in[i].ndim > axis && c->in[i].shape[axis] == size &&
            !(c->in[i].kind == 'w' && axis == c->in[i].ndim - 1))
            candidates |= among & 1u << i; /* blocks are not cut */
    for (uint32_t set = candidates; set; set = (set - 1) & candidates) {
        op_case all;
        if (!widen(&all, c, set, axis)) continue;
        bool defined = defined_by_rows(&all, set, axis);
        for (qp_isa isa = first_isa; isa <= qpi_cpu_isa() && defined; isa++)
            for (int t = 0; t < (c->op->autocast ? 3 : 1); t++) check_kernels(&all, set, axis, isa, types[t]);
        found += defined;
        case_free(&all);
        if (defined) return set;
    }
    return 0;
}

/* The inputs that have rows along the axis. */
static uint32_t check_axis(const op_case *c, int axis, uint32_t among) {
    uint32_t sets = 0;
    for (int i = 0; i < c->nin; i++) {
        int64_t size = c->in[i].ndim > axis ? c->in[i].shape[axis] : 0;
        for (int k = 0; k < i && size; k++)
            if (c->in[k].ndim > axis && c->in[k].shape[axis] == size) size = 0; /* tried already */
        if (size) sets |= check_size(c, axis, size, among);
    }
    return sets;
}

static void check_case(const op_case *c) {
    uint32_t sets = check_axis(c, 0, UINT32_MAX);
    if (sets) check_axis(c, 1, sets); /* an axis leads if those before it do */
    for (int which = 0; which < 2; which++) {
        op_case larger;
        if (!case_enlarge(&larger, c, which)) continue;
        check_axis(&larger, 0, UINT32_MAX);
        case_free(&larger);
    }
}

/* Rows that belong to groups cannot be cut off by themselves: tests/nn/test_experts.c has them. */
static bool has_groups(const qp_op *op) { return op->samples && strstr(op->samples[0].in, " o"); }

static void test(const qp_op *op) {
    op_case c = {.op = op, .sample = &(qp_sample){.in = "all samples"}};
    found = 0;
    has_axes = false;
    if (op->mutates || op->view) return;
    each_case(op, check_case);
    /* products are what the promise is about: a sample must show it */
    if (op->autocast && has_axes && !found && !has_groups(op)) complain(&c, "no sample has rows");
}

int main(int argc, char **argv) { return run_ops(argc, argv, test); }
