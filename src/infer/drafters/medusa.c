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

#include "core/blocks.h"
#include "infer/drafter.h"
#include "infer/sampler.h"
#include "nn/module.h"

#define MAX_HEADS 16
#define TOP 8       /* guesses of a head that are looked at */
#define NODES 12    /* of a tree, the root included */
#define LEAST 0.1f  /* a path less probable is not worth its row */

struct qp_medusa {
    qp_ctx       *ctx;
    qp_module    *module;
    qpi_owned    *owned;
    int64_t       width, vocabulary;
    int           heads, layers;
    int64_t       count;  /* tokens that are guessed among .. */
    int32_t      *tokens; /* .. which; NULL: all */
    qp_tensor     shared; /* the model's rows for these, QP_NONE: heads have their own */
    qp_nn_linear *block[MAX_HEADS], *out[MAX_HEADS];
};

/* ---- Heads ---------------------------------------------------------------------------------------- */

static void destroy_medusa(void *thing) {
    free(((qp_medusa *)thing)->tokens);
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
        qp_module *head = qp_module_new(m->ctx, m->module, name), *first = head ? qp_module_new(m->ctx, head, "0") : NULL;
        if (!first) return false;
        snprintf(name, sizeof name, "%d", m->layers);
        m->block[h] = qp_nn_linear_new(first, "linear", m->width, m->width, (qp_linear_options){.bias = true, .init = "zeros"});
        if (!shared) m->out[h] = qp_nn_linear_new(head, name, m->width, m->count, (qp_linear_options){0});
    }
    return m->module && !qp_failed(m->ctx);
}

/* Takes a copy of the tokens, which must ascend. */
static bool take_tokens(qp_medusa *m, const int32_t *tokens, int64_t count) {
    m->count = count ? count : m->vocabulary;
    if (!count) return true;
    bool ok = count > 0 && count <= m->vocabulary;
    for (int64_t i = 0; i < count && ok; i++) ok = tokens[i] >= 0 && tokens[i] < m->vocabulary && (!i || tokens[i] > tokens[i - 1]);
    if (!ok) return !qp_fail(m->ctx, QP_ERR_ARGUMENT, "medusa: its tokens are to ascend from 0 to %lld", (long long)m->vocabulary - 1);
    m->tokens = malloc((size_t)count * sizeof *tokens);
    if (!m->tokens) return !qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: medusa");
    memcpy(m->tokens, tokens, (size_t)count * sizeof *tokens);
    return true;
}

static void find_head(void *user, qp_nn_linear *l, const char *name) {
    qp_tensor *weight = user;
    if (!strcmp(name, "head")) *weight = qp_nn_linear_weight(l);
}

/* The model's own head, or its rows for the tokens that are guessed: [N, D], as it is stored. */
static qp_tensor rows_of(const qp_medusa *m, qp_model *base) {
    qp_tensor head = QP_NONE;
    qp_nn_linear_each(base->module, "head", find_head, &head);
    if (qp_is_none(head) || qp_ndim(head) != 2 || qp_size(head, 0) != m->vocabulary || qp_size(head, 1) != m->width) {
        qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "medusa: the model has no head for tokens");
        return qpi_poison(m->ctx);
    }
    if (!m->tokens) return qp_detach(head);
    qp_tensor   rows = qp_empty(m->ctx, qp_dtype_of(head), 2, (int64_t[]){m->count, m->width});
    const char *from = qp_data_of(head);
    char       *to = qp_data_write(rows);
    size_t      bytes = qp_dtype_size(qp_dtype_of(head), m->width);
    for (int64_t i = 0; i < m->count && from && to; i++)
        memcpy(to + (size_t)i * bytes, from + (size_t)m->tokens[i] * bytes, bytes);
    return rows;
}

static qp_medusa *make(qp_model *base, qp_medusa_options o) {
    qp_ctx *ctx = base->ctx;
    if (qp_failed(ctx)) return NULL;
    if (!o.heads) o.heads = 3;
    if (!o.layers) o.layers = 1;
    if (o.heads < 1 || o.heads > MAX_HEADS || o.layers < 1 || o.layers > 8) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "medusa: %d heads of %d layers, expected 1 to %d of 1 to 8", o.heads, o.layers, MAX_HEADS);
        return NULL;
    }
    qp_medusa *m = calloc(1, sizeof *m);
    if (m) *m = (qp_medusa){.ctx = ctx, .width = base->width, .vocabulary = base->vocabulary, .heads = o.heads, .layers = o.layers};
    if (!m || !(m->owned = qpi_own(ctx, m, destroy_medusa))) {
        free(m);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: medusa");
        return NULL;
    }
    if (take_tokens(m, o.tokens, o.token_count) && build(m, o.shared)) {
        if (!o.shared) return m;
        qp_scope s = qp_enter(ctx);
        qp_no_grad(ctx, true);
        m->shared = qp_module_keep(m->module, rows_of(m, base));
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
    qp_tensor rows = options.shared ? QP_NONE : qp_cast(rows_of(m, base), QP_F32);
    for (int h = 0; h < m->heads && !options.shared; h++) {
        qp_tensor own = qp_empty(m->ctx, QP_F32, 2, (int64_t[]){m->count, m->width});
        if (qp_copy_to(own, rows) != QP_OK || qp_param_set(qp_nn_linear_weight(m->out[h]), own) != QP_OK)
            break;
    }
    qp_module_fill(m->module);
    qp_leave(s);
    if (!qp_failed(m->ctx)) return m;
    qp_medusa_close(m);
    return NULL;
}

