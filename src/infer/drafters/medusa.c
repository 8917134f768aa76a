/* Medusa (Cai et al. 2024, arXiv:2401.10774): heads on a frozen model's last hidden state. Head h reads
 * the state at the last token that the model has read and guesses the token h + 1 places behind the one
 * that the model itself gives:
 *
 *   x = hidden;  `layers` times x = x + silu(W_h x + b_h), the same W_h;  logits = U_h x
 *
 * W_h begins at 0 and U_h at the model's own head, so that a fresh head guesses what the model does. The
 * loss is the sum of 0.8^h times each head's cross-entropy. Where the published code takes one fixed
 * tree, this one grows with what the heads are sure of, as EAGLE-2's does (arXiv:2406.16858): the most
 * probable paths first.
 *
 * Files have the published names: H.L.linear.weight, H.L.linear.bias, H.LAYERS.weight. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/drafter.h"
#include "nn/module.h"

#define MAX_HEADS 16
#define TOP 8       /* guesses of a head that are looked at */
#define NODES 12    /* of a tree, the root included */
#define LEAST 0.05f /* a path less probable is not worth its row */

struct qp_medusa {
    qp_ctx       *ctx;
    qp_module    *module;
    qpi_owned    *owned;
    int64_t       width, vocabulary;
    int           heads, layers;
    qp_nn_linear *block[MAX_HEADS], *out[MAX_HEADS];
};

/* ---- Heads ---------------------------------------------------------------------------------------- */

static void destroy_medusa(void *thing) { free(thing); }

void qp_medusa_close(qp_medusa *m) {
    if (!m) return;
    qp_module_close(m->module);
    qpi_disown(m->owned);
    free(m);
}

static bool build(qp_medusa *m) {
    m->module = qp_module_new(m->ctx, NULL, "medusa");
    for (int h = 0; h < m->heads && m->module; h++) {
        char name[16];
        snprintf(name, sizeof name, "%d", h);
        qp_module *head = qp_module_new(m->ctx, m->module, name), *first = head ? qp_module_new(m->ctx, head, "0") : NULL;
        if (!first) return false;
        snprintf(name, sizeof name, "%d", m->layers);
        m->block[h] = qp_nn_linear_new(first, "linear", m->width, m->width, (qp_linear_options){.bias = true, .init = "zeros"});
        m->out[h] = qp_nn_linear_new(head, name, m->width, m->vocabulary, (qp_linear_options){0});
    }
    return m->module && !qp_failed(m->ctx);
}

static qp_medusa *make(qp_model *base, int heads, int layers) {
    qp_ctx *ctx = base->ctx;
    if (qp_failed(ctx)) return NULL;
    if (heads < 1 || heads > MAX_HEADS || layers < 1 || layers > 8) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "medusa: %d heads of %d layers, expected 1 to %d of 1 to 8", heads, layers, MAX_HEADS);
        return NULL;
    }
    qp_medusa *m = calloc(1, sizeof *m);
    if (m) *m = (qp_medusa){.ctx = ctx, .width = base->width, .vocabulary = base->vocabulary, .heads = heads, .layers = layers};
    if (!m || !(m->owned = qpi_own(ctx, m, destroy_medusa))) {
        free(m);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: medusa");
        return NULL;
    }
    if (build(m)) return m;
    qp_medusa_close(m);
    return NULL;
}

static void find_head(void *user, qp_nn_linear *l, const char *name) {
    qp_tensor *weight = user;
    if (!strcmp(name, "head")) *weight = qp_nn_linear_weight(l);
}

