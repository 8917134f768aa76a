/* The model's own first module for multi-token prediction as drafter (DeepSeek-V3, arXiv:2412.19437): it
 * reads the model's state at a position and the token behind it, and guesses the one after that; for
 * further ones it reads its own state and guess, as servers do.
 *
 * The module attends to what it had for earlier positions: a state of its own, with rows like the
 * session's. The entry of position p needs token p + 1, so the last position's waits until that is drawn. */
#include <stdlib.h>
#include <string.h>

#include "infer/drafter.h"

#define DEPTH 3
#define WAITING 64 /* positions of a row whose entries are still to be made */

typedef struct {
    qp_drafter base;
    qp_state   states[2]; /* of the module's block */
    int64_t   *first;     /* [rows]: position of the first that waits .. */
    int       *count;     /* .. of so many */
    float     *hidden;    /* [rows, WAITING, D] */
    float     *call;      /* [rows, WAITING, D], of a call */
    int32_t   *ids;
    int64_t   *integers;
    const qpi_chances **from; /* [rows] */
} module;

static qp_model *model_of(const module *x) { return x->base.target->m; }

/* ---- A call of the module ------------------------------------------------------------------------ */

/* For n sequences: their rows, where they begin and how many positions; hidden [n, T, D] and ids [n, T].
 * Gives [n, T, D]. */
static qp_tensor run(module *x, int64_t n, int64_t T, const int64_t *rows, const int64_t *starts, const int64_t *counts,
                     qp_tensor hidden, const int32_t *ids) {
    qp_model   *m = model_of(x);
    qp_ctx     *ctx = m->ctx;
    qp_record   none = {0};
    qp_sequence s = {.in = &none, .before = &none};
    int64_t    *lengths = x->integers + 3 * n, *positions = lengths + n;
    for (int64_t i = 0; i < n; i++) {
        lengths[i] = starts[i] + counts[i];
        if (lengths[i] > s.keys) s.keys = s.length = lengths[i];
        for (int64_t t = 0; t < T; t++) positions[i * T + t] = t < counts[i] ? starts[i] + t : starts[i];
    }
    s.positions = qp_from(ctx, QP_I64, 2, (int64_t[]){n, T}, positions);
    s.counts = qp_from(ctx, QP_I64, 1, &n, counts);
    s.mask.rows = qp_from(ctx, QP_I64, 1, &n, rows);
    s.mask.starts = qp_from(ctx, QP_I64, 1, &n, starts);
    s.mask.lengths = qp_from(ctx, QP_I64, 1, &n, lengths);
    return qpi_mtp_forward(m, 0, hidden, qp_from(ctx, QP_I32, 2, (int64_t[]){n, T}, ids), &s, x->states);
}

/* ---- Reading --------------------------------------------------------------------------------------- */

/* Entries of a long piece at once: those whose next token the row has. */
static void read_long(module *x, int64_t row, int64_t first, int64_t n, qp_tensor hidden) {
    int64_t starts = first, counts = n;
    int64_t D = model_of(x)->width;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    int64_t *integers = malloc((size_t)(n + 8) * sizeof *integers), *own = x->integers;
    if (ids && integers) {
        memcpy(ids, qpi_row_tokens(x->base.target, row) + first + 1, (size_t)n * sizeof *ids);
        x->integers = integers;
        run(x, 1, n, &row, &starts, &counts, qp_reshape(hidden, 3, (int64_t[]){1, n, D}), ids);
        x->integers = own;
    } else {
        qp_fail(model_of(x)->ctx, QP_ERR_MEMORY, "out of memory: drafter");
    }
    free(ids);
    free(integers);
}

static void read_state(qp_drafter *d, int64_t row, int64_t n, qp_tensor hidden) {
    module   *x = (module *)d;
    qp_ctx   *ctx = model_of(x)->ctx;
    int64_t   D = model_of(x)->width, length = d->target->row[row].length, first = length - n;
    float    *waiting = x->hidden + row * WAITING * D;
    qp_scope  s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (x->first[row] + x->count[row] != first) x->count[row] = 0; /* the row was cut or filled otherwise */
    if (x->count[row] + n > WAITING) {
        int64_t   before = x->count[row], m = before + n - 1;
        qp_tensor all = hidden;
        if (before)
            all = qp_concat(2, (qp_tensor[]){qp_from(ctx, QP_F32, 2, (int64_t[]){before, D}, waiting), hidden}, 0);
        read_long(x, row, first - before, m, qp_slice(all, 0, 0, m, 1));
        hidden = qp_slice(hidden, 0, n - 1, n, 1);
        x->count[row] = 0;
        first = length - 1;
        n = 1;
    }
    if (!x->count[row]) x->first[row] = first;
    if (qp_read(hidden, QP_F32, waiting + x->count[row] * D, n * D) == QP_OK) x->count[row] += (int)n;
    qp_leave(s);
}

/* ---- Guessing --------------------------------------------------------------------------------------- */

