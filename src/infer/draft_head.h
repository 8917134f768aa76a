/* What guesses are made with by drafters that read the model's hidden states: its own head, or of that the rows for
 * frequent tokens only. A rare token is guessed wrong anyway, and the product is most of what a guess costs
 * (arXiv:2502.14856). In files "token_map" [N] has the tokens. */
#ifndef QUIPU_INFER_DRAFT_HEAD_H
#define QUIPU_INFER_DRAFT_HEAD_H

#include "infer/drafter.h"

#define QPI_GUESSES 8 /* of one place, that are looked at */

typedef struct {
    qp_ctx  *ctx;
    int64_t  width, vocabulary;
    int64_t  count;  /* tokens that are guessed among .. */
    int32_t *tokens; /* .. which, ascending; NULL: all */
} qpi_draft_head;

/* Takes a copy of `count` tokens (0: all of base's). False after storing an error that begins with `who`. */
bool qpi_draft_head_open(qpi_draft_head *h, qp_model *base, const int32_t *tokens, int64_t count,
                         const char *who);
void qpi_draft_head_close(qpi_draft_head *h);

/* base's rows for these tokens [N, D], as it stores them. Poison where it has none. */
qp_tensor qpi_draft_head_rows(const qpi_draft_head *h, qp_model *base);
/* Labels [B, T] as rows; what has none does not count. */
qp_tensor qpi_draft_head_labels(const qpi_draft_head *h, qp_tensor labels);

/* token_map of a file, *count tokens, to be freed; NULL: it has none, or an error. */
int32_t *qpi_draft_tokens_read(qp_ctx *ctx, const qp_file *f, const char *path, int64_t most, int64_t *count);
/* The same as a tensor with its name. Only where the head has tokens. */
qp_named qpi_draft_head_map(const qpi_draft_head *h);

/* Two int32_t, for qsort and bsearch. */
int qpi_draft_ascending(const void *a, const void *b);

/* What matrices beside base's are kept in: f32 or bf16 as its head is, or q8_0 where that is blocks; a guess reads what
 * it must. */
qp_dtype qpi_draft_dtype(qp_model *base);
qp_tensor qpi_draft_narrowed(qp_tensor matrix, qp_model *base);

/* The likeliest tokens of a place, descending. */
typedef struct {
    float   p[QPI_GUESSES];
    int32_t id[QPI_GUESSES];
} qpi_guesses;

/* From a row of logits [1, N]; p: room for N. Where the tree's guesses are drawn these are what they are drawn from,
 * by the request's temperature, and stay in place k of `depth` of the row's. False after storing an error. */
bool qpi_draft_head_guess(const qpi_draft_head *h, qp_drafter *d, const qpi_tree *t, int64_t k, int64_t depth,
                          qp_tensor logits, float *p, qpi_guesses *out);

/* Adds a token as a child of `parent`, number `rank` of the guesses or, where they are drawn, one drawn from place k.
 * Its probability to *p. False: there is none, or no room. */
bool qpi_draft_head_add(const qp_drafter *d, qpi_tree *t, int64_t parent, const qpi_guesses *g, int rank,
                        int64_t k, int64_t depth, float *p);
/* What a guess of rank `rank` has at most: where it is drawn, that of the likeliest that is no child of parent. */
float qpi_draft_head_most(const qpi_tree *t, int64_t parent, const qpi_guesses *g, int rank);

/* Of each of its heads. */
int qpi_medusa_layers(const qp_medusa *m);

#endif