qp_state_dict qp_medusa_params(qp_medusa *m) { return qp_module_params(m->module); }
int           qp_medusa_heads(const qp_medusa *m) { return m->heads; }

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

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Labels as rows of U; what has none does not count. */
static qp_tensor rows_for(const qp_medusa *m, qp_tensor labels) {
    if (!m->tokens) return labels;
    int64_t  n = qp_count(labels);
    int64_t *rows = malloc((size_t)n * sizeof *rows + 1);
    if (!rows) {
        qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: medusa");
        return qpi_poison(m->ctx);
    }
    bool ok = qp_read(labels, QP_I64, rows, n) == QP_OK;
    for (int64_t i = 0; i < n && ok; i++) {
        int32_t  id = rows[i] < 0 || rows[i] >= m->vocabulary ? -1 : (int32_t)rows[i];
        int32_t *at = bsearch(&id, m->tokens, (size_t)m->count, sizeof id, ascending);
        rows[i] = at ? at - m->tokens : -100;
    }
    qp_tensor t = ok ? qp_from(m->ctx, QP_I64, 2, (int64_t[]){qp_size(labels, 0), qp_size(labels, 1)}, rows) : qpi_poison(m->ctx);
    free(rows);
    return t;
}

qp_tensor qp_medusa_loss(qp_medusa *m, qp_tensor hidden, qp_tensor labels) {
    qp_scope  s = qp_enter(m->ctx);
    int64_t   B = qp_size(labels, 0), T = qp_size(labels, 1);
    qp_tensor sum = QP_NONE, rows = rows_for(m, labels);
    for (int h = 0; h < m->heads && h + 1 < T; h++) {
        qp_tensor x = qp_slice(hidden, 1, 0, T - 1 - h, 1), y = qp_contiguous(qp_slice(rows, 1, h + 1, T, 1));
        qp_tensor flat = qp_reshape(features(m, h, x), 2, (int64_t[]){B * (T - 1 - h), m->width});
        qp_tensor loss = qp_linear_cross_entropy(flat, out_weight(m, h), qp_reshape(y, 1, (int64_t[]){-1}), (qp_loss_options){0});
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
                named[n] = (qp_named){names[n], bias ? qp_nn_linear_bias(m->block[h]) : qp_nn_linear_weight(m->block[h])};
            }
        if (!m->out[h]) continue;
        snprintf(names[n], sizeof names[n], "%d.%d.weight", h, m->layers);
        named[n] = (qp_named){names[n], qp_nn_linear_weight(m->out[h])};
        n++;
    }
    qp_scope s = qp_enter(m->ctx);
    if (m->tokens) named[n++] = (qp_named){"token_map", qp_from(m->ctx, QP_I32, 1, &m->count, m->tokens)};
    qp_status status = qp_failed(m->ctx) ? qp_error_code(m->ctx) : qp_file_save(m->ctx, path, n, named, (qp_save_options){0});
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

/* The tokens that are guessed among, *count of them, to be freed; NULL: all, or an error. */
static int32_t *read_tokens(qp_ctx *ctx, const qp_file *f, const char *path, int64_t most, int64_t *count) {
    int64_t       at = qp_file_find(f, "token_map");
    qp_file_entry e = qp_file_at(f, at);
    *count = 0;
    if (at < 0) return NULL;
    if (!e.loadable || (e.dtype != QP_I32 && e.dtype != QP_I64) || e.ndim != 1 || e.shape[0] < 1 || e.shape[0] > most) {
        qp_fail(ctx, QP_ERR_FORMAT, "%s: token_map: expected 1 to %lld token ids", path, (long long)most);
        return NULL;
    }
    int32_t *tokens = malloc((size_t)e.shape[0] * sizeof *tokens);
    qp_tensor t = qp_file_load(ctx, f, "token_map", false);
    if (!tokens) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: medusa");
    else if (qp_read(t, QP_I32, tokens, e.shape[0]) == QP_OK) *count = e.shape[0];
    return tokens;
}

