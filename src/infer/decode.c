/* Draft, verify, draw: the loop behind every text.
 *
 * The model reads a tree of tokens at once (one token, where nobody guesses): at each node it gives the
 * logits that plain decoding would give behind the same text, so the token drawn there is (by the rule
 * "match") the one that plain decoding would draw. If a child holds it, the walk goes on from there; the
 * nodes that were walked stay in the row. */
#include <stdlib.h>
#include <string.h>

#include "infer/decode.h"

#define ECHO_ROWS 64 /* positions of a prompt whose logits are made at once */

bool qpi_decoder_open(qpi_decoder *d, qp_session *session, qp_drafter *drafter, int64_t seats) {
    qp_ctx *ctx = session->m->ctx;
    size_t  nodes = (size_t)seats * QPI_MAX_DRAFTS;
    *d = (qpi_decoder){.session = session, .drafter = drafter};
    if (drafter && drafter->target != session) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "generate: the drafter is another session's");
        return false;
    }
    d->ids = malloc(nodes * sizeof *d->ids);
    d->integers = malloc((2 * nodes + 2 * (size_t)seats) * sizeof *d->integers);
    d->path = malloc(QPI_MAX_DRAFTS * sizeof *d->path);
    d->trees = malloc((size_t)seats * sizeof(qpi_tree *));
    if (d->ids && d->integers && d->path && d->trees) return true;
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: generate");
    return false;
}

void qpi_decoder_close(qpi_decoder *d) {
    free(d->logits);
    free(d->ids);
    free(d->integers);
    free(d->path);
    free(d->trees);
}

/* The logits of rows of hidden [n, D] in d->logits. */
static bool make_logits(qpi_decoder *d, qp_tensor hidden) {
    qp_ctx   *ctx = d->session->m->ctx;
    qp_tensor logits = qp_model_head(d->session->m, hidden);
    int64_t   rows = qp_failed(ctx) ? 0 : qp_size(logits, 0), V = d->session->m->vocabulary;
    if (rows > d->logit_room) {
        free(d->logits);
        d->logit_room = 0;
        d->logits = malloc((size_t)(rows * V) * sizeof *d->logits);
        if (!d->logits) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: logits");
        else d->logit_room = rows;
    }
    return !qp_failed(ctx) && qp_read(logits, QP_F32, d->logits, rows * V) == QP_OK;
}

/* An error within one seat's text. */
static void forgive(qpi_decoder *d, qpi_reply *r) {
    qp_ctx *ctx = d->session->m->ctx;
    if (!d->forgiving || !qp_failed(ctx)) return;
    strncpy(r->error, qp_error(ctx), sizeof r->error - 1);
    r->stopped = false;
    qpi_reply_stop(r, QP_STOP_ERROR);
    qp_clear(ctx);
}

/* ---- Prompts -------------------------------------------------------------------------------------- */

/* The tokens that follow first .. first + n - 1 of the prompt, with the logits they had; before, all up to the
 * first position that is read. */
static bool echo(qpi_decoder *d, qpi_seat *seat, qp_tensor hidden, int64_t first, int64_t n) {
    qpi_reply *r = seat->reply;
    int64_t    V = d->session->m->vocabulary;
    if (!r->options->echo) return true;
    for (int64_t i = 0; i <= first && first == r->result.reused; i++) qpi_reply_echo(r, seat->prompt[i], NULL);
    for (int64_t i = 0; i < n && !r->stopped; i += ECHO_ROWS) {
        int64_t  rows = n - i < ECHO_ROWS ? n - i : ECHO_ROWS;
        qp_scope s = qp_enter(hidden.ctx);
        bool     ok = !r->logprobs || make_logits(d, qp_slice(hidden, 0, i, i + rows, 1));
        qp_leave(s);
        if (!ok) return false;
        for (int64_t k = 0; k < rows && first + i + k + 1 < seat->prompt_count; k++)
            qpi_reply_echo(r, seat->prompt[first + i + k + 1], d->logits + (r->logprobs ? k * V : 0));
    }
    return true;
}

