#include <stdlib.h>
#include <string.h>

#include "core/blocks.h"
#include "infer/draft_head.h"
#include "infer/sampler.h"

bool qpi_draft_head_open(qpi_draft_head *h, qp_model *base, const int32_t *tokens, int64_t count,
                         const char *who) {
    *h = (qpi_draft_head){
        .ctx = base->ctx, .width = base->width, .vocabulary = base->vocabulary, .count = base->vocabulary};
    if (!count) return true;
    bool ok = count > 0 && count <= h->vocabulary;
    for (int64_t i = 0; i < count && ok; i++)
        ok = tokens[i] >= 0 && tokens[i] < h->vocabulary && (!i || tokens[i] > tokens[i - 1]);
    if (!ok)
        return !qp_fail(h->ctx, QP_ERR_ARGUMENT, "%s: its tokens are to ascend from 0 to %lld", who,
                        (long long)h->vocabulary - 1);
    h->count = count;
    h->tokens = malloc((size_t)count * sizeof *tokens);
    if (!h->tokens) return !qp_fail(h->ctx, QP_ERR_MEMORY, "out of memory: %s", who);
    memcpy(h->tokens, tokens, (size_t)count * sizeof *tokens);
    return true;
}

void qpi_draft_head_close(qpi_draft_head *h) { free(h->tokens); }

/* ---- Rows and labels -------------------------------------------------------------------------------- */

static void find_head(void *user, qp_nn_linear *l, const char *name) {
    qp_tensor *weight = user;
    if (!strcmp(name, "head")) *weight = qp_nn_linear_weight(l);
}

static qp_tensor head_of(qp_model *base) {
    qp_tensor head = QP_NONE;
    qp_nn_linear_each(base->module, "head", find_head, &head);
    return head;
}

qp_tensor qpi_draft_head_rows(const qpi_draft_head *h, qp_model *base) {
    qp_tensor head = head_of(base);
    if (qp_is_none(head) || qp_ndim(head) != 2 || qp_size(head, 0) != h->vocabulary ||
        qp_size(head, 1) != h->width) {
        qp_fail(h->ctx, QP_ERR_UNSUPPORTED, "drafter: the model has no head for tokens");
        return qpi_poison(h->ctx);
    }
    if (!h->tokens) return qp_detach(head);
    qp_tensor   rows = qp_empty(h->ctx, qp_dtype_of(head), 2, (int64_t[]){h->count, h->width});
    const char *from = qp_data_of(head);
    char       *to = qp_data_write(rows);
    size_t      bytes = qp_dtype_size(qp_dtype_of(head), h->width);
    for (int64_t i = 0; i < h->count && from && to; i++)
        memcpy(to + (size_t)i * bytes, from + (size_t)h->tokens[i] * bytes, bytes);
    return rows;
}

int qpi_draft_ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

qp_tensor qpi_draft_head_labels(const qpi_draft_head *h, qp_tensor labels) {
    if (!h->tokens) return labels;
    int64_t  n = qp_count(labels);
    int64_t *rows = malloc((size_t)n * sizeof *rows + 1);
    if (!rows) {
        qp_fail(h->ctx, QP_ERR_MEMORY, "out of memory: drafter");
        return qpi_poison(h->ctx);
    }
    bool ok = qp_read(labels, QP_I64, rows, n) == QP_OK;
    for (int64_t i = 0; i < n && ok; i++) {
        int32_t  id = rows[i] < 0 || rows[i] >= h->vocabulary ? -1 : (int32_t)rows[i];
        int32_t *at = bsearch(&id, h->tokens, (size_t)h->count, sizeof id, qpi_draft_ascending);
        rows[i] = at ? at - h->tokens : -100;
    }
    qp_tensor t = ok ? qp_from(h->ctx, QP_I64, 2, (int64_t[]){qp_size(labels, 0), qp_size(labels, 1)}, rows)
                     : qpi_poison(h->ctx);
    free(rows);
    return t;
}

/* ---- Files ------------------------------------------------------------------------------------------ */

