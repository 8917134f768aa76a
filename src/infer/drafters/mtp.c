/* A module for multi-token prediction as drafter (DeepSeek-V3, arXiv:2412.19437): it reads the model's state at a
 * position and the token behind it, and guesses the one after that; for further ones it reads its own state and guess,
 * as servers do. It is the model's own first one, trained with it, or one that was trained beside a model that stays as
 * it is, to read its own states as it will have to (FastMTP, arXiv:2509.18362): the loss is the sum of 0.8^k times the
 * cross-entropy of the token k + 2 places on.
 *
 * The module attends to what it had for earlier positions: a state of its own, with rows like the session's. The entry of
 * position p needs token p + 1, so the last position's waits until that is drawn. The likeliest guess goes on while it
 * is likely to stay; others of its place that are likely enough become leaves beside it, which cost a row of the
 * verification and no run of the module.
 *
 * Files have DeepSeek-V3's names, behind the layers of the model: model.layers.L.eh_proj.weight, ..; token_map [N]. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/draft_head.h"
#include "nn/module.h"

#define DEPTH 6
#define WAITING 64   /* positions of a row whose entries are still to be made */
#define NODES 12     /* of a tree, the root included */
#define LEAST 0.15f  /* a path less probable is not worth its row .. */
#define FURTHER 0.3f /* .. or a run of the module for what may follow */

struct qp_mtp {
    qp_ctx        *ctx;
    qp_model      *m; /* whose module 0 it is: the target itself, or one of qpi_mtp_new */
    qpi_owned     *owned;
    qpi_draft_head head;
    qp_tensor      rows; /* the model's, QP_NONE: all of its head */
};

/* ---- A module beside a model -------------------------------------------------------------------------- */

static void destroy_mtp(void *thing) {
    qpi_draft_head_close(&((qp_mtp *)thing)->head);
    free(thing);
}

void qp_mtp_close(qp_mtp *m) {
    if (!m) return;
    qp_model_close(m->m);
    qpi_disown(m->owned);
    destroy_mtp(m);
}

/* Its parameters have no elements yet. */
static qp_mtp *make(qp_model *base, const int32_t *tokens, int64_t count) {
    qp_ctx *ctx = base->ctx;
    qp_mtp *m = qp_failed(ctx) ? NULL : calloc(1, sizeof *m);
    if (qp_failed(ctx)) return NULL;
    if (m) *m = (qp_mtp){.ctx = ctx};
    if (!m || !(m->owned = qpi_own(ctx, m, destroy_mtp))) {
        free(m);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: mtp");
        return NULL;
    }
    if (qpi_draft_head_open(&m->head, base, tokens, count, "mtp") && (m->m = qpi_mtp_new(base))) {
        qp_scope s = qp_enter(ctx);
        qp_no_grad(ctx, true);
        qp_tensor rows =
            qpi_draft_head_rows(&m->head, base); /* also where they are not kept: is there a head? */
        if (m->head.tokens) m->rows = qp_module_keep(m->m->module, rows);
        qp_leave(s);
        if (!qp_failed(ctx)) return m;
    }
    qp_mtp_close(m);
    return NULL;
}

qp_mtp *qp_mtp_new(qp_model *base, qp_mtp_options options) {
    qp_mtp *m = make(base, options.tokens, options.token_count);
    if (!m) return NULL;
    qp_module_fill(m->m->module);
    if (!qp_failed(m->ctx)) return m;
    qp_mtp_close(m);
    return NULL;
}

qp_state_dict qp_mtp_params(qp_mtp *m) { return qp_module_params(m->m->module); }

qp_tensor qp_mtp_loss(qp_mtp *m, qp_tensor hidden, qp_tensor ids, qp_tensor labels, int64_t ahead) {
    qp_scope    s = qp_enter(m->ctx);
    int64_t     T = qp_size(ids, 1);
    qp_sequence whole = {.length = T,
                         .positions = qp_reshape(qp_arange(m->ctx, QP_I64, T), 2, (int64_t[]){1, T})},
                cropped;
    qp_tensor   sum = QP_NONE, rows = qpi_draft_head_labels(&m->head, labels);
    for (int64_t k = 1; k <= ahead && k < T && !qp_failed(m->ctx); k++) {
        hidden = qpi_mtp_ahead(m->m, 0, k, hidden, ids, &whole, &cropped);
        qp_tensor y = qp_contiguous(qp_slice(rows, 1, k, T, 1));
        qp_tensor loss = qp_is_none(m->rows)
                             ? qpi_output_loss(&m->m->output, hidden, y, &cropped)
                             : qp_linear_cross_entropy(hidden, m->rows, y, (qp_loss_options){0});
        loss = qp_affine(loss, pow(0.8, (double)k - 1), 0);
        sum = qp_is_none(sum) ? loss : qp_add(sum, loss);
    }
    if (qp_is_none(sum)) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "mtp: %lld tokens ahead in sequences of %lld", (long long)ahead,
                (long long)T);
        sum = qpi_poison(m->ctx);
    }
    return qp_return(s, sum);
}

