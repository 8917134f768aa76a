/* Medusa (Cai et al. 2024, arXiv:2401.10774): heads on a frozen model's last hidden state. Head h reads
 * the state at the last token that the model has read and guesses the token h + 1 places behind the one
 * that the model itself gives:
 *
 *   x = hidden;  `layers` times x = x + silu(W_h x + b_h), the same W_h;  logits = U_h x
 *
 * W_h begins at 0 and U_h at the model's own head, so that a fresh head guesses what the model does; or U_h
 * is the model's own head for good (shared). U_h may have a row for frequent tokens only (token_map): a rare
 * one is guessed wrong anyway, and the product is most of what a guess costs (arXiv:2502.14856). The loss is
 * the sum of 0.8^h times each head's cross-entropy. Where the published code takes one fixed tree, this one
 * grows with what the heads are sure of, as EAGLE-2's does (arXiv:2406.16858): the most probable paths first.
 *
 * Files have the published names: H.L.linear.weight, H.L.linear.bias, H.LAYERS.weight; token_map [N]. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/draft_head.h"
#include "nn/module.h"

#define MAX_HEADS 16
#define NODES 12    /* of a tree, the root included */
#define LEAST 0.15f /* a path less probable is not worth its row */

struct qp_medusa {
    qp_ctx        *ctx;
    qp_module     *module;
    qpi_owned     *owned;
    int            heads, layers;
    qpi_draft_head head;
    qp_tensor      shared; /* the model's rows, QP_NONE: heads have their own */
    qp_nn_linear  *block[MAX_HEADS], *out[MAX_HEADS];
};

/* ---- Heads ---------------------------------------------------------------------------------------- */

static void destroy_medusa(void *thing) {
    qpi_draft_head_close(&((qp_medusa *)thing)->head);
    free(thing);
}

void qp_medusa_close(qp_medusa *m) {
    if (!m) return;
    qp_module_close(m->module);
    qpi_disown(m->owned);
    destroy_medusa(m);
}

static bool build(qp_medusa *m, bool shared) {
    m->module = qp_module_new(m->ctx, NULL, "medusa");
    for (int h = 0; h < m->heads && m->module; h++) {
        char name[16];
        snprintf(name, sizeof name, "%d", h);
        qp_module *head = qp_module_new(m->ctx, m->module, name),
                  *first = head ? qp_module_new(m->ctx, head, "0") : NULL;
        if (!first) return false;
        snprintf(name, sizeof name, "%d", m->layers);
        m->block[h] = qp_nn_linear_new(first, "linear", m->head.width, m->head.width,
                                       (qp_linear_options){.bias = true, .init = "zeros"});
        if (!shared)
            m->out[h] = qp_nn_linear_new(head, name, m->head.width, m->head.count, (qp_linear_options){0});
    }
    return m->module && !qp_failed(m->ctx);
}

static qp_medusa *make(qp_model *base, qp_medusa_options o) {
    qp_ctx *ctx = base->ctx;
    if (qp_failed(ctx)) return NULL;
    if (!o.heads) o.heads = 3;
    if (!o.layers) o.layers = 1;
    if (o.heads < 1 || o.heads > MAX_HEADS || o.layers < 1 || o.layers > 8) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "medusa: %d heads of %d layers, expected 1 to %d of 1 to 8", o.heads,
                o.layers, MAX_HEADS);
        return NULL;
    }
    qp_medusa *m = calloc(1, sizeof *m);
    if (m) *m = (qp_medusa){.ctx = ctx, .heads = o.heads, .layers = o.layers};
    if (!m || !(m->owned = qpi_own(ctx, m, destroy_medusa))) {
        free(m);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: medusa");
        return NULL;
    }
    if (qpi_draft_head_open(&m->head, base, o.tokens, o.token_count, "medusa") && build(m, o.shared)) {
        if (!o.shared) return m;
        qp_scope s = qp_enter(ctx);
        qp_no_grad(ctx, true);
        m->shared = qp_module_keep(m->module, qpi_draft_head_rows(&m->head, base));
        qp_leave(s);
        if (!qp_failed(ctx)) return m;
    }
    qp_medusa_close(m);
    return NULL;
}