int32_t *qpi_draft_tokens_read(qp_ctx *ctx, const qp_file *f, const char *path, int64_t most, int64_t *count) {
    int64_t       at = qp_file_find(f, "token_map");
    qp_file_entry e = qp_file_at(f, at);
    *count = 0;
    if (at < 0) return NULL;
    if (!e.loadable || (e.dtype != QP_I32 && e.dtype != QP_I64) || e.ndim != 1 || e.shape[0] < 1 ||
        e.shape[0] > most) {
        qp_fail(ctx, QP_ERR_FORMAT, "%s: token_map: expected 1 to %lld token ids", path, (long long)most);
        return NULL;
    }
    int32_t  *tokens = malloc((size_t)e.shape[0] * sizeof *tokens);
    qp_tensor t = qp_file_load(ctx, f, "token_map", false);
    if (!tokens) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    else if (qp_read(t, QP_I32, tokens, e.shape[0]) == QP_OK) *count = e.shape[0];
    return tokens;
}

qp_named qpi_draft_head_map(const qpi_draft_head *h) {
    return (qp_named){"token_map", qp_from(h->ctx, QP_I32, 1, &h->count, h->tokens)};
}

qp_dtype qpi_draft_dtype(qp_model *base) {
    qp_tensor head = head_of(base);
    qp_dtype  type = qp_is_none(head) ? QP_F32 : qp_dtype_of(head);
    return qp_dtype_block(type) > 1 ? QP_Q8_0 : type == QP_F32 ? QP_F32 : QP_BF16;
}

qp_tensor qpi_draft_narrowed(qp_tensor t, qp_model *base) {
    qp_dtype type = qpi_draft_dtype(base);
    if (type != QP_Q8_0 || qp_size(t, 1) % 32) return type == QP_F32 ? t : qp_cast(t, QP_BF16);
    qp_tensor blocks = qp_empty(t.ctx, QP_Q8_0, 2, (int64_t[]){qp_size(t, 0), qp_size(t, 1)});
    void     *to = qp_data_write(blocks);
    if (to) qpi_blocks_encode(QP_Q8_0, qp_data_of(t), qp_count(t), to);
    return blocks;
}

/* ---- Guesses ---------------------------------------------------------------------------------------- */

static void take_top(const qpi_draft_head *h, const float *p, qpi_guesses *top) {
    int count = 0;
    for (int64_t i = 0; i < h->count; i++) {
        if (count == QPI_GUESSES && !(p[i] > top->p[QPI_GUESSES - 1])) continue;
        int at = count < QPI_GUESSES ? count++ : QPI_GUESSES - 1;
        for (; at > 0 && p[i] > top->p[at - 1]; at--) {
            top->p[at] = top->p[at - 1];
            top->id[at] = top->id[at - 1];
        }
        top->p[at] = p[i];
        top->id[at] = h->tokens ? h->tokens[i] : (int32_t)i;
    }
    for (; count < QPI_GUESSES; count++) top->p[count] = 0;
}

bool qpi_draft_head_guess(const qpi_draft_head *h, qp_drafter *d, const qpi_tree *t, int64_t k, int64_t depth,
                          qp_tensor logits, float *p, qpi_guesses *out) {
    if (t->sampler) {
        if (!qpi_drafter_room(d, depth, h->count, h->tokens)) return false;
        p = d->p + (t->row * depth + k) * h->count;
        logits = qp_affine(logits, 1 / qpi_sampler_temperature(t->sampler), 0);
    }
    if (qp_read(qp_softmax(logits, 1), QP_F32, p, h->count) != QP_OK) return false;
    take_top(h, p, out);
    return true;
}

/* Is the token a child of parent? */
static bool is_child(const qpi_tree *t, int64_t parent, int32_t id) {
    for (int64_t k = parent + 1; k < t->count; k++)
        if (t->parents[k] == parent && t->ids[k] == id) return true;
    return false;
}

float qpi_draft_head_most(const qpi_tree *t, int64_t parent, const qpi_guesses *g, int rank) {
    if (t->sampler)
        for (rank = 0; rank + 1 < QPI_GUESSES && is_child(t, parent, g->id[rank]);) rank++;
    return g->p[rank];
}

#define TRIES 32

bool qpi_draft_head_add(const qp_drafter *d, qpi_tree *t, int64_t parent, const qpi_guesses *g, int rank,
                        int64_t k, int64_t depth, float *p) {
    if (!t->sampler) {
        *p = g->p[rank];
        return qpi_tree_add(t, g->id[rank], parent);
    }
    const qpi_chances *from = &d->from[t->row * depth + k];
    for (int i = 0; i < TRIES; i++) {
        int32_t at = qpi_sampler_guess(t->sampler, from->p, from->count), id = from->ids ? from->ids[at] : at;
        *p = from->p[at];
        if (!is_child(t, parent, id)) return qpi_tree_add_drawn(t, id, parent, from);
    }
    return false;
}