/* What waits of n rows: states and the tokens behind them. Gives the longest count. */
static int64_t gather(module *x, int n, qpi_tree *const *trees, int64_t *rows, int64_t *starts, int64_t *counts) {
    int64_t T = 1, D = model_of(x)->width;
    for (int i = 0; i < n; i++) {
        rows[i] = trees[i]->row;
        starts[i] = x->first[rows[i]];
        counts[i] = x->count[rows[i]];
        if (counts[i] > T) T = counts[i];
    }
    memset(x->call, 0, (size_t)(n * T * D) * sizeof *x->call);
    memset(x->ids, 0, (size_t)(n * T) * sizeof *x->ids);
    for (int i = 0; i < n; i++) {
        const int32_t *text = qpi_row_tokens(x->base.target, rows[i]);
        int64_t        length = x->base.target->row[rows[i]].length;
        memcpy(x->call + i * T * D, x->hidden + rows[i] * WAITING * D, (size_t)(counts[i] * D) * sizeof *x->call);
        for (int64_t t = 0; t < counts[i]; t++)
            x->ids[i * T + t] = starts[i] + t + 1 < length ? text[starts[i] + t + 1] : trees[i]->ids[0];
    }
    return T;
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    module   *x = (module *)d;
    qp_model *m = model_of(x);
    qp_ctx   *ctx = m->ctx;
    int64_t   D = m->width, depth = d->options.depth ? d->options.depth : DEPTH, count = n;
    int64_t  *rows = x->integers, *starts = rows + n, *counts = starts + n;
    qp_scope  s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    int64_t   T = gather(x, n, trees, rows, starts, counts), *last = x->integers + 4 * n;
    qp_tensor state = qp_from(ctx, QP_F32, 3, (int64_t[]){n, T, D}, x->call);
    state = run(x, n, T, rows, starts, counts, state, x->ids);
    for (int i = 0; i < n; i++) last[i] = i * T + (counts[i] ? counts[i] - 1 : 0);
    state = qp_embedding(qp_reshape(state, 2, (int64_t[]){n * T, D}), qp_from(ctx, QP_I64, 1, &count, last));
    for (int64_t k = 0; k < depth && !qp_failed(ctx); k++) {
        int64_t open = 0;
        if (!qpi_drafter_guess(d, n, trees, k, depth, qp_model_head(m, state), counts, x->ids, x->from)) break;
        for (int i = 0; i < n; i++) {
            starts[i] += counts[i];
            counts[i] = counts[i] && qpi_tree_add_drawn(trees[i], x->ids[i], trees[i]->count - 1, x->from[i]);
            open += counts[i];
        }
        if (k + 1 == depth || !open) break;
        state = run(x, n, 1, rows, starts, counts, qp_reshape(state, 3, (int64_t[]){n, 1, D}), x->ids);
        state = qp_reshape(state, 2, (int64_t[]){n, D});
    }
    qp_leave(s);
}

/* ---- Making and closing ------------------------------------------------------------------------------- */

static void close(qp_drafter *d) {
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < ((module *)d)->states[i].count; j++) qp_drop(((module *)d)->states[i].tensors[j]);
}

static void destroy(qp_drafter *d) {
    module *x = (module *)d;
    free(x->first);
    free(x->count);
    free(x->hidden);
    free(x->call);
    free(x->ids);
    free(x->integers);
    free((void *)x->from);
}

static bool reserve(module *x, const qp_branch *b, qp_state *state) {
    qp_ctx *ctx = model_of(x)->ctx;
    if (!b->type || b->type->pointwise) return true;
    if (!b->type->step) return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "drafter: %s has no step form", b->type->part.name);
    qp_scope s = qp_enter(ctx);
    b->type->reserve(b->self, ctx, x->base.target->rows, x->base.target->reserved, state);
    for (int j = 0; j < state->count; j++) qp_keep(state->tensors[j]);
    qp_leave(s);
    return !qp_failed(ctx);
}

static bool allocate(module *x) {
    size_t rows = (size_t)x->base.target->rows, all = rows * WAITING;
    size_t floats = all * (size_t)model_of(x)->width;
    x->first = calloc(rows, sizeof *x->first);
    x->count = calloc(rows, sizeof *x->count);
    x->hidden = calloc(floats, sizeof *x->hidden);
    x->call = calloc(floats, sizeof *x->call);
    x->ids = calloc(all, sizeof *x->ids);
    x->integers = calloc(all + 4 * rows, sizeof *x->integers);
    x->from = calloc(rows, sizeof(const qpi_chances *));
    return x->first && x->count && x->hidden && x->call && x->ids && x->integers && x->from;
}

static const qpi_drafter_type type = {.name = "mtp", .draft = draft, .read = read_state, .close = close, .destroy = destroy};

qp_drafter *qp_drafter_mtp(qp_session *target, qp_drafter_options options) {
    qp_model *m = target->m;
    if (!qp_failed(m->ctx) && !m->mtp_count) {
        qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "drafter: the model has no modules for multi-token prediction");
        return NULL;
    }
    module *x = qpi_drafter_new(&type, sizeof *x, target, options);
    if (!x) return NULL;
    const qp_block *b = &m->blocks[m->layers].block;
    if (!allocate(x)) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: drafter");
    if (!qp_failed(m->ctx) && reserve(x, &b->mixer, &x->states[0]) && reserve(x, &b->ffn, &x->states[1])) return &x->base;
    qp_drafter_close(&x->base);
    return NULL;
}
