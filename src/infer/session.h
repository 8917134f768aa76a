/* A session from inside: what its files share. */
#ifndef QUIPU_INFER_SESSION_H
#define QUIPU_INFER_SESSION_H

#include "models/model.h"
#include "quipu/session.h"

#define QPI_MAX_DRAFTS 64 /* of a row */

typedef struct {
    int64_t length;  /* without drafts */
    int     drafts;  /* to be chosen from */
    int8_t  parents[QPI_MAX_DRAFTS];
} qpi_session_row;

struct qp_session {
    qp_model        *m;
    qpi_owned       *owned;
    int64_t          rows, reserved;
    qp_dtype         kv;
    qpi_session_row *row;
    int32_t         *tokens; /* [rows, reserved] */
    qp_state        *states; /* of each layer's mixer and feed-forward */
    qp_state        *now;    /* the same as the call in hand sees them */
    bool             fixed;  /* some state is of fixed size */
    int64_t         *integers; /* of the call in hand */
    int32_t         *ids;
    int64_t          integer_room, id_room;
};

static inline int64_t qpi_state_count(const qp_session *s) { return 2 * s->m->layers; }
static inline const qp_branch *qpi_state_branch(const qp_session *s, int64_t i) {
    const qp_block *b = &s->m->blocks[i / 2].block;
    return i % 2 ? &b->ffn : &b->mixer;
}
static inline int32_t *qpi_row_tokens(const qp_session *s, int64_t row) { return s->tokens + row * s->reserved; }

/* Places from..to-1 of a row of a tensor that grows; the row of one of fixed size. */
qp_tensor qpi_state_part(const qp_state *state, int j, int64_t row, int64_t from, int64_t to);
/* Does the row exist, without drafts? Stores an error that begins with `who` if not. */
bool qpi_row_ready(const qp_session *s, int64_t row, const char *who);

#endif