bool qpi_decoder_prompt(qpi_decoder *d, qpi_seat *seat, int64_t chunk) {
    qp_ctx  *ctx = d->session->m->ctx;
    int64_t  first = d->session->row[seat->row].length - seat->origin, n = seat->prompt_count - first;
    bool     last = n <= chunk;
    qp_scope s = qp_enter(ctx);
    if (!last) n = chunk;
    qp_no_grad(ctx, true);
    qp_tensor ids = qp_from(ctx, QP_I32, 2, (int64_t[]){1, n}, seat->prompt + first);
    qp_tensor hidden = qp_session_hidden(d->session, ids, (qp_feed){.rows = &seat->row});
    hidden = qp_reshape(hidden, 2, (int64_t[]){n, d->session->m->width});
    bool ok = !qp_failed(ctx) && echo(d, seat, hidden, first, n);
    if (ok && d->drafter && d->drafter->type->read) d->drafter->type->read(d->drafter, seat->row, n, hidden);
    if (ok && last) {
        ok = make_logits(d, qp_slice(hidden, 0, n - 1, n, 1));
        qpi_reply_begin(seat->reply);
        qpi_verdict v = qpi_reply_verdict(seat->reply, NULL, d->logits);
        if (ok && !seat->reply->stopped) qpi_reply_draw(seat->reply, &v, 0, &seat->pending);
    }
    qp_leave(s);
    forgive(d, seat->reply);
    return !qp_failed(ctx);
}

/* ---- Writing -------------------------------------------------------------------------------------- */

/* Guesses for all seats; the most nodes that one has. */
static int draft(qpi_decoder *d, int n, qpi_seat *const *seats) {
    int most = 1;
    for (int i = 0; i < n; i++) {
        qpi_seat  *seat = seats[i];
        qpi_reply *r = seat->reply;
        int64_t    room = d->session->reserved - d->session->row[seat->row].length;
        int64_t    left = r->options->max_tokens - r->result.tokens; /* the last is not read */
        int64_t    limit = room < left ? room : left;
        seat->tree.row = seat->row;
        seat->tree.count = 0;
        seat->tree.sampler = r->acceptance->draws && r->options->sampling.temperature > 0 ? r->sampler : NULL;
        seat->tree.limit = limit < 1 ? 1 : limit < QPI_MAX_DRAFTS ? (int)limit : QPI_MAX_DRAFTS;
        qpi_tree_add(&seat->tree, seat->pending, -1);
        d->trees[i] = &seat->tree;
    }
    if (d->drafter) d->drafter->type->draft(d->drafter, n, d->trees);
    for (int i = 0; i < n; i++)
        if (seats[i]->tree.count > most) most = seats[i]->tree.count;
    return most;
}

/* Reads the trees: hidden [nodes of all, D], tree by tree. */
static qp_tensor verify(qpi_decoder *d, int n, qpi_seat *const *seats, int T) {
    qp_ctx  *ctx = d->session->m->ctx;
    int64_t *rows = d->integers, *counts = rows + n, *parents = counts + n, *index = parents + (int64_t)n * T,
            nodes = 0;
    for (int i = 0; i < n; i++) {
        const qpi_tree *t = &seats[i]->tree;
        rows[i] = t->row;
        counts[i] = t->count;
        for (int k = 0; k < T; k++) {
            d->ids[i * T + k] = k < t->count ? t->ids[k] : 0;
            parents[i * T + k] = k < t->count ? t->parents[k] : -1;
            if (k < t->count) index[nodes++] = i * T + k;
        }
    }
    qp_tensor ids = qp_from(ctx, QP_I32, 2, (int64_t[]){n, T}, d->ids);
    qp_feed   how = {.rows = rows, .counts = T > 1 ? counts : NULL, .parents = T > 1 ? parents : NULL};
    qp_tensor hidden = qp_session_hidden(d->session, ids, how);
    hidden = qp_reshape(hidden, 2, (int64_t[]){(int64_t)n * T, d->session->m->width});
    return nodes == (int64_t)n * T ? hidden : qp_embedding(hidden, qp_from(ctx, QP_I64, 1, &nodes, index));
}

