/* A session: a model with carried state, fed position by position. */
#include <stdlib.h>
#include <string.h>

#include "infer/session.h"

/* ---- Making and closing ------------------------------------------------------------------------- */

static void drop_state(qp_state *state) {
    for (int j = 0; j < QP_MAX_STATE; j++) {
        qp_drop(state->tensors[j]);
        qp_drop(state->next[j]);
    }
    *state = (qp_state){0};
}

static void destroy(void *thing) {
    qp_session *s = thing;
    free(s->row);
    free(s->tokens);
    qpi_windows_free(s);
    free(s->states);
    free(s->now);
    free(s->integers);
    free(s->ids);
    free(s);
}

void qp_session_close(qp_session *s) {
    if (!s) return;
    qp_model *m = s->m;
    for (int64_t i = 0; i < qpi_state_count(s); i++) drop_state(&s->states[i]);
    qpi_disown(s->owned);
    destroy(s);
    qpi_model_release(m);
}

/* An empty state i. */
static bool reserve(qp_session *s, int64_t i) {
    qp_ctx     *ctx = s->m->ctx;
    qpi_carrier c = qpi_model_carrier(s->m, i);
    s->window_of[i] = -1;
    if (!c.name) return true;
    if (!c.steps || !c.causal)
        return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "session: %s %s", c.name,
                        c.steps ? "is not causal here: it sees whole sequences" : "has no step form");
    qp_state *state = &s->states[i];
    qp_scope  scope = qp_enter(ctx);
    state->type = s->kv;
    state->spare = QPI_WINDOW_SPARE;
    c.reserve(c.self, ctx, s->rows, s->reserved, state);
    if (qp_failed(ctx)) *state = (qp_state){0};
    for (int j = 0; j < state->count; j++) {
        qp_keep(state->tensors[j]);
        if (!state->grows[j]) s->fixed = true;
    }
    qp_leave(scope);
    return !qp_failed(ctx) && qpi_window_add(s, i);
}

static bool allocate(qp_session *s) {
    size_t states = (size_t)qpi_state_count(s) + 1;
    s->row = calloc((size_t)s->rows, sizeof *s->row);
    s->tokens = calloc((size_t)s->rows, (size_t)s->reserved * sizeof *s->tokens);
    s->states = calloc(states, sizeof *s->states);
    s->now = calloc(states, sizeof *s->now);
    s->window_of = calloc(states, sizeof *s->window_of);
    return s->row && s->tokens && s->states && s->now && s->window_of;
}

qp_session *qp_session_new(qp_model *m, int64_t rows, int64_t positions, qp_session_options options) {
    qp_ctx *ctx = m->ctx;
    if (qp_failed(ctx)) return NULL;
    if (rows < 1 || rows > 1 << 20 || positions < 1 || positions > INT32_MAX / 2) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "session: %lld rows of %lld positions, expected 1 to 2^20 and 1 to 2^30",
                (long long)rows, (long long)positions);
        return NULL;
    }
    if (options.kv != QP_F32 && options.kv != QP_BF16 && options.kv != QP_F16 && options.kv != QP_Q8_0) {
        qp_fail(ctx, QP_ERR_TYPE, "session: keys and values in %s, expected f32, bf16, f16 or q8_0",
                qp_dtype_name(options.kv));
        return NULL;
    }
    qp_session *s = calloc(1, sizeof *s);
    if (s) *s = (qp_session){.m = m, .rows = rows, .reserved = positions, .kv = options.kv};
    if (!s || !allocate(s) || !(s->owned = qpi_own(ctx, s, destroy))) {
        if (s) destroy(s);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: session");
        return NULL;
    }
    qpi_model_use(m);
    for (int64_t i = 0; i < qpi_state_count(s); i++)
        if (!reserve(s, i)) {
            qp_session_close(s);
            return NULL;
        }
    return s;
}

/* ---- A call --------------------------------------------------------------------------------------- */

/* What a call adds: for each of its B sequences. */
typedef struct {
    int64_t        B, T;
    int64_t       *rows, *starts, *counts, *lengths; /* [B] */
    int64_t       *places;                           /* [2, B], for windows */
    int64_t       *positions;                        /* [B, T] */
    const int64_t *parents;                          /* [B, T] or NULL */
    bool           all, whole;                       /* every row in order; every count T */
} call;

static bool room_for(qp_session *s, int64_t integers, int64_t ids) {
    if (integers > s->integer_room) {
        int64_t *grown = realloc(s->integers, (size_t)integers * sizeof *grown);
        if (!grown) return false;
        s->integers = grown;
        s->integer_room = integers;
    }
    if (ids > s->id_room) {
        int32_t *grown = realloc(s->ids, (size_t)ids * sizeof *grown);
        if (!grown) return false;
        s->ids = grown;
        s->id_room = ids;
    }
    return true;
}

