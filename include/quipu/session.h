/* quipu/session.h: a model step by step, with carried state.
 *
 * A session has rows, each a sequence with a length of its own: several users, beams, a prompt that
 * others begin with. Memory is taken where positions are written, not before; layers that attend to a window of
 * positions keep these and some hundred more. A row's logits have the
 * same bits however it was fed (whole, in pieces, one by one, as a tree of drafts) and whatever the
 * other rows do; with mixers that sum positions up (linear, retnet, performer, gau, flash) the pieces
 * show in the rounding, and rope's `dynamic` scaling takes the longest row's length for all of a call.
 */
#ifndef QUIPU_SESSION_H
#define QUIPU_SESSION_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qp_session qp_session;

typedef struct {
    qp_dtype kv; /* what keys and values are kept in: f32, bf16, f16, or q8_0 (heads of a multiple of
                    32 features) */
} qp_session_options;

/* `rows` empty sequences of at most `positions` positions; the context's. NULL on error: ARGUMENT (1 to 2^20
 * rows, 1 to 2^30 positions), TYPE (of keys and values), UNSUPPORTED (a part of the model has no step form or
 * sees what comes), MEMORY. */
QP_API qp_session *qp_session_new(qp_model *m, int64_t rows, int64_t positions, qp_session_options options);
/* Frees it before its context. NULL is allowed. */
QP_API void qp_session_close(qp_session *s);

/* What a call of [B, T] ids adds to which rows. */
typedef struct {
    const int64_t *rows;    /* [B], each once; NULL: all, in order */
    const int64_t *counts;  /* [B]: the first counts[b] ids of b are there, 0 to T; NULL: all T. (Ids
                               behind them are token ids all the same) */
    const int64_t *parents; /* [B, T]; NULL: positions follow one another. Otherwise drafts that are
                               to be chosen from: each continues the one that parents[b, t] < t names,
                               or with -1 what the row held. T at most 64. Until qp_session_choose the
                               row takes no other call */
} qp_feed;

/* ids [B, T] -> logits of each sequence's last position [B, V] (with counts[b] 0: of no meaning). A call that
 * fails leaves the session as it was (but for whole pieces of 320 positions of a longer one, where layers
 * have windows). Errors: SHAPE; ARGUMENT (a row is full or named twice ..); STATE (drafts to be chosen from);
 * UNSUPPORTED (drafts, or counts that differ, where a part's state has a fixed size). */
QP_API qp_tensor qp_session_feed(qp_session *s, qp_tensor ids, qp_feed how);
/* The same, giving the last norm's output at all positions [B, T, D]: qp_model_head makes logits of
 * those that are wanted. */
QP_API qp_tensor qp_session_hidden(qp_session *s, qp_tensor ids, qp_feed how);

QP_API int64_t qp_session_rows(const qp_session *s);
QP_API int64_t qp_session_length(const qp_session *s, int64_t row); /* positions fed; -1: no such row */
QP_API int64_t qp_session_room(const qp_session *s);                /* of a row, at most */
QP_API qp_ctx *qp_session_ctx(const qp_session *s);
QP_API qp_model *qp_session_model(const qp_session *s);
/* The ids that the row was fed, as many as its length. The session's, until its next call. */
QP_API const int32_t *qp_session_tokens(const qp_session *s, int64_t row);

/* Of a row's drafts, those that stay: n nodes, each the parent of the next, the first a root. The
 * others are gone. n 0: all are. ARGUMENT: no such path. */
QP_API QP_MUST_CHECK qp_status qp_session_choose(qp_session *s, int64_t row, int64_t n, const int64_t *nodes);

/* Back to the row's first `length` positions (0: empty). ARGUMENT if longer than now; UNSUPPORTED
 * where length is neither 0 nor all and a part's state has a fixed size, or a layer's window no longer has what
 * these need: the last 128 positions that were fed can be taken back always, all while no place was needed
 * anew, and a row that was loaded has its windows only. A row with such a state that another error (MEMORY,
 * CANCELLED) left half done, here, in fork or in a feed, refuses everything (STATE) until truncate to 0 succeeds. */
QP_API QP_MUST_CHECK qp_status qp_session_truncate(qp_session *s, int64_t row, int64_t length);

/* Row `to` becomes the first `length` positions of row `from`: to begin where another does, to keep
 * a point to come back to. Errors as of truncate. */
QP_API QP_MUST_CHECK qp_status qp_session_fork(qp_session *s, int64_t from, int64_t to, int64_t length);

/* A row to a safetensors file, and back into an empty row of a session with the same model and type of keys
 * and values, which then goes on bit for bit. The file is checked like any other: FORMAT where it is not such
 * a state; STATE where it is another model's or keeps keys and values in another type, or the row is not
 * empty; ARGUMENT (more positions than the session has room for), IO, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_session_save(qp_session *s, int64_t row, const char *path);
QP_API QP_MUST_CHECK qp_status qp_session_load(qp_session *s, int64_t row, const char *path);

#ifdef __cplusplus
}
#endif
#endif
