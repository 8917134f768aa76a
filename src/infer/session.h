/* A session from inside: what its files share. */
#ifndef QUIPU_INFER_SESSION_H
#define QUIPU_INFER_SESSION_H

#include "models/model.h"
#include "quipu/session.h"

#define QPI_MAX_DRAFTS 64 /* of a row */

typedef struct {
    int64_t length; /* without drafts */
    int     drafts; /* to be chosen from */
    bool    dirty;  /* a state of fixed size is not that of its positions: it must be emptied */
    int8_t  parents[QPI_MAX_DRAFTS];
} qpi_session_row;

/* States of which only a window is read: a row's positions base, base + 1, .. lie in its places 0, 1, .., and
 * move to the front when there is no place left. Base is a multiple of the blocks that attention takes keys in, so
 * that moving changes no bit. */
typedef struct {
    int64_t  window, room; /* positions that are read; places */
    int64_t *base, *first; /* [rows]; the first position that is held */
} qpi_window;

#define QPI_WINDOW_CALL 320  /* positions of a call at most: longer ones are taken in pieces */
#define QPI_WINDOW_KEEP 128  /* positions that can be taken back, at least */
#define QPI_WINDOW_GRAIN 128 /* of bases */

struct qp_session {
    qp_model        *m;
    qpi_owned       *owned;
    int64_t          rows, reserved;
    qp_dtype         kv;
    qpi_session_row *row;
    int32_t         *tokens; /* [rows, reserved] */
    qp_state        *states; /* of each layer's mixer and feed-forward, then of the positions */
    qp_state        *now;    /* the same as the call in hand sees them */
    bool             fixed;  /* some state is of fixed size */
    qpi_window      *windows;
    int              window_count;
    int8_t          *window_of; /* [states], -1: none */
    int64_t         *integers;  /* of the call in hand */
    int32_t         *ids;
    int64_t          integer_room, id_room;
};

static inline int64_t qpi_state_count(const qp_session *s) { return qpi_carrier_count(s->m); }
static inline int32_t *qpi_row_tokens(const qp_session *s, int64_t row) {
    return s->tokens + row * s->reserved;
}

static inline qpi_window *qpi_window_of(const qp_session *s, int64_t i) {
    return s->window_of[i] < 0 ? NULL : &s->windows[s->window_of[i]];
}
/* The position in place 0 of a row of state i. */
static inline int64_t qpi_base(const qp_session *s, int64_t i, int64_t row) {
    const qpi_window *w = qpi_window_of(s, i);
    return w ? w->base[row] : 0;
}

/* Places of a state besides its window's: for a call, what can be taken back and a grain. */
#define QPI_WINDOW_SPARE (QPI_WINDOW_CALL + QPI_WINDOW_KEEP + QPI_WINDOW_GRAIN)

/* State i's window joins the session's. False after storing an error. */
bool qpi_window_add(qp_session *s, int64_t i);
/* Are there positions that no longer have a place? */
static inline bool qpi_windows_small(const qp_session *s) {
    for (int k = 0; k < s->window_count; k++)
        if (s->windows[k].room < s->reserved) return true;
    return false;
}
/* Makes place for `count` positions of a row. */
void qpi_windows_slide(qp_session *s, int64_t row, int64_t count);
/* A row becomes the first `length` positions of another, or (from = to) of its own. */
void qpi_windows_cut(qp_session *s, int64_t from, int64_t to, int64_t length);
/* Of an empty row, places for the windows at the end of `length` positions, which the caller fills. */
void qpi_windows_place(qp_session *s, int64_t row, int64_t length);
/* Do the windows hold what a row needs that is cut to its first positions? */
bool qpi_windows_hold(const qp_session *s, int64_t row, int64_t length);
void qpi_windows_free(qp_session *s);

/* Can a row become its first `wanted` positions (0 .. length)? */
bool qpi_row_cuts(const qp_session *s, int64_t row, int64_t wanted);

/* Places from..to-1 of a row of a tensor that grows; the row of one of fixed size. */
qp_tensor qpi_state_part(const qp_state *state, int j, int64_t row, int64_t from, int64_t to);
/* Place `at` of a row of a tensor that grows, as bytes, *bytes: of one place; NULL after an error. */
char *qpi_state_bytes(const qp_state *state, int j, int64_t row, int64_t at, size_t *bytes);
/* Does the row exist, without drafts (idle) and with states that are those of its positions (ready)? Stores an
 * error that begins with `who` if not. */
bool qpi_row_idle(const qp_session *s, int64_t row, const char *who);
bool qpi_row_ready(const qp_session *s, int64_t row, const char *who);

#endif