qp_medusa *qp_medusa_new(qp_model *base, qp_medusa_options options) {
    qp_medusa *m = make(base, options);
    if (!m) return NULL;
    qp_scope s = qp_enter(m->ctx);
    qp_no_grad(m->ctx, true);
    qp_tensor rows = options.shared ? QP_NONE : qp_cast(qpi_draft_head_rows(&m->head, base), QP_F32);
    for (int h = 0; h < m->heads && !options.shared; h++) {
        qp_tensor own = qp_empty(m->ctx, QP_F32, 2, (int64_t[]){m->head.count, m->head.width});
        if (qp_copy_to(own, rows) != QP_OK || qp_param_set(qp_nn_linear_weight(m->out[h]), own) != QP_OK) break;
    }
    qp_module_fill(m->module);
    qp_leave(s);
    if (!qp_failed(m->ctx)) return m;
    qp_medusa_close(m);
    return NULL;
}

qp_state_dict qp_medusa_params(qp_medusa *m) { return qp_module_params(m->module); }
int qp_medusa_heads(const qp_medusa *m) { return m->heads; }
int qpi_medusa_layers(const qp_medusa *m) { return m->layers; }

/* What head h makes of hidden before its last product. */
static qp_tensor features(const qp_medusa *m, int h, qp_tensor hidden) {
    for (int l = 0; l < m->layers; l++)
        hidden = qp_add(hidden, qp_nn_linear_forward(m->block[h], hidden, QP_ACT_SILU, QP_NONE));
    return hidden;
}

static qp_tensor out_weight(const qp_medusa *m, int h) {
    return m->out[h] ? qp_nn_linear_weight(m->out[h]) : m->shared;
}

/* ---- Training --------------------------------------------------------------------------------------- */

qp_tensor qp_medusa_loss(qp_medusa *m, qp_tensor hidden, qp_tensor labels) {
    qp_scope  s = qp_enter(m->ctx);
    int64_t   B = qp_size(labels, 0), T = qp_size(labels, 1);
    qp_tensor sum = QP_NONE, rows = qpi_draft_head_labels(&m->head, labels);
    for (int h = 0; h < m->heads && h + 1 < T; h++) {
        qp_tensor x = qp_slice(hidden, 1, 0, T - 1 - h, 1), y = qp_contiguous(qp_slice(rows, 1, h + 1, T, 1));
        qp_tensor flat = qp_reshape(features(m, h, x), 2, (int64_t[]){B * (T - 1 - h), m->head.width});
        qp_tensor loss = qp_linear_cross_entropy(flat, out_weight(m, h), qp_reshape(y, 1, (int64_t[]){-1}),
                                                 (qp_loss_options){0});
        loss = qp_affine(loss, pow(0.8, h), 0);
        sum = qp_is_none(sum) ? loss : qp_add(sum, loss);
    }
    if (qp_is_none(sum)) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "medusa: sequences of %lld tokens are too short", (long long)T);
        sum = qpi_poison(m->ctx);
    }
    return qp_return(s, sum);
}

/* ---- Files ------------------------------------------------------------------------------------------ */

qp_status qp_medusa_save(qp_medusa *m, const char *path) {
    qp_named named[MAX_HEADS * 17 + 1];
    char     names[MAX_HEADS * 17][48];
    int      n = 0;
    for (int h = 0; h < m->heads; h++) {
        for (int l = 0; l < m->layers; l++)
            for (int bias = 0; bias < 2; bias++, n++) {
                snprintf(names[n], sizeof names[n], "%d.%d.linear.%s", h, l, bias ? "bias" : "weight");
                named[n] = (qp_named){names[n],
                                      bias ? qp_nn_linear_bias(m->block[h]) : qp_nn_linear_weight(m->block[h])};
            }
        if (!m->out[h]) continue;
        snprintf(names[n], sizeof names[n], "%d.%d.weight", h, m->layers);
        named[n] = (qp_named){names[n], qp_nn_linear_weight(m->out[h])};
        n++;
    }
    qp_scope s = qp_enter(m->ctx);
    if (m->head.tokens) named[n++] = qpi_draft_head_map(&m->head);
    qp_status status =
        qp_failed(m->ctx) ? qp_error_code(m->ctx) : qp_file_save(m->ctx, path, n, named, (qp_save_options){0});
    qp_leave(s);
    return status;
}