bool qpi_row_idle(const qp_session *s, int64_t row, const char *who) {
    qp_ctx *ctx = s->m->ctx;
    if (row < 0 || row >= s->rows)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "%s: row %lld of %lld", who, (long long)row, (long long)s->rows);
    if (s->row[row].drafts)
        return !qp_fail(ctx, QP_ERR_STATE, "%s: row %lld has drafts to be chosen from", who, (long long)row);
    return true;
}

bool qpi_row_ready(const qp_session *s, int64_t row, const char *who) {
    if (!qpi_row_idle(s, row, who)) return false;
    if (s->row[row].dirty)
        return !qp_fail(s->m->ctx, QP_ERR_STATE,
                        "%s: row %lld was left half done by an error: truncate it to 0", who, (long long)row);
    return true;
}

/* Sequence b: its row, and whether that has room. */
static bool open_sequence(qp_session *s, call *c, const qp_feed *how, int64_t b) {
    qp_ctx *ctx = s->m->ctx;
    int64_t row = how->rows ? how->rows[b] : b, count = how->counts ? how->counts[b] : c->T;
    if (!qpi_row_ready(s, row, "session")) return false;
    for (int64_t i = 0; i < b; i++)
        if (c->rows[i] == row) return !qp_fail(ctx, QP_ERR_ARGUMENT, "session: row %lld twice", (long long)row);
    if (count < 0 || count > c->T)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "session: count %lld of %lld positions", (long long)count,
                        (long long)c->T);
    c->rows[b] = row;
    c->counts[b] = count;
    c->starts[b] = s->row[row].length;
    c->lengths[b] = c->starts[b] + count;
    c->all &= row == b;
    c->whole &= count == c->T;
    if (c->lengths[b] <= s->reserved) return true;
    return !qp_fail(ctx, QP_ERR_ARGUMENT, "session: %lld positions after %lld, room for %lld", (long long)count,
                    (long long)c->starts[b], (long long)s->reserved);
}

/* Positions of sequence b: one after another, or by depth. What is not there repeats the last. */
static bool place(qp_session *s, call *c, int64_t b) {
    int64_t *at = c->positions + b * c->T;
    for (int64_t t = 0; t < c->T; t++) {
        int64_t before = t - 1;
        if (c->parents) {
            before = c->parents[b * c->T + t];
            if (before < -1 || before >= t)
                return !qp_fail(s->m->ctx, QP_ERR_ARGUMENT, "session: draft %lld continues %lld", (long long)t,
                                (long long)before);
        }
        at[t] = before < 0 ? c->starts[b] : at[before] + 1;
        if (t >= c->counts[b]) at[t] = t ? at[t - 1] : c->starts[b] ? c->starts[b] - 1 : 0;
    }
    return true;
}

static bool open_call(qp_session *s, qp_tensor ids, const qp_feed *how, call *c) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx)) return false;
    int64_t B = qp_ndim(ids) == 2 ? qp_size(ids, 0) : 0, T = B ? qp_size(ids, 1) : 0;
    if (B < 1 || T < 1 || B > s->rows || (!how->rows && B != s->rows))
        return !qp_fail(ctx, QP_ERR_SHAPE, "session: ids must be [B, T], T at least 1, B %s%lld",
                        how->rows ? "1 to " : "", (long long)s->rows);
    if (how->parents && T > QPI_MAX_DRAFTS)
        return !qp_fail(ctx, QP_ERR_SHAPE, "session: %lld drafts, at most %d", (long long)T, QPI_MAX_DRAFTS);
    if (T > s->reserved && !how->counts)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "session: %lld positions, room for %lld", (long long)T,
                        (long long)s->reserved);
    if (!room_for(s, B * (T + 6), B * T)) return !qp_fail(ctx, QP_ERR_MEMORY, "out of memory: session");
    *c = (call){
        .B = B, .T = T, .rows = s->integers, .parents = how->parents, .all = B == s->rows, .whole = true};
    c->starts = c->rows + B;
    c->counts = c->starts + B;
    c->lengths = c->counts + B;
    c->places = c->lengths + B;
    c->positions = c->places + 2 * B;
    for (int64_t b = 0; b < B; b++)
        if (!open_sequence(s, c, how, b) || !place(s, c, b)) return false;
    for (int64_t i = 0; i < qpi_state_count(s) && s->fixed && (c->parents || !c->whole); i++)
        for (int j = 0; j < s->states[i].count; j++)
            if (!s->states[i].grows[j])
                return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "session: the state of %s has a fixed size: no %s",
                                qpi_model_carrier(s->m, i).name, c->parents ? "drafts" : "counts that differ");
    return true;
}