/* As the model's own head is stored, or Q8_0 where that is blocks: a guess reads what it must. */
static qp_tensor narrowed(qp_tensor t, qp_dtype type) {
    if (type == QP_F32 || type == QP_BF16 || type == QP_F16 || qp_size(t, 1) % 32) return type == QP_F32 ? t : qp_cast(t, QP_BF16);
    qp_tensor blocks = qp_empty(t.ctx, QP_Q8_0, 2, (int64_t[]){qp_size(t, 0), qp_size(t, 1)});
    void     *to = qp_data_write(blocks);
    if (to) qpi_blocks_encode(QP_Q8_0, qp_data_of(t), qp_count(t), to);
    return blocks;
}

static bool read_weight(qp_medusa *m, const qp_file *f, const char *path, const char *name, qp_dtype type, qp_tensor into) {
    int64_t       at = qp_file_find(f, name);
    qp_file_entry e = qp_file_at(f, at);
    bool          ok = at >= 0 && e.loadable && qp_dtype_is_float(e.dtype) && e.ndim == qp_ndim(into);
    for (int i = 0; i < e.ndim && ok; i++) ok = e.shape[i] == qp_size(into, i);
    if (!ok) return !qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %s is missing, or does not fit the model", path, name);
    qp_tensor t = qp_file_load(m->ctx, f, name, false);
    if (qp_dtype_of(t) != QP_F32) t = qp_cast(t, QP_F32);
    t = qp_contiguous(t);
    return !qp_failed(m->ctx) && qp_param_set(into, qp_ndim(t) == 2 ? narrowed(t, type) : t) == QP_OK;
}

static bool read_all(qp_medusa *m, const qp_file *f, const char *path, qp_dtype type) {
    bool ok = true;
    char name[32];
    for (int h = 0; h < m->heads && ok; h++) {
        snprintf(name, sizeof name, "%d.0.linear.weight", h);
        ok = read_weight(m, f, path, name, type, qp_nn_linear_weight(m->block[h]));
        snprintf(name, sizeof name, "%d.0.linear.bias", h);
        ok = ok && read_weight(m, f, path, name, type, qp_nn_linear_bias(m->block[h]));
        snprintf(name, sizeof name, "%d.%d.weight", h, m->layers);
        if (m->out[h]) ok = ok && read_weight(m, f, path, name, type, qp_nn_linear_weight(m->out[h]));
    }
    return ok;
}

qp_medusa *qp_medusa_load(qp_model *base, const char *path) {
    qp_ctx  *ctx = base->ctx;
    qp_file *f = qp_failed(ctx) ? NULL : qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) return NULL;
    qp_medusa_options o = kind_of(f);
    qp_scope          s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (o.heads < 1) qp_fail(ctx, QP_ERR_FORMAT, "%s: no heads of Medusa (0.0.linear.weight is missing)", path);
    int32_t   *tokens = qp_failed(ctx) ? NULL : read_tokens(ctx, f, path, base->vocabulary, &o.token_count);
    o.tokens = tokens;
    qp_medusa *m = make(base, o);
    qp_tensor  head = QP_NONE;
    qp_nn_linear_each(base->module, "head", find_head, &head);
    qp_dtype type = qp_is_none(head) ? QP_F32 : qp_dtype_of(head);
    if (m && qp_dtype_block(type) > 1) qp_freeze(m->module, "*", true); /* blocks do not train */
    bool ok = m && read_all(m, f, path, type);
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
    int64_t D = x->medusa->width;
    if (qp_read(qp_slice(hidden, 0, n - 1, n, 1), QP_F32, x->hidden + row * D, D) != QP_OK) return;
}

/* A head's likeliest guesses, descending. */
typedef struct {
    float   p[TOP];
    int32_t id[TOP];
} guesses;

static void take_top(const qp_medusa *m, const float *p, guesses *top) {
    int count = 0;
    for (int64_t i = 0; i < m->count; i++) {
        if (count == TOP && !(p[i] > top->p[TOP - 1])) continue;
        int at = count < TOP ? count++ : TOP - 1;
        for (; at > 0 && p[i] > top->p[at - 1]; at--) {
            top->p[at] = top->p[at - 1];
            top->id[at] = top->id[at - 1];
        }
        top->p[at] = p[i];
        top->id[at] = m->tokens ? m->tokens[i] : (int32_t)i;
    }
    for (; count < TOP; count++) top->p[count] = 0;
}

/* A path that may become a node: guess `rank` of head `depth` behind `parent`. p: it has at most; before: its
 * parent has. */
typedef struct {
    float p, before;
    int   parent, depth, rank;
} path;

/* Is the token a child of parent? */
static bool is_child(const qpi_tree *t, int parent, int32_t id) {
    for (int k = parent + 1; k < t->count; k++)
        if (t->parents[k] == parent && t->ids[k] == id) return true;
    return false;
}

