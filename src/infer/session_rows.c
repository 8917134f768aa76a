/* What becomes of rows between calls: drafts chosen, positions taken back, rows copied. */
#include <string.h>

#include "infer/session.h"

qp_tensor qpi_state_part(const qp_state *state, int j, int64_t row, int64_t from, int64_t to) {
    qp_tensor t = qp_slice(state->tensors[j], 0, row, row + 1, 1);
    return state->grows[j] ? qp_slice(t, 1, from, to, 1) : t;
}

/* ---- Drafts --------------------------------------------------------------------------------------- */

static bool is_path(const qp_session *s, int64_t row, int64_t n, const int64_t *nodes) {
    const qpi_session_row *r = &s->row[row];
    bool                   ok = n >= 0 && n <= r->drafts;
    for (int64_t i = 0; i < n && ok; i++)
        ok = nodes[i] >= 0 && nodes[i] < r->drafts && r->parents[nodes[i]] == (i ? nodes[i - 1] : -1);
    return ok;
}

char *qpi_state_bytes(const qp_state *state, int j, int64_t row, int64_t at, size_t *bytes) {
    qp_tensor t = state->tensors[j];
    int64_t   positions = qp_size(t, 0) * qp_size(t, 1);
    char     *data = qp_data_write(t);
    *bytes = qp_dtype_size(qp_dtype_of(t), qp_count(t) / positions);
    return data ? data + (size_t)(row * qp_size(t, 1) + at) * *bytes : NULL;
}

/* Places of nodes become first, first + 1, ... */
static void compact(const qp_state *state, int j, int64_t row, int64_t first, int64_t n, const int64_t *nodes) {
    size_t bytes;
    char  *to = qpi_state_bytes(state, j, row, first, &bytes);
    for (int64_t i = 0; i < n && to; i++)
        if (nodes[i] != i) memcpy(to + (size_t)i * bytes, to + (size_t)nodes[i] * bytes, bytes);
}

qp_status qp_session_choose(qp_session *s, int64_t row, int64_t n, const int64_t *nodes) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (row < 0 || row >= s->rows)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "choose: row %lld of %lld", (long long)row, (long long)s->rows);
    qpi_session_row *r = &s->row[row];
    if (!is_path(s, row, n, nodes))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "choose: %lld nodes that are no path of row %lld's %d drafts",
                       (long long)n, (long long)row, r->drafts);
    for (int64_t i = 0; i < qpi_state_count(s) && n && nodes[n - 1] >= n; i++)
        for (int j = 0; j < s->states[i].count; j++)
            compact(&s->states[i], j, row, r->length - qpi_base(s, i, row), n, nodes);
    int32_t *tokens = qpi_row_tokens(s, row) + r->length;
    for (int64_t i = 0; i < n; i++) tokens[i] = tokens[nodes[i]];
    r->drafts = 0;
    if (!qp_failed(ctx)) r->length += n;
    return qp_error_code(ctx);
}

/* ---- Taking back and copying ------------------------------------------------------------------------ */

/* The part with a state of fixed size that keeps a row from being cut; NULL: none does. */
static const char *hinders(const qp_session *s, int64_t row, int64_t wanted) {
    for (int64_t i = 0; i < qpi_state_count(s) && s->fixed && wanted && wanted < s->row[row].length; i++)
        for (int j = 0; j < s->states[i].count; j++)
            if (!s->states[i].grows[j]) return qpi_model_carrier(s->m, i).name;
    return NULL;
}

bool qpi_row_cuts(const qp_session *s, int64_t row, int64_t wanted) {
    int64_t length = s->row[row].length;
    return wanted >= 0 && wanted <= length && !(wanted && s->row[row].dirty) && !hinders(s, row, wanted) &&
           (wanted == length || qpi_windows_hold(s, row, wanted));
}

/* The same, with an error that says why not. */
static bool can_cut(const qp_session *s, int64_t row, int64_t wanted, const char *who) {
    qp_ctx     *ctx = s->m->ctx;
    int64_t     length = s->row[row].length;
    const char *part = hinders(s, row, wanted);
    if (wanted && !qpi_row_ready(s, row, who)) return false;
    if (qpi_row_cuts(s, row, wanted)) return true;
    if (wanted < 0 || wanted > length)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %lld positions of %lld", who, (long long)wanted,
                        (long long)length);
    if (part) return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: the state of %s has a fixed size", who, part);
    return !qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: what %lld positions need has left the window", who,
                    (long long)wanted);
}

/* States of fixed size of a row are as at the beginning; until all are, the row is dirty. */
static void clear_fixed(qp_session *s, int64_t row) {
    s->row[row].dirty = s->fixed;
    for (int64_t i = 0; i < qpi_state_count(s) && s->fixed; i++)
        for (int j = 0; j < s->states[i].count; j++) {
            if (s->states[i].grows[j]) continue;
            qp_tensor part = qpi_state_part(&s->states[i], j, row, 0, 0);
            if (qp_copy_to(part, qp_scalar(part.ctx, qp_dtype_of(part), 0)) != QP_OK) return;
        }
    s->row[row].dirty = false;
}

qp_status qp_session_truncate(qp_session *s, int64_t row, int64_t length) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (!qpi_row_idle(s, row, "truncate") || !can_cut(s, row, length, "truncate")) return qp_error_code(ctx);
    qp_scope scope = qp_enter(ctx);
    qp_no_grad(ctx, true);
    if (!length) clear_fixed(s, row);
    qp_leave(scope);
    qpi_windows_cut(s, row, row, length);
    s->row[row].length = length;
    return qp_error_code(ctx);
}

static void copy_row(const qp_state *state, int j, int64_t from, int64_t to, int64_t length) {
    size_t bytes;
    if (!state->grows[j]) {
        if (qp_copy_to(qpi_state_part(state, j, to, 0, 0), qpi_state_part(state, j, from, 0, 0)) != QP_OK)
            return;
    } else {
        const char *source = qpi_state_bytes(state, j, from, 0, &bytes);
        char       *target = qpi_state_bytes(state, j, to, 0, &bytes);
        if (source && target) memcpy(target, source, (size_t)length * bytes);
    }
}

qp_status qp_session_fork(qp_session *s, int64_t from, int64_t to, int64_t length) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (!qpi_row_ready(s, from, "fork") || !qpi_row_idle(s, to, "fork") || !can_cut(s, from, length, "fork"))
        return qp_error_code(ctx);
    if (from == to || !length) return qp_session_truncate(s, to, length);
    qp_scope scope = qp_enter(ctx);
    qp_no_grad(ctx, true);
    s->row[to].length = 0;
    s->row[to].dirty = s->fixed;
    for (int64_t i = 0; i < qpi_state_count(s); i++)
        for (int j = 0; j < s->states[i].count && !qp_failed(ctx); j++)
            copy_row(&s->states[i], j, from, to, length - qpi_base(s, i, from));
    qp_leave(scope);
    if (qp_failed(ctx)) return qp_error_code(ctx);
    qpi_windows_cut(s, from, to, length);
    memcpy(qpi_row_tokens(s, to), qpi_row_tokens(s, from), (size_t)length * sizeof(int32_t));
    s->row[to].length = length;
    s->row[to].dirty = false;
    return QP_OK;
}