/* The states as the call sees them: of those of fixed size, the rows of its sequences. */
static void gather(qp_session *s, const call *c, qp_tensor rows) {
    memcpy(s->now, s->states, (size_t)qpi_state_count(s) * sizeof *s->now);
    for (int64_t i = 0; i < qpi_state_count(s) && s->fixed && !c->all; i++)
        for (int j = 0; j < s->now[i].count; j++) {
            qp_tensor *t = &s->now[i].tensors[j];
            int64_t    shape[QP_MAX_DIMS], n = qp_ndim(*t);
            if (s->now[i].grows[j]) continue;
            for (int axis = 0; axis < n; axis++) shape[axis] = axis ? qp_size(*t, axis) : c->B;
            *t = qp_reshape(qp_embedding(qp_reshape(*t, 2, (int64_t[]){s->rows, -1}), rows), (int)n, shape);
        }
}

/* Tensor j of a state of fixed size is now what the call has made of it; where that fails, rows are dirty. */
static void take_over(qp_session *s, const call *c, qp_state *state, int j, qp_tensor next) {
    if (c->all) {
        qp_drop(state->tensors[j]);
        state->tensors[j] = next;
        return;
    }
    for (int64_t b = 0; b < c->B; b++) {
        qp_status status =
            qp_copy_to(qpi_state_part(state, j, c->rows[b], 0, 0), qp_slice(next, 0, b, b + 1, 1));
        s->row[c->rows[b]].dirty |= status != QP_OK;
    }
    qp_drop(next);
}

/* All layers are done: the states are those behind these positions. After a failure they stay. */
static void commit(qp_session *s, const call *c) {
    bool ok = !qp_failed(s->m->ctx);
    for (int64_t i = 0; i < qpi_state_count(s) && s->fixed; i++)
        for (int j = 0; j < s->now[i].count; j++) {
            if (qp_is_none(s->now[i].next[j])) continue;
            if (ok) take_over(s, c, &s->states[i], j, s->now[i].next[j]);
            else qp_drop(s->now[i].next[j]);
            s->now[i].next[j] = QP_NONE;
        }
    for (int64_t b = 0; b < c->B && ok; b++) {
        qpi_session_row *row = &s->row[c->rows[b]];
        int32_t         *to = qpi_row_tokens(s, c->rows[b]) + row->length;
        memcpy(to, s->ids + b * c->T, (size_t)c->counts[b] * sizeof *to);
        row->drafts = c->parents ? (int)c->counts[b] : 0;
        for (int t = 0; t < row->drafts; t++) row->parents[t] = (int8_t)c->parents[b * c->T + t];
        if (!c->parents && !row->dirty) row->length += c->counts[b];
    }
}

static qp_tensor integers(qp_session *s, int ndim, int64_t B, int64_t T, const int64_t *data) {
    return qp_from(s->m->ctx, QP_I64, ndim, (int64_t[]){B, T}, data);
}

/* Where the positions lie in states of which a window is read. */
static void open_windows(qp_session *s, const call *c) {
    for (int64_t b = 0; b < c->B && s->window_count; b++) qpi_windows_slide(s, c->rows[b], c->counts[b]);
    for (int k = 0; k < s->window_count; k++) {
        int64_t *starts = c->places, *lengths = starts + c->B, keys = 0;
        for (int64_t b = 0; b < c->B; b++) {
            starts[b] = c->starts[b] - s->windows[k].base[c->rows[b]];
            lengths[b] = starts[b] + c->counts[b];
            if (lengths[b] > keys) keys = lengths[b];
        }
        qp_tensor at = integers(s, 1, c->B, 0, starts), end = integers(s, 1, c->B, 0, lengths);
        for (int64_t i = 0; i < qpi_state_count(s); i++)
            if (s->window_of[i] == k) {
                s->now[i].starts = at;
                s->now[i].lengths = end;
                s->now[i].keys = keys;
            }
    }
}

static qp_tensor run(qp_session *s, qp_tensor ids, const call *c) {
    qp_ctx     *ctx = s->m->ctx;
    qp_record   in = {0}, all = {0};
    qp_sequence sequence = {.in = &in, .positions = integers(s, 2, c->B, c->T, c->positions)};
    for (int64_t b = 0; b < c->B; b++) {
        if (c->lengths[b] > sequence.keys) sequence.keys = c->lengths[b];
        for (int64_t t = 0; t < c->counts[b]; t++) {
            int64_t position = c->positions[b * c->T + t];
            if (position >= sequence.length) sequence.length = position + 1;
        }
    }
    sequence.counts = integers(s, 1, c->B, 0, c->counts);
    sequence.mask.rows = integers(s, 1, c->B, 0, c->rows);
    sequence.mask.starts = integers(s, 1, c->B, 0, c->starts);
    sequence.mask.lengths = integers(s, 1, c->B, 0, c->lengths);
    if (c->parents) sequence.mask.parents = integers(s, 2, c->B, c->T, c->parents);
    gather(s, c, sequence.mask.rows);
    open_windows(s, c);
    qp_tensor hidden = qpi_stack_forward(s->m, ids, &sequence, &all, s->now);
    bool      known = !qp_failed(ctx) && qp_read(ids, QP_I32, s->ids, c->B * c->T) == QP_OK;
    return known ? hidden : qpi_poison(ctx);
}

