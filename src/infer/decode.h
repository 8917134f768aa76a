/* Rows that texts are written into: prompts in pieces, then a token (with a drafter: some) of each per
 * call. qp_generate has one such seat, the engine several. */
#ifndef QUIPU_INFER_DECODE_H
#define QUIPU_INFER_DECODE_H

#include "infer/drafter.h"
#include "infer/reply.h"

#define QPI_CHUNK 256 /* positions of a prompt that are read at once */

typedef struct {
    int64_t        row;
    qpi_reply     *reply;
    int64_t        origin; /* positions that the row had before the prompt */
    const int32_t *prompt;
    int64_t        prompt_count;
    int32_t        pending; /* drawn, not yet read */
    qpi_tree       tree;
} qpi_seat;

typedef struct {
    qp_session *session;
    qp_drafter *drafter;   /* NULL: none */
    bool        forgiving; /* an error of one seat's text ends that text and is cleared */
    float      *logits;
    int64_t     logit_room; /* in rows */
    int32_t    *ids;
    int64_t    *integers, *path;
    qpi_tree  **trees;
} qpi_decoder;

/* For at most `seats` seats. */
bool qpi_decoder_open(qpi_decoder *d, qp_session *session, qp_drafter *drafter, int64_t seats);
void qpi_decoder_close(qpi_decoder *d);

/* Reads at most `chunk` positions of the prompt behind what the row holds. Behind the last the first
 * token is drawn. False after storing an error: what was read before it stays in the row. */
bool qpi_decoder_prompt(qpi_decoder *d, qpi_seat *seat, int64_t chunk);
/* Is the prompt read? */
static inline bool qpi_seat_writes(const qpi_decoder *d, const qpi_seat *seat) {
    return d->session->row[seat->row].length >= seat->origin + seat->prompt_count;
}
/* The next tokens of n seats that have read their prompts and not stopped. False after storing an error; a
 * forgiving one has then read nothing, and the step can be repeated. */
bool qpi_decoder_step(qpi_decoder *d, int n, qpi_seat *const *seats);

#endif
