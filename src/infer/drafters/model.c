/* A smaller model writes ahead, its likeliest tokens or drawn ones (Leviathan et al. 2023, arXiv:2211.17192; Chen
 * et al. 2023, arXiv:2302.01318). It has a session of its own, whose rows follow the target's: what the
 * target has kept stays, what it has refused is taken back before the next guess. */
#include <stdlib.h>
#include <string.h>

#include "infer/drafter.h"

#define DEPTH 4
#define CHUNK 256 /* positions of one call that catches up */

typedef struct {
    qp_drafter  base;
    qp_session *session;
    int32_t    *ids; /* of a call, [rows, CHUNK] */
    int64_t    *rows, *counts;
} follower;

/* The row is cut to what it has in common with the target's text; how much of that is missing. */
static int64_t catch_up(follower *f, const qpi_tree *t) {
    const int32_t *theirs = qpi_row_tokens(f->base.target, t->row), *ours = qpi_row_tokens(f->session, t->row);
    int64_t        length = f->base.target->row[t->row].length, own = f->session->row[t->row].length, same = 0;
    while (same < own && same < length && ours[same] == theirs[same]) same++;
    if (!qpi_row_cuts(f->session, t->row, same)) same = 0;
    if (qp_session_truncate(f->session, t->row, same) != QP_OK) return 0;
    return length + 1 - same;
}

static int64_t depth_of(const follower *f) { return f->base.options.depth ? f->base.options.depth : DEPTH; }

/* What follows in each tree, at depth k. */
typedef struct {
    int64_t            k;
    int32_t            ids[QPI_MAX_DRAFTS];
    const qpi_chances *from[QPI_MAX_DRAFTS];
} guess;

/* Feeds ids [n, T] to the rows of the trees; guesses of what follows those that are wanted. */
static bool feed(follower *f, int n, int64_t T, qpi_tree *const *trees, const int64_t *wanted, guess *next) {
    qp_ctx   *ctx = f->session->m->ctx;
    qp_scope  s = qp_enter(ctx);
    qp_tensor ids = qp_from(ctx, QP_I32, 2, (int64_t[]){n, T}, f->ids);
    qp_tensor logits = qp_session_feed(f->session, ids, (qp_feed){.rows = f->rows, .counts = f->counts});
    bool      ok =
        qpi_drafter_guess(&f->base, n, trees, next->k, depth_of(f), logits, wanted, next->ids, next->from);
    qp_leave(s);
    return ok;
}

/* Reads what the rows lack, in pieces, the longest of them at once; next: what follows the whole. */
static bool read_all(follower *f, int n, qpi_tree *const *trees, guess *next) {
    int64_t missing[QPI_MAX_DRAFTS], last[QPI_MAX_DRAFTS], most = 0;
    for (int i = 0; i < n; i++) {
        missing[i] = catch_up(f, trees[i]);
        if (missing[i] > most) most = missing[i];
    }
    while (most > 0 && !qp_failed(f->session->m->ctx)) {
        int64_t T = most < CHUNK ? most : CHUNK;
        guess   after = {0};
        memset(f->ids, 0, (size_t)(n * T) * sizeof *f->ids);
        for (int i = 0; i < n; i++) {
            int64_t        row = trees[i]->row, length = f->base.target->row[row].length;
            const int32_t *text = qpi_row_tokens(f->base.target, row);
            f->rows[i] = row;
            f->counts[i] = missing[i] < T ? missing[i] : T;
            last[i] = missing[i] > 0 && missing[i] <= T;
            for (int64_t t = 0; t < f->counts[i]; t++) {
                int64_t at = length + 1 - missing[i] + t;
                f->ids[i * T + t] = at < length ? text[at] : trees[i]->ids[0];
            }
        }
        if (!feed(f, n, T, trees, last, &after)) return false;
        for (int i = 0; i < n; i++) {
            if (last[i]) next->ids[i] = after.ids[i];
            if (last[i]) next->from[i] = after.from[i];
            missing[i] -= f->counts[i];
        }
        most -= T;
    }
    return !qp_failed(f->session->m->ctx);
}

static void draft_some(follower *f, int n, qpi_tree *const *trees) {
    guess next = {0};
    if (!read_all(f, n, trees, &next)) return;
    for (int64_t k = 0; k < depth_of(f); k++) {
        int64_t open = 0;
        for (int i = 0; i < n; i++) {
            bool added = next.ids[i] >= 0 &&
                         qpi_tree_add_drawn(trees[i], next.ids[i], trees[i]->count - 1, next.from[i]);
            bool room = f->session->row[trees[i]->row].length < f->session->reserved;
            f->ids[i] = added ? next.ids[i] : 0;
            f->counts[i] = added && room;
            open += f->counts[i];
            if (!f->counts[i]) next.ids[i] = -1;
        }
        guess after = {.k = k + 1};
        if (k + 1 == depth_of(f) || !open || !feed(f, n, 1, trees, f->counts, &after)) return;
        for (int i = 0; i < n; i++)
            if (f->counts[i]) {
                next.ids[i] = after.ids[i];
                next.from[i] = after.from[i];
            }
    }
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    for (int i = 0; i < n; i += QPI_MAX_DRAFTS)
        draft_some((follower *)d, n - i < QPI_MAX_DRAFTS ? n - i : QPI_MAX_DRAFTS, trees + i);
}

static void close(qp_drafter *d) { qp_session_close(((follower *)d)->session); }

static void destroy(qp_drafter *d) {
    follower *f = (follower *)d;
    free(f->ids);
    free(f->rows);
    free(f->counts);
}

static const qpi_drafter_type type = {.name = "model", .draft = draft, .close = close, .destroy = destroy};

qp_drafter *qp_drafter_model(qp_session *target, qp_model *draft_model, qp_drafter_options options) {
    qp_ctx *ctx = target->m->ctx;
    if (!qp_failed(ctx) && (draft_model->ctx != ctx || draft_model->vocabulary != target->m->vocabulary)) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "drafter: the model has %lld tokens, the one that it drafts for %lld",
                (long long)draft_model->vocabulary, (long long)target->m->vocabulary);
        return NULL;
    }
    follower *f = qpi_drafter_new(&type, sizeof *f, target, options);
    if (!f) return NULL;
    size_t rows = (size_t)target->rows, most = rows < QPI_MAX_DRAFTS ? rows : QPI_MAX_DRAFTS;
    f->session =
        qp_session_new(draft_model, target->rows, target->reserved, (qp_session_options){.kv = target->kv});
    f->ids = malloc(most * CHUNK * sizeof *f->ids);
    f->rows = malloc(rows * sizeof *f->rows);
    f->counts = malloc(rows * sizeof *f->counts);
    if (!f->ids || !f->rows || !f->counts) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: drafter");
    if (f->session && f->session->fixed)
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "drafter: the draft model has states of a fixed size");
    if (!qp_failed(ctx)) return &f->base;
    qp_drafter_close(&f->base);
    return NULL;
}