/* Adds the positions of a call that has been opened. */
static qp_tensor add(qp_session *s, qp_tensor ids, const call *c) {
    qp_tensor hidden = run(s, ids, c);
    qpi_shield(s->m->ctx);
    commit(s, c);
    return hidden;
}

/* The same where windows have no place for all at once: piece by piece. */
static qp_tensor add_pieces(qp_session *s, qp_tensor ids, const qp_feed *how, call *c) {
    qp_ctx  *ctx = s->m->ctx;
    int64_t  B = c->B, T = c->T;
    int64_t *own = malloc(3 * (size_t)B * sizeof *own), *rows = own, *counts = own + B, *left = own + 2 * B;
    if (!own) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: session");
    qp_tensor hidden = qp_empty(ctx, ctx->param_dtype, 3, (int64_t[]){B, T, s->m->width});
    for (int64_t b = 0; b < B && own; b++) {
        rows[b] = c->rows[b];
        left[b] = c->counts[b];
    }
    for (int64_t t = 0; t < T && !qp_failed(ctx); t += QPI_WINDOW_CALL) {
        int64_t  n = T - t < QPI_WINDOW_CALL ? T - t : QPI_WINDOW_CALL;
        call     piece;
        qp_scope scope = qp_enter(ctx);
        for (int64_t b = 0; b < B; b++) {
            counts[b] = left[b] < n ? left[b] : n;
            left[b] -= counts[b];
        }
        qp_tensor some = qp_contiguous(qp_slice(ids, 1, t, t + n, 1));
        bool ok = open_call(s, some, &(qp_feed){.rows = rows, .counts = how->counts ? counts : NULL}, &piece) &&
                  qp_copy_to(qp_slice(hidden, 1, t, t + n, 1), add(s, some, &piece)) == QP_OK;
        qp_leave(scope);
        if (!ok) break;
    }
    for (int64_t b = 0; b < B && own; b++) c->counts[b] = how->counts ? how->counts[b] : T;
    free(own);
    return hidden;
}

/* Adds the positions; c says where they are. */
static qp_tensor feed(qp_session *s, qp_tensor ids, const qp_feed *how, call *c) {
    qp_ctx   *ctx = s->m->ctx;
    qp_scope  scope = qp_enter(ctx);
    qp_tensor hidden = qpi_poison(ctx);
    qp_no_grad(ctx, true);
    if (open_call(s, ids, how, c))
        hidden = c->T > QPI_WINDOW_CALL && qpi_windows_small(s) ? add_pieces(s, ids, how, c) : add(s, ids, c);
    return qp_return(scope, hidden);
}

qp_tensor qp_session_hidden(qp_session *s, qp_tensor ids, qp_feed how) {
    call c = {0};
    return feed(s, ids, &how, &c);
}

qp_tensor qp_session_feed(qp_session *s, qp_tensor ids, qp_feed how) {
    qp_ctx   *ctx = s->m->ctx;
    call      c = {0};
    qp_scope  scope = qp_enter(ctx);
    qp_tensor hidden = feed(s, ids, &how, &c), last;
    qp_no_grad(ctx, true);
    if (qp_failed(ctx)) return qp_return(scope, qpi_poison(ctx));
    for (int64_t b = 0; b < c.B; b++) c.starts[b] = b * c.T + (c.counts[b] ? c.counts[b] - 1 : 0);
    last = qp_reshape(hidden, 2, (int64_t[]){c.B * c.T, s->m->width});
    if (c.T > 1) last = qp_embedding(last, integers(s, 1, c.B, 0, c.starts));
    return qp_return(scope, qp_model_head(s->m, last));
}

/* ---- Questions -------------------------------------------------------------------------------------- */

qp_ctx *qp_session_ctx(const qp_session *s) { return s->m->ctx; }
qp_model *qp_session_model(const qp_session *s) { return s->m; }
int64_t qp_session_rows(const qp_session *s) { return s->rows; }
int64_t qp_session_room(const qp_session *s) { return s->reserved; }

int64_t qp_session_length(const qp_session *s, int64_t row) {
    return row >= 0 && row < s->rows ? s->row[row].length : -1;
}

const int32_t *qp_session_tokens(const qp_session *s, int64_t row) {
    return row >= 0 && row < s->rows ? qpi_row_tokens(s, row) : NULL;
}