static int child_of(const qpi_tree *t, int node, int32_t id) {
    for (int k = node + 1; k < t->count; k++)
        if (t->parents[k] == node && t->ids[k] == id) return k;
    return -1;
}

/* Draws from the root down, as far as the tree goes along; the nodes that were walked to path. */
static int64_t walk(qpi_decoder *d, qpi_seat *seat, float *logits) {
    const qpi_tree *t = &seat->tree;
    qpi_verdict     v = qpi_reply_verdict(seat->reply, t, logits);
    int64_t         n = 0;
    int             node = 0;
    do {
        d->path[n++] = node;
        if (!qpi_reply_draw(seat->reply, &v, node, &seat->pending)) break;
        node = child_of(t, node, seat->pending);
    } while (node >= 0);
    seat->reply->result.calls++;
    seat->reply->result.drafted += t->count - 1;
    seat->reply->result.accepted += n - 1;
    return n;
}

/* What a seat makes of its part of the logits and of hidden, from node `first` of all on. */
static void settle(qpi_decoder *d, qpi_seat *seat, qp_tensor hidden, int64_t first, bool drafts) {
    qp_ctx     *ctx = d->session->m->ctx;
    qp_drafter *drafter = d->drafter;
    int64_t     n = walk(d, seat, d->logits + first * d->session->m->vocabulary);
    forgive(d, seat->reply);
    bool kept = !drafts || qp_session_choose(d->session, seat->row, n, d->path) == QP_OK;
    if (kept && drafter && drafter->type->read) {
        for (int64_t i = 0; i < n; i++) d->path[i] += first;
        drafter->type->read(drafter, seat->row, n, qp_embedding(hidden, qp_from(ctx, QP_I64, 1, &n, d->path)));
    }
    if (d->session->row[seat->row].length == d->session->reserved) qpi_reply_stop(seat->reply, QP_STOP_LENGTH);
    forgive(d, seat->reply);
}

/* After an error drafts that are still there would be in the way. */
static void give_up(qpi_decoder *d, int n, qpi_seat *const *seats) {
    for (int i = 0; i < n; i++) d->session->row[seats[i]->row].drafts = 0;
}

/* The rows hold the pending tokens, which must not be read again, but the logits of all failed: those of each
 * alone. */
static void settle_alone(qpi_decoder *d, int n, qpi_seat *const *seats, qp_tensor hidden) {
    for (int64_t i = 0; i < n; i++) {
        if (n > 1) {
            qp_clear(d->session->m->ctx);
            qp_tensor own = qp_slice(hidden, 0, i, i + 1, 1);
            if (make_logits(d, own)) settle(d, seats[i], own, 0, false);
        }
        forgive(d, seats[i]->reply);
    }
}

bool qpi_decoder_step(qpi_decoder *d, int n, qpi_seat *const *seats) {
    qp_ctx  *ctx = d->session->m->ctx;
    qp_scope s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    int            T = draft(d, n, seats);
    const int64_t *length = &d->session->row[seats[0]->row].length, before = *length;
    qp_tensor      hidden = verify(d, n, seats, T);
    bool           ok = !qp_failed(ctx) && make_logits(d, hidden);
    int64_t        first = 0;
    bool           alone = !ok && d->forgiving && *length > before;
    if (alone) settle_alone(d, n, seats, hidden);
    for (int i = 0; i < n && ok; i++) {
        settle(d, seats[i], hidden, first, T > 1);
        first += seats[i]->tree.count;
        ok = !qp_failed(ctx);
    }
    if (!ok && !alone) give_up(d, n, seats);
    qp_leave(s);
    return ok || alone;
}