qp_medusa *qp_medusa_new(qp_model *base, int heads, int layers) {
    qp_medusa *m = make(base, heads, layers);
    qp_tensor  head = QP_NONE;
    if (!m) return NULL;
    qp_scope s = qp_enter(m->ctx);
    qp_no_grad(m->ctx, true);
    qp_nn_linear_each(base->module, "head", find_head, &head);
    bool fits = !qp_is_none(head) && qp_size(head, 0) == m->vocabulary && qp_size(head, 1) == m->width;
    for (int h = 0; h < m->heads && fits; h++) {
        qp_tensor own = qp_empty(m->ctx, QP_F32, 2, (int64_t[]){m->vocabulary, m->width});
        if (qp_copy_to(own, qp_cast(head, QP_F32)) != QP_OK ||
            qp_param_set(qp_nn_linear_weight(m->out[h]), own) != QP_OK)
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

qp_tensor qp_medusa_loss(qp_medusa *m, qp_tensor hidden, qp_tensor labels) {
    qp_scope  s = qp_enter(m->ctx);
    int64_t   B = qp_size(labels, 0), T = qp_size(labels, 1);
    qp_tensor sum = QP_NONE;
    for (int h = 0; h < m->heads && h + 1 < T; h++) {
        qp_tensor x = qp_slice(hidden, 1, 0, T - 1 - h, 1), y = qp_contiguous(qp_slice(labels, 1, h + 1, T, 1));
        qp_tensor flat = qp_reshape(features(m, h, x), 2, (int64_t[]){B * (T - 1 - h), m->width});
        qp_tensor loss = qp_linear_cross_entropy(flat, qp_nn_linear_weight(m->out[h]), qp_reshape(y, 1, (int64_t[]){-1}),
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
    qp_named named[MAX_HEADS * 17];
    char     names[MAX_HEADS * 17][48];
    int      n = 0;
    for (int h = 0; h < m->heads; h++) {
        for (int l = 0; l < m->layers; l++)
            for (int bias = 0; bias < 2; bias++, n++) {
                snprintf(names[n], sizeof names[n], "%d.%d.linear.%s", h, l, bias ? "bias" : "weight");
                named[n] = (qp_named){names[n], bias ? qp_nn_linear_bias(m->block[h]) : qp_nn_linear_weight(m->block[h])};
            }
        snprintf(names[n], sizeof names[n], "%d.%d.weight", h, m->layers);
        named[n] = (qp_named){names[n], qp_nn_linear_weight(m->out[h])};
        n++;
    }
    return qp_file_save(m->ctx, path, n, named, (qp_save_options){0});
}

/* Heads and layers by the names that are there. */
static void count(const qp_file *f, int *heads, int *layers) {
    char name[32];
    for (*heads = 0; *heads <= MAX_HEADS; ++*heads) {
        snprintf(name, sizeof name, "%d.0.linear.weight", *heads);
        if (qp_file_find(f, name) < 0) break;
    }
    for (*layers = 0; *layers <= 8; ++*layers) {
        snprintf(name, sizeof name, "0.%d.linear.weight", *layers);
        if (qp_file_find(f, name) < 0) break;
    }
}

static bool read_weight(qp_medusa *m, const qp_file *f, const char *path, const char *name, qp_tensor into) {
    int64_t       at = qp_file_find(f, name);
    qp_file_entry e = qp_file_at(f, at);
    bool          ok = at >= 0 && e.loadable && qp_dtype_is_float(e.dtype) && e.ndim == qp_ndim(into);
    for (int i = 0; i < e.ndim && ok; i++) ok = e.shape[i] == qp_size(into, i);
    if (!ok) return !qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %s is missing, or does not fit the model", path, name);
    qp_tensor t = qp_file_load(m->ctx, f, name, false);
    if (qp_dtype_of(t) != QP_F32) t = qp_cast(t, QP_F32);
    return qp_param_set(into, qp_contiguous(t)) == QP_OK;
}

static bool read_all(qp_medusa *m, const qp_file *f, const char *path) {
    bool ok = true;
    char name[32];
    for (int h = 0; h < m->heads && ok; h++) {
        snprintf(name, sizeof name, "%d.0.linear.weight", h);
        ok = read_weight(m, f, path, name, qp_nn_linear_weight(m->block[h]));
        snprintf(name, sizeof name, "%d.0.linear.bias", h);
        ok = ok && read_weight(m, f, path, name, qp_nn_linear_bias(m->block[h]));
        snprintf(name, sizeof name, "%d.%d.weight", h, m->layers);
        ok = ok && read_weight(m, f, path, name, qp_nn_linear_weight(m->out[h]));
    }
    return ok;
}

qp_medusa *qp_medusa_load(qp_model *base, const char *path) {
    qp_ctx  *ctx = base->ctx;
    qp_file *f = qp_failed(ctx) ? NULL : qp_file_open(ctx, path, (qp_file_options){0});
    int      heads, layers;
    if (!f) return NULL;
    count(f, &heads, &layers);
    if (heads < 1) qp_fail(ctx, QP_ERR_FORMAT, "%s: no heads of Medusa (0.0.linear.weight is missing)", path);
    qp_medusa *m = make(base, heads, layers);
    qp_scope   s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    bool ok = m && read_all(m, f, path);
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
    float     *logits; /* [V] */
    float     *gather; /* [rows, D], of a call */
} heads;

static void read_state(qp_drafter *d, int64_t row, int64_t n, qp_tensor hidden) {
    heads  *x = (heads *)d;
    int64_t D = x->medusa->width;
    if (qp_read(qp_slice(hidden, 0, n - 1, n, 1), QP_F32, x->hidden + row * D, D) != QP_OK) return;
}

/* A path that may become a node: the guess `rank` of head `depth` behind `parent`. */
typedef struct {
    float p;
    int   parent, depth, rank;
} path;

/* The likeliest paths of a row become nodes, until there are enough or none is likely. */
static void grow(const heads *x, qpi_tree *t, qp_logprob (*top)[TOP + 1]) {
    path open[2 * QPI_MAX_DRAFTS];
    int  count = 0, most = NODES < t->limit ? NODES : t->limit, depth = x->medusa->heads;
    if (x->base.options.depth && x->base.options.depth < depth) depth = (int)x->base.options.depth;
    open[count++] = (path){expf(top[0][1].logprob), 0, 0, 0};
    while (t->count < most && count) {
        int best = 0;
        for (int i = 1; i < count; i++)
            if (open[i].p > open[best].p) best = i;
        path  c = open[best];
        float before = c.p / expf(top[c.depth][c.rank + 1].logprob);
        open[best] = open[--count];
        if (c.p < LEAST || !qpi_tree_add(t, top[c.depth][c.rank + 1].id, c.parent)) return;
        if (c.rank + 1 < TOP)
            open[count++] = (path){before * expf(top[c.depth][c.rank + 2].logprob), c.parent, c.depth, c.rank + 1};
        if (c.depth + 1 < depth)
            open[count++] = (path){c.p * expf(top[c.depth + 1][1].logprob), t->count - 1, c.depth + 1, 0};
    }
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    heads          *x = (heads *)d;
    const qp_medusa *m = x->medusa;
    int64_t         D = m->width, V = m->vocabulary;
    qp_scope        s = qp_enter(m->ctx);
    qp_tensor       logits[MAX_HEADS];
    qp_no_grad(m->ctx, true);
    for (int i = 0; i < n; i++) memcpy(x->gather + i * D, x->hidden + trees[i]->row * D, (size_t)D * sizeof *x->gather);
    qp_tensor hidden = qp_from(m->ctx, QP_F32, 2, (int64_t[]){n, D}, x->gather);
    for (int h = 0; h < m->heads; h++)
        logits[h] = qp_nn_linear_forward(m->out[h], features(m, h, hidden), QP_ACT_NONE, QP_NONE);
    for (int i = 0; i < n && !qp_failed(m->ctx); i++) {
        qp_logprob top[MAX_HEADS][TOP + 1] = {0};
        for (int h = 0; h < m->heads; h++) {
            if (qp_read(qp_slice(logits[h], 0, i, i + 1, 1), QP_F32, x->logits, V) != QP_OK) break;
            for (int k = 0; k <= TOP; k++) top[h][k].logprob = -INFINITY;
            qp_logprobs(x->logits, V, 0, TOP < V ? TOP : (int)V, top[h]);
        }
        grow(x, trees[i], top);
    }
    qp_leave(s);
}

static void destroy(qp_drafter *d) {
    heads *x = (heads *)d;
    free(x->hidden);
    free(x->logits);
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
    x->logits = malloc((size_t)m->vocabulary * sizeof *x->logits);
    if (x->hidden && x->gather && x->logits) return &x->base;
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    qp_drafter_close(&x->base);
    return NULL;
}
