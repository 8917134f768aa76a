/* States of which attention reads a window only: they hold that and a little more. */
#include <stdlib.h>
#include <string.h>

#include "infer/session.h"

bool qpi_window_add(qp_session *s, int64_t i) {
    const qp_state *state = &s->states[i];
    int64_t         window = state->window, room = s->reserved;
    if (!window) return true;
    for (int j = 0; j < state->count; j++)
        if (state->grows[j]) room = qp_size(state->tensors[j], 1);
    for (int k = 0; k < s->window_count; k++)
        if (s->windows[k].window == window) {
            s->window_of[i] = (int8_t)k;
            return true;
        }
    if (s->window_count == INT8_MAX)
        return !qp_fail(s->m->ctx, QP_ERR_UNSUPPORTED, "session: more than 127 windows");
    qpi_window *grown = realloc(s->windows, (size_t)(s->window_count + 1) * sizeof *grown);
    int64_t    *rows = calloc(2 * (size_t)s->rows, sizeof *rows);
    if (grown) s->windows = grown;
    if (!grown || !rows) {
        free(rows);
        return !qp_fail(s->m->ctx, QP_ERR_MEMORY, "out of memory: session");
    }
    s->windows[s->window_count] =
        (qpi_window){.window = window, .room = room, .base = rows, .first = rows + s->rows};
    s->window_of[i] = (int8_t)s->window_count++;
    return true;
}

void qpi_windows_free(qp_session *s) {
    for (int k = 0; k < s->window_count; k++) free(s->windows[k].base);
    free(s->windows);
    free(s->window_of);
}

/* Places from.. of a row go to the front. */
static void move(const qp_state *state, int64_t row, int64_t from, int64_t count) {
    for (int j = 0; j < state->count; j++) {
        if (!state->grows[j]) continue;
        size_t bytes;
        char  *to = qpi_state_bytes(state, j, row, 0, &bytes);
        if (to) memmove(to, to + (size_t)from * bytes, (size_t)count * bytes);
    }
}

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

void qpi_windows_slide(qp_session *s, int64_t row, int64_t count) {
    int64_t length = s->row[row].length;
    for (int k = 0; k < s->window_count; k++) {
        qpi_window *w = &s->windows[k];
        if (length + count - w->base[row] <= w->room) continue;
        int64_t base = later(length - w->window + 1 - QPI_WINDOW_KEEP, 0) / QPI_WINDOW_GRAIN * QPI_WINDOW_GRAIN;
        for (int64_t i = 0; i < qpi_state_count(s); i++)
            if (s->window_of[i] == k) move(&s->states[i], row, base - w->base[row], length - base);
        w->base[row] = base;
        w->first[row] = later(w->first[row], base);
    }
}

void qpi_windows_place(qp_session *s, int64_t row, int64_t length) {
    for (int k = 0; k < s->window_count; k++) {
        qpi_window *w = &s->windows[k];
        w->first[row] = later(length - w->window, 0);
        w->base[row] = length > w->room ? w->first[row] / QPI_WINDOW_GRAIN * QPI_WINDOW_GRAIN : 0;
    }
}

bool qpi_windows_hold(const qp_session *s, int64_t row, int64_t length) {
    for (int k = 0; k < s->window_count; k++) {
        const qpi_window *w = &s->windows[k];
        if (length && w->first[row] && length - w->window + 1 < w->first[row]) return false;
    }
    return true;
}

void qpi_windows_cut(qp_session *s, int64_t from, int64_t to, int64_t length) {
    for (int k = 0; k < s->window_count; k++) {
        s->windows[k].base[to] = length ? s->windows[k].base[from] : 0;
        s->windows[k].first[to] = length ? s->windows[k].first[from] : 0;
    }
}