/* Heads, layers and whether the last product is the model's, by the names that are there. */
static qp_medusa_options kind_of(const qp_file *f) {
    char              name[32];
    qp_medusa_options o = {0};
    for (; o.heads <= MAX_HEADS; o.heads++) {
        snprintf(name, sizeof name, "%d.0.linear.weight", o.heads);
        if (qp_file_find(f, name) < 0) break;
    }
    for (; o.layers <= 8; o.layers++) {
        snprintf(name, sizeof name, "0.%d.linear.weight", o.layers);
        if (qp_file_find(f, name) < 0) break;
    }
    snprintf(name, sizeof name, "0.%d.weight", o.layers);
    o.shared = qp_file_find(f, name) < 0;
    return o;
}

/* base: whose kind of matrices it becomes; NULL: f32 that trains. */
static bool read_weight(qp_medusa *m, const qp_file *f, const char *path, const char *name, qp_model *base,
                        qp_tensor into) {
    int64_t       at = qp_file_find(f, name);
    qp_file_entry e = qp_file_at(f, at);
    bool          ok = at >= 0 && e.loadable && qp_dtype_is_float(e.dtype) && e.ndim == qp_ndim(into);
    for (int i = 0; i < e.ndim && ok; i++) ok = e.shape[i] == qp_size(into, i);
    if (!ok) return !qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %s is missing, or does not fit the model", path, name);
    qp_tensor t = qp_file_load(m->ctx, f, name, false);
    if (!base) return qpi_param_copy(into, t) == QP_OK;
    if (qp_dtype_of(t) != QP_F32) t = qp_cast(t, QP_F32);
    t = qp_contiguous(t);
    return !qp_failed(m->ctx) && qp_param_set(into, qp_ndim(t) == 2 ? qpi_draft_narrowed(t, base) : t) == QP_OK;
}

static bool read_all(qp_medusa *m, const qp_file *f, const char *path, qp_model *base) {
    bool ok = true;
    char name[32];
    for (int h = 0; h < m->heads && ok; h++) {
        snprintf(name, sizeof name, "%d.0.linear.weight", h);
        ok = read_weight(m, f, path, name, base, qp_nn_linear_weight(m->block[h]));
        snprintf(name, sizeof name, "%d.0.linear.bias", h);
        ok = ok && read_weight(m, f, path, name, base, qp_nn_linear_bias(m->block[h]));
        snprintf(name, sizeof name, "%d.%d.weight", h, m->layers);
        if (m->out[h]) ok = ok && read_weight(m, f, path, name, base, qp_nn_linear_weight(m->out[h]));
    }
    return ok;
}

qp_medusa *qp_medusa_load(qp_model *base, const char *path, bool train) {
    qp_ctx  *ctx = base->ctx;
    qp_file *f = qp_failed(ctx) ? NULL : qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) return NULL;
    qp_medusa_options o = kind_of(f);
    qp_scope          s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (o.heads < 1) qp_fail(ctx, QP_ERR_FORMAT, "%s: no heads of Medusa (0.0.linear.weight is missing)", path);
    int32_t *tokens =
        qp_failed(ctx) ? NULL : qpi_draft_tokens_read(ctx, f, path, base->vocabulary, &o.token_count);
    o.tokens = tokens;
    qp_medusa *m = make(base, o);
    if (m && !train && qp_dtype_block(qpi_draft_dtype(base)) > 1)
        qp_freeze(m->module, "*", true); /* blocks do not train */
    bool ok = m && read_all(m, f, path, train ? NULL : base);
    free(tokens);
    qp_leave(s);
    qp_file_close(f);
    if (ok) return m;
    qp_medusa_close(m);
    return NULL;
}

/* ---- The drafter -------------------------------------------------------------------------------------- */

typedef struct {
    qp_drafter base;
    qp_medusa *medusa;
    float     *hidden; /* [rows, D], of each row's last token read */
    float     *p;      /* [N] */
    float     *gather; /* [rows, D], of a call */
} heads;

static void read_state(qp_drafter *d, int64_t row, int64_t n, qp_tensor hidden) {
    heads  *x = (heads *)d;
    int64_t D = x->medusa->head.width;
    if (qp_read(qp_slice(hidden, 0, n - 1, n, 1), QP_F32, x->hidden + row * D, D) != QP_OK) return;
}

/* A path that may become a node: guess `rank` of head `depth` behind `parent`. p: it has at most; before: its
 * parent has. */
typedef struct {
    float p, before;
    int   parent, depth, rank;
} path;