qp_status qp_mtp_save(qp_mtp *m, const char *path) {
    const char *name;
    qp_tensor   t;
    int64_t     count = 0, n = 0;
    qp_scope    s = qp_enter(m->ctx);
    while (qp_model_weight(m->m, count, false, &name, &t)) count++;
    qp_named *named = calloc((size_t)count + 1, sizeof *named);
    if (!named) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: mtp");
    while (named && n < count && qp_model_weight(m->m, n, false, &name, &t)) named[n++] = (qp_named){name, t};
    if (named && m->head.tokens) named[n++] = qpi_draft_head_map(&m->head);
    qp_status status =
        qp_failed(m->ctx) ? qp_error_code(m->ctx) : qp_file_save(m->ctx, path, n, named, (qp_save_options){0});
    free(named);
    qp_leave(s);
    return status;
}

/* Matrices as narrow as the model's. */
static void narrow(qp_mtp *m, qp_model *base) {
    qp_state_dict dict = qp_module_state(m->m->module);
    for (int i = 0; i < dict.count && !qp_failed(m->ctx); i++) {
        qp_tensor t = dict.entries[i].tensor;
        if (qp_ndim(t) == 2 &&
            qp_param_set(t, qpi_draft_narrowed(qp_contiguous(qp_cast(t, QP_F32)), base)) != QP_OK)
            return;
    }
}

qp_mtp *qp_mtp_load(qp_model *base, const char *path, bool train) {
    qp_ctx  *ctx = base->ctx;
    int64_t  count;
    qp_file *f = qp_failed(ctx) ? NULL : qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) return NULL;
    qp_scope s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    int32_t *tokens = qpi_draft_tokens_read(ctx, f, path, base->vocabulary, &count);
    qp_mtp  *m = qp_failed(ctx) ? NULL : make(base, tokens, count);
    if (m && qpi_weights_load(m->m, path, f, !train) && !train) narrow(m, base);
    free(tokens);
    qp_leave(s);
    qp_file_close(f);
    if (m && !qp_failed(ctx)) return m;
    qp_mtp_close(m);
    return NULL;
}

/* ---- The drafter -------------------------------------------------------------------------------------- */

/* Where a row's guesses go on, and how probable it is that the text comes so far. */
typedef struct {
    int64_t node;
    float   p;
} chain;

typedef struct {
    qp_drafter base;
    qp_mtp    *mtp, own;
    chain     *ends;      /* [rows] */
    float     *p;         /* [N] */
    qp_state   states[2]; /* of the module's block */
    int64_t   *first;     /* [rows]: position of the first that waits .. */
    int       *count;     /* .. of so many */
    float     *hidden;    /* [rows, WAITING, D] */
    float     *call;      /* [rows, WAITING, D], of a call */
    int32_t   *ids;
    int64_t   *integers;
} module;

static qp_model *model_of(const module *x) { return x->mtp->m; }

/* ---- A call of the module ------------------------------------------------------------------------ */

/* For n sequences: their rows, where they begin and how many positions; hidden [n, T, D] and ids [n, T].
 * Gives [n, T, D]. */
