/* A text being written: tokens are drawn, become text, and something ends it. */
#ifndef QUIPU_INFER_REPLY_H
#define QUIPU_INFER_REPLY_H

#include "infer/accept.h"

typedef struct {
    qp_ctx                    *ctx;
    const qp_tokenizer        *tokenizer;
    const qp_generate_options *options;
    qp_sampler                *sampler;
    const qpi_acceptance      *acceptance;
    float                     *chances; /* [2, vocabulary], where the rule needs that */
    int64_t                    vocabulary;
    qp_decoding                decoding;
    qp_text                    pending;  /* decoded, not yet given out: a stop text may begin in it */
    qp_logprob                *logprobs; /* NULL: nobody asks */
    float                     *logits;   /* as the model gave them, for these */
    bool                       stopped;
    qp_generation              result;
    double                     mark; /* when the prompt, and then the text, began */
    char                       error[256];
} qpi_reply;

/* options must outlive it. False after storing an error. */
bool qpi_reply_open(qpi_reply *r, qp_ctx *ctx, const qp_tokenizer *t, const qp_generate_options *options,
                    int64_t vocabulary, const int32_t *prompt, int64_t n);
void qpi_reply_close(qpi_reply *r);
/* The prompt has been read: from here on it is writing. */
void qpi_reply_begin(qpi_reply *r);
/* Draws what follows a node of the tree from the node's logits (v: [nodes, V]), which it overwrites, and hands
 * the token on. False: the text has ended, or an error has been stored. */
bool qpi_reply_draw(qpi_reply *r, qpi_verdict *v, int node, int32_t *id);
/* The verdict on a tree, NULL: one node. */
qpi_verdict qpi_reply_verdict(qpi_reply *r, const qpi_tree *tree, float *logits);
/* A token of the prompt; logits: those that it was to be drawn from, NULL: none. */
void qpi_reply_echo(qpi_reply *r, int32_t id, const float *logits);
void qpi_reply_stop(qpi_reply *r, qp_stop_reason reason);
/* What is still held back; times. */
void qpi_reply_finish(qpi_reply *r);

#endif