static path likely(const qpi_tree *t, const qpi_guesses *top, path c) {
    c.p = c.before * qpi_draft_head_most(t, c.parent, &top[c.depth], c.rank);
    return c;
}

/* The likeliest paths of a row become nodes, until there are enough or none is likely. */
static void grow(heads *x, qpi_tree *t, const qpi_guesses *top) {
    path open[2 * QPI_MAX_DRAFTS];
    int  count = 0, most = NODES < t->limit ? NODES : t->limit, depth = x->medusa->heads;
    if (x->base.options.depth && x->base.options.depth < depth) depth = (int)x->base.options.depth;
    open[count++] = likely(t, top, (path){.before = 1});
    while (t->count < most && count) {
        int   best = 0;
        float p;
        for (int i = 1; i < count; i++)
            if (open[i].p > open[best].p) best = i;
        path c = open[best];
        open[best] = open[--count];
        if (!(c.p >= LEAST) ||
            !qpi_draft_head_add(&x->base, t, c.parent, &top[c.depth], c.rank, c.depth, x->medusa->heads, &p))
            return;
        if (c.rank + 1 < QPI_GUESSES)
            open[count++] = likely(
                t, top, (path){.before = c.before, .parent = c.parent, .depth = c.depth, .rank = c.rank + 1});
        if (c.depth + 1 < depth)
            open[count++] =
                likely(t, top, (path){.before = c.before * p, .parent = t->count - 1, .depth = c.depth + 1});
    }
}

/* What the heads give for hidden [n, D], [heads n, N]: head by head. A head that all share is read once. */
static qp_tensor logits_of(const qp_medusa *m, qp_tensor hidden) {
    qp_tensor all[MAX_HEADS];
    for (int h = 0; h < m->heads; h++) {
        all[h] = features(m, h, hidden);
        if (m->out[h]) all[h] = qp_nn_linear_forward(m->out[h], all[h], QP_ACT_NONE, QP_NONE);
    }
    qp_tensor logits = qp_concat(m->heads, all, 0);
    if (!m->out[0]) logits = qp_linear(logits, m->shared, QP_NONE, QP_ACT_NONE, QP_NONE);
    return logits;
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    heads           *x = (heads *)d;
    const qp_medusa *m = x->medusa;
    int64_t          D = m->head.width;
    qp_scope         s = qp_enter(m->ctx);
    qp_no_grad(m->ctx, true);
    for (int i = 0; i < n; i++)
        memcpy(x->gather + i * D, x->hidden + trees[i]->row * D, (size_t)D * sizeof *x->gather);
    qp_tensor logits = logits_of(m, qp_from(m->ctx, QP_F32, 2, (int64_t[]){n, D}, x->gather));
    for (int i = 0; i < n && !qp_failed(m->ctx); i++) {
        qpi_guesses top[MAX_HEADS];
        for (int64_t h = 0; h < m->heads; h++)
            if (!qpi_draft_head_guess(&m->head, d, trees[i], h, m->heads,
                                      qp_slice(logits, 0, h * n + i, h * n + i + 1, 1), x->p, &top[h]))
                break;
        if (!qp_failed(m->ctx)) grow(x, trees[i], top);
    }
    qp_leave(s);
}

static void destroy(qp_drafter *d) {
    heads *x = (heads *)d;
    free(x->hidden);
    free(x->p);
    free(x->gather);
}

static const qpi_drafter_type type = {.name = "medusa", .draft = draft, .read = read_state, .destroy = destroy};

qp_drafter *qp_drafter_medusa(qp_session *target, qp_medusa *m, qp_drafter_options options) {
    qp_ctx *ctx = target->m->ctx;
    if (!qp_failed(ctx) &&
        (m->ctx != ctx || m->head.width != target->m->width || m->head.vocabulary != target->m->vocabulary)) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "medusa: the heads are of another model");
        return NULL;
    }
    heads *x = qpi_drafter_new(&type, sizeof *x, target, options);
    if (!x) return NULL;
    size_t rows = (size_t)target->rows * (size_t)m->head.width;
    x->medusa = m;
    x->hidden = calloc(rows, sizeof *x->hidden);
    x->gather = calloc(rows, sizeof *x->gather);
    x->p = malloc((size_t)m->head.count * sizeof *x->p);
    if (x->hidden && x->gather && x->p) return &x->base;
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    qp_drafter_close(&x->base);
    return NULL;
}