/* Drawn guesses can be any that their parent does not have: of these the likeliest counts. */
static path path_of(const qpi_tree *t, const guesses *top, path c) {
    int best = c.rank;
    if (t->sampler)
        for (best = 0; best + 1 < TOP && is_child(t, c.parent, top[c.depth].id[best]);) best++;
    c.p = c.before * top[c.depth].p[best];
    return c;
}

#define TRIES 32

/* The path's token: its guess, or one drawn. False: there is none. Its share of the head to *p. */
static bool add_node(const heads *x, qpi_tree *t, const guesses *top, path c, float *p) {
    const qp_medusa *m = x->medusa;
    if (!t->sampler) {
        *p = top[c.depth].p[c.rank];
        return qpi_tree_add(t, top[c.depth].id[c.rank], c.parent);
    }
    const qpi_chances *from = &x->base.from[t->row * m->heads + c.depth];
    for (int i = 0; i < TRIES; i++) {
        int32_t at = qpi_sampler_guess(t->sampler, from->p, from->count), id = from->ids ? from->ids[at] : at;
        *p = from->p[at];
        if (!is_child(t, c.parent, id)) return qpi_tree_add_drawn(t, id, c.parent, from);
    }
    return false;
}

/* The likeliest paths of a row become nodes, until there are enough or none is likely. */
static void grow(const heads *x, qpi_tree *t, const guesses *top) {
    path open[2 * QPI_MAX_DRAFTS];
    int  count = 0, most = NODES < t->limit ? NODES : t->limit, depth = x->medusa->heads;
    if (x->base.options.depth && x->base.options.depth < depth) depth = (int)x->base.options.depth;
    open[count++] = path_of(t, top, (path){.before = 1});
    while (t->count < most && count) {
        int   best = 0;
        float p;
        for (int i = 1; i < count; i++)
            if (open[i].p > open[best].p) best = i;
        path c = open[best];
        open[best] = open[--count];
        if (!(c.p >= LEAST) || !add_node(x, t, top, c, &p)) return;
        if (c.rank + 1 < TOP)
            open[count++] = path_of(t, top, (path){.before = c.before, .parent = c.parent, .depth = c.depth, .rank = c.rank + 1});
        if (c.depth + 1 < depth)
            open[count++] = path_of(t, top, (path){.before = c.before * p, .parent = t->count - 1, .depth = c.depth + 1});
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

/* A row of logits as probabilities at the request's temperature where guesses are drawn, kept there. */
static const float *chances(heads *x, const qpi_tree *t, int64_t h, qp_tensor row) {
    const qp_medusa *m = x->medusa;
    float           *p = x->p;
    if (t->sampler) {
        if (!qpi_drafter_room(&x->base, m->heads, m->count, m->tokens)) return NULL;
        p = x->base.p + (t->row * m->heads + h) * m->count;
        row = qp_affine(row, 1 / qpi_sampler_temperature(t->sampler), 0);
    }
    return qp_read(qp_softmax(row, 1), QP_F32, p, m->count) == QP_OK ? p : NULL;
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    heads          *x = (heads *)d;
    const qp_medusa *m = x->medusa;
    int64_t         D = m->width;
    qp_scope        s = qp_enter(m->ctx);
    qp_no_grad(m->ctx, true);
    for (int i = 0; i < n; i++) memcpy(x->gather + i * D, x->hidden + trees[i]->row * D, (size_t)D * sizeof *x->gather);
    qp_tensor logits = logits_of(m, qp_from(m->ctx, QP_F32, 2, (int64_t[]){n, D}, x->gather));
    for (int i = 0; i < n && !qp_failed(m->ctx); i++) {
        guesses top[MAX_HEADS];
        for (int64_t h = 0; h < m->heads; h++) {
            const float *p = chances(x, trees[i], h, qp_slice(logits, 0, h * n + i, h * n + i + 1, 1));
            if (!p) break;
            take_top(m, p, &top[h]);
        }
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
    if (!qp_failed(ctx) && (m->ctx != ctx || m->width != target->m->width || m->vocabulary != target->m->vocabulary)) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "medusa: the heads are of another model");
        return NULL;
    }
    heads *x = qpi_drafter_new(&type, sizeof *x, target, options);
    if (!x) return NULL;
    size_t rows = (size_t)target->rows * (size_t)m->width;
    x->medusa = m;
    x->hidden = calloc(rows, sizeof *x->hidden);
    x->gather = calloc(rows, sizeof *x->gather);
    x->p = malloc((size_t)m->count * sizeof *x->p);
    if (x->hidden && x->gather && x->p) return &x->base;
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    qp_drafter_close(&x->base);
    return NULL;
}