static qp_tensor run(module *x, int64_t n, int64_t T, const int64_t *rows, const int64_t *starts,
                     const int64_t *counts, qp_tensor hidden, const int32_t *ids) {
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
    int64_t  starts = first, counts = n;
    int64_t  D = model_of(x)->width;
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
    module  *x = (module *)d;
    qp_ctx  *ctx = model_of(x)->ctx;
    int64_t  D = model_of(x)->width, length = d->target->row[row].length, first = length - n;
    float   *waiting = x->hidden + row * WAITING * D;
    qp_scope s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (x->first[row] + x->count[row] != first) x->count[row] = 0; /* the row was cut or filled otherwise */
    if (x->count[row] + n > WAITING) {
        int64_t   before = x->count[row], m = before + n - 1;
        qp_tensor all = hidden;
        if (before)
            all = qp_concat(2, (qp_tensor[]){qp_from(ctx, QP_F32, 2, (int64_t[]){before, D}, waiting), hidden},
                            0);
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
static int64_t gather(module *x, int n, qpi_tree *const *trees, int64_t *rows, int64_t *starts,
                      int64_t *counts) {
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
        memcpy(x->call + i * T * D, x->hidden + rows[i] * WAITING * D,
               (size_t)(counts[i] * D) * sizeof *x->call);
        for (int64_t t = 0; t < counts[i]; t++)
            x->ids[i * T + t] = starts[i] + t + 1 < length ? text[starts[i] + t + 1] : trees[i]->ids[0];
    }
    return T;
}

/* The likeliest guess of place k goes on, others stay beside it. False: nothing goes on. */
static bool extend(module *x, qpi_tree *t, int64_t k, int64_t depth, qp_tensor logits, chain *end) {
    qpi_guesses g;
    chain       from = *end;
    float       p;
    if (!qpi_draft_head_guess(&x->mtp->head, &x->base, t, k, depth, logits, x->p, &g)) return false;
    for (int rank = 0; rank < QPI_GUESSES && from.p * qpi_draft_head_most(t, from.node, &g, rank) >= LEAST;
         rank++) {
        if (t->count == NODES || !qpi_draft_head_add(&x->base, t, from.node, &g, rank, k, depth, &p)) break;
        if (!rank) *end = (chain){t->count - 1, from.p * p};
    }
    return end->node != from.node && end->p >= FURTHER;
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
    for (int i = 0; i < n; i++) x->ends[i] = (chain){.p = 1};
    for (int i = 0; i < n; i++) last[i] = i * T + (counts[i] ? counts[i] - 1 : 0);
    state = qp_embedding(qp_reshape(state, 2, (int64_t[]){n * T, D}), qp_from(ctx, QP_I64, 1, &count, last));
    for (int64_t k = 0; k < depth && !qp_failed(ctx); k++) {
        int64_t   open = 0;
        qp_tensor head = x->mtp->rows, logits = qp_is_none(head)
                                                    ? qp_model_head(m, state)
                                                    : qp_linear(state, head, QP_NONE, QP_ACT_NONE, QP_NONE);
        for (int i = 0; i < n; i++) {
            starts[i] += counts[i];
            counts[i] =
                counts[i] && extend(x, trees[i], k, depth, qp_slice(logits, 0, i, i + 1, 1), &x->ends[i]);
            x->ids[i] = trees[i]->ids[x->ends[i].node];
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
    free(x->ends);
    free(x->p);
}

static bool reserve(module *x, const qp_branch *b, qp_state *state) {
    qp_ctx *ctx = model_of(x)->ctx;
    if (!b->type || b->type->pointwise) return true;
    if (!b->type->step)
        return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "drafter: %s has no step form", b->type->part.name);
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
    x->ends = calloc(rows, sizeof *x->ends);
    x->p = malloc((size_t)x->mtp->head.count * sizeof *x->p);
    return x->first && x->count && x->hidden && x->call && x->ids && x->integers && x->ends && x->p;
}

static const qpi_drafter_type type = {
    .name = "mtp", .draft = draft, .read = read_state, .close = close, .destroy = destroy};

qp_drafter *qp_drafter_mtp(qp_session *target, qp_mtp *mtp, qp_drafter_options options) {
    qp_model *m = mtp ? mtp->m : target->m;
    if (!qp_failed(m->ctx) && mtp && m->host != target->m) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "mtp: the module is of another model");
        return NULL;
    }
    if (!qp_failed(m->ctx) && !m->mtp_count) {
        qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "drafter: the model has no modules for multi-token prediction");
        return NULL;
    }
    module *x = qpi_drafter_new(&type, sizeof *x, target, options);
    if (!x) return NULL;
    const qp_block *b = &m->blocks[m->layers].block;
    x->own = (qp_mtp){.ctx = m->ctx, .m = m};
    x->mtp = mtp ? mtp : &x->own;
    qpi_draft_head_open(&x->own.head, target->m, NULL, 0, "mtp");
    if (!allocate(x)) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: drafter");
    if (!qp_failed(m->ctx) && reserve(x, &b->mixer, &x->states[0]) && reserve(x, &b->ffn, &x->states[1]))
        return &x->base;
    qp_drafter_close(&x->base);
    return NULL;
}
