/* quipu/infer.h: text out of sessions: sampling, generation, drafts, and an engine that serves several
 * requests at once.
 */
#ifndef QUIPU_INFER_H
#define QUIPU_INFER_H

#include "data.h"
#include "session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Sampling ---------------------------------------------------------------------------------- */

typedef struct {
    int32_t id;
    float   bias;
} qp_logit_bias;

/* How the next token is drawn. Applied in this order; the value in brackets switches off. */
typedef struct {
    const qp_logit_bias *bias; /* [NULL]; added to the logits of these tokens */
    int                  bias_count;
    double  repetition_penalty; /* [0 or 1]; logits of tokens of prompt and text are divided by it if
                                   positive, multiplied otherwise. arXiv:1909.05858 */
    double  frequency_penalty;  /* [0]; taken from a logit for each time that its token was drawn */
    double  presence_penalty;   /* [0]; taken once if its token was drawn */
    double  temperature;        /* [1]; 0: always the likeliest token */
    int64_t top_k;              /* [0]; only the k likeliest. arXiv:1805.04833 */
    double  top_p;              /* [0 or 1]; only the fewest likeliest that hold this share.
                                   arXiv:1904.09751 */
    double  min_p;              /* [0]; only those at least min_p times the likeliest.
                                   arXiv:2407.01082 */
    double  typical_p;          /* [0 or 1]; only the fewest that hold this share, those first whose
                                   surprise is nearest to the mean. arXiv:2202.00666 */
} qp_sampling;

typedef struct qp_sampler qp_sampler;

/* For vocabularies of n tokens. Draws depend on seed and on how many were drawn before. The
 * context's; NULL after an error: ARGUMENT (an option outside its range), MEMORY. */
QP_API qp_sampler *qp_sampler_new(qp_ctx *ctx, int64_t n, qp_sampling sampling, uint64_t seed);
/* Frees it early. NULL is allowed. */
QP_API void qp_sampler_close(qp_sampler *s);
QP_API void qp_sampler_seen(qp_sampler *s, int32_t id); /* counts for the repetition penalty */
/* Draws from n logits, which it overwrites; what it draws counts as seen and as drawn. Allocates
 * nothing. */
QP_API int32_t qp_sampler_draw(qp_sampler *s, float *logits);

typedef struct {
    int32_t id;
    float   logprob;
} qp_logprob;

/* out[0]: token id; out[1 .. top]: the likeliest of n, descending: logarithms of the softmax of the
 * logits as they are. top at most n. */
QP_API void qp_logprobs(const float *logits, int64_t n, int32_t id, int top, qp_logprob *out);

/* ---- Drafters: several tokens for one reading of the weights --------------------------------------- */

/* A drafter guesses how a row goes on, as a tree of tokens; the model verifies all of them in one call,
 * and what it would have written itself stays. Each token is drawn by the request's own sampler from the
 * model's own logits, so the text is that without a drafter, token by token, at any temperature (unless
 * `accept` of qp_generate_options asks for another rule). */
typedef struct qp_drafter qp_drafter;

typedef struct {
    int64_t depth; /* tokens of one guess at most; 0: what suits the kind */
    int64_t ngram; /* look-up: longest n-gram to look for; 0: 3 */
} qp_drafter_options;

/* For all rows of `target`, which must outlive it; the context's. NULL after an error: ARGUMENT (depth,
 * ngram; another vocabulary; heads or a module of another model), UNSUPPORTED (a part of either model has a
 * state of a fixed size, no step form, or the model has no head or module), MEMORY.
 *   lookup   where the last n-gram stood before, what followed it there. No model: for text that repeats
 *            itself or its prompt. (Prompt look-up decoding, Saxena 2023)
 *   model    a smaller model with the same tokens. arXiv:2211.17192, 2302.01318
 *   medusa   heads on the model's last hidden state: qp_medusa below. arXiv:2401.10774
 *   mtp      a module for multi-token prediction: m, a qp_mtp (below) of the target's model, which must outlive it; NULL:
 *            the model's own first (num_nextn_predict_layers in its config). arXiv:2412.19437 */
QP_API qp_drafter *qp_drafter_lookup(qp_session *target, qp_drafter_options options);
QP_API qp_drafter *qp_drafter_model(qp_session *target, qp_model *draft, qp_drafter_options options);
QP_API void qp_drafter_close(qp_drafter *d);

/* Medusa's heads: further heads on a model that stays as it is. Head h guesses the token h + 1 places
 * behind the next one. */
typedef struct qp_medusa qp_medusa;

typedef struct {
    int  heads, layers; /* 0: 3, each of one layer */
    bool shared;        /* the model's own head makes the guesses of all, and stays as it is: a head learns its
                              layer only, and a guess reads one product for all heads */
    const int32_t *tokens; /* guesses are of these alone, ascending: frequent ones, since the product is most of
                              what a guess costs (arXiv:2502.14856) */
    int64_t        token_count; /* 0: all tokens */
} qp_medusa_options;

/* Fresh ones, which guess as the model's own head does, or those of a safetensors file with the published
 * names (0.0.linear.weight, ..; without 0.1.weight they share the model's head; token_map has the tokens).
 * What is loaded is kept as the model's head is, or as q8_0 where that is blocks; with `train` in f32. The
 * context's. NULL after an error: ARGUMENT (heads, layers, tokens that do not ascend), IO, FORMAT (a tensor
 * is missing or does not fit), UNSUPPORTED (the model has no head), MEMORY. Saving: IO, MEMORY. */
QP_API qp_medusa *qp_medusa_new(qp_model *base, qp_medusa_options options);
QP_API qp_medusa *qp_medusa_load(qp_model *base, const char *path, bool train);
QP_API QP_MUST_CHECK qp_status qp_medusa_save(qp_medusa *m, const char *path);
QP_API void qp_medusa_close(qp_medusa *m); /* behind its drafters. NULL is allowed */
QP_API int qp_medusa_heads(const qp_medusa *m);
QP_API qp_state_dict qp_medusa_params(qp_medusa *m); /* what an optimiser takes */
/* hidden [B, T, D] (qp_model_hidden of the ids), labels [B, T] (the id behind each position) -> the sum of
 * the heads' mean cross-entropies, head h times 0.8^h. ARGUMENT: T is too short for the heads. */
QP_API qp_tensor qp_medusa_loss(qp_medusa *m, qp_tensor hidden, qp_tensor labels);

QP_API qp_drafter *qp_drafter_medusa(qp_session *target, qp_medusa *m, qp_drafter_options options);

/* A module for multi-token prediction beside a model that stays as it is: one layer more of the kind that its
 * config describes, which reads the model's last hidden state and the embedding of the token that follows,
 * then its own state and its own guess. Embedding and head are the model's. */
typedef struct qp_mtp qp_mtp;

typedef struct {
    const int32_t *tokens; /* as of qp_medusa_options */
    int64_t        token_count;
} qp_mtp_options;

/* A fresh one, or that of a safetensors file with DeepSeek-V3's names behind the model's L layers
 * (model.layers.L.eh_proj.weight, ..; token_map has the tokens). What is loaded is kept as of qp_medusa_load,
 * and trains further only with `train`. The context's. NULL after an error, as of qp_medusa_new. */
QP_API qp_mtp *qp_mtp_new(qp_model *base, qp_mtp_options options);
QP_API qp_mtp *qp_mtp_load(qp_model *base, const char *path, bool train);
QP_API QP_MUST_CHECK qp_status qp_mtp_save(qp_mtp *m, const char *path);
QP_API void qp_mtp_close(qp_mtp *m);           /* behind its drafters, before its base. NULL is allowed */
QP_API qp_state_dict qp_mtp_params(qp_mtp *m); /* what an optimiser takes */
/* hidden [B, T, D] (qp_model_hidden of the ids), ids and labels [B, T] (the id behind each position) -> the
 * sum over k = 0 .. ahead - 1 of 0.8^k times the mean cross-entropy of the token k + 2 places behind a
 * position; for each k the module reads what it had for the one before. ARGUMENT: ahead below 1, or T too
 * short. arXiv:2509.18362 */
QP_API qp_tensor qp_mtp_loss(qp_mtp *m, qp_tensor hidden, qp_tensor ids, qp_tensor labels, int64_t ahead);

QP_API qp_drafter *qp_drafter_mtp(qp_session *target, qp_mtp *m, qp_drafter_options options);

/* ---- One text ---------------------------------------------------------------------------------- */

typedef enum {
    QP_STOP_LENGTH,
    QP_STOP_END_TOKEN,
    QP_STOP_TEXT,
    QP_STOP_CALLBACK,
    QP_STOP_CANCELLED, /* by qp_engine_cancel */
    QP_STOP_ERROR,
} qp_stop_reason;

typedef struct {
    int32_t           id;
    bool              prompt;  /* of the prompt (echo) */
    float             logprob; /* where asked for; NaN for the first token of a prompt */
    const qp_logprob *top;     /* the likeliest at its place */
    int               top_count;
} qp_token;

typedef struct {
    int64_t prompt_tokens, tokens;
    int64_t reused;                   /* of the prompt, not computed again */
    int64_t calls, drafted, accepted; /* of the model behind the prompt; tokens guessed, and of these kept */
    double  prompt_seconds, seconds;  /* reading the prompt; writing the rest */
    qp_stop_reason reason;
    const char    *error; /* with QP_STOP_ERROR */
} qp_generation;

typedef struct {
    int64_t            max_tokens;
    qp_sampling        sampling;
    uint64_t           seed;
    const char *const *stop; /* generation ends before the first of these texts */
    int                stop_count;
    const int32_t     *ends; /* tokens that end it; NULL: the tokenizer's */
    int                end_count;
    bool               logprobs; /* of each token, and of the `top` likeliest at its place */
    int                top;
    bool echo; /* on_token gets the prompt's tokens too (with logprobs, if asked for); the text goes
                                on behind the prompt's */
    /* Text as it comes, whole characters, nothing of a stop text. Return false to stop. */
    bool (*on_text)(void *user, const char *text, size_t bytes);
    /* Each token as it is drawn, before its text, the one that ends it not. Return false to stop. */
    bool (*on_token)(void *user, const qp_token *token);
    void       *user;
    qp_drafter *drafter; /* of the session; NULL: none. Of qp_generate only */
    const char *accept;  /* which of its guesses stay; NULL: match.
                            match      what the sampler draws: the text is that without a drafter
                            rejection  another text of the same distribution: guesses are drawn, too, and kept
                                       with min(1, p / q), by drafters that can (model, medusa, mtp). Where they
                                       are good, more stay than by match. arXiv:2211.17192, 2305.09781
                            typical    whatever is not improbable: most stay, but the distribution changes.
                                       arXiv:2401.10774 */
    int64_t     chunk;   /* prompts are read in pieces of so many positions; 0: 256 */
} qp_generate_options;

/* Continues the ids: row 0 of the session is fed the prompt, then what is drawn, until something stops it or
 * the row is full (QP_STOP_LENGTH). Without a drafter the loop asks the system for no memory after the first
 * token. Without a tokenizer (NULL) there is no text and there are no stop texts. Errors, also in result
 * (QP_STOP_ERROR with the context's text, valid until it is cleared): ARGUMENT (an empty prompt, an id outside
 * the vocabulary, no room for it, an option, a drafter of another session), CANCELLED, MEMORY, those of
 * qp_session_feed and qp_decode. */
QP_API QP_MUST_CHECK qp_status qp_generate(qp_session *session, const qp_tokenizer *t, const int32_t *ids,
                                           int64_t n, qp_generate_options options, qp_generation *result);

/* ---- Several at once ------------------------------------------------------------------------------ */

/* An engine has a session, and a row of it for each request in hand. Requests join and leave between
 * steps; a step reads one piece of a prompt and then writes one token (with a drafter: some) of every
 * text. A request's output is the same, bit for bit, as if it were alone. A row that is free keeps its
 * positions: a prompt that begins like them (or like those of a row in use) is not computed again.
 *
 * One thread, the context's, calls qp_engine_step; any thread may call submit, cancel, wake and
 * stats. Callbacks come from within the step and must not call the engine but for cancel. */
typedef struct qp_engine qp_engine;

typedef struct {
    int64_t  rows;      /* texts at once; 0: 4 */
    int64_t  positions; /* of a row; 0: the model's */
    int64_t  queue;     /* requests that wait at most, besides those that free rows will take; 0: 1024 */
    int64_t  chunk;     /* as in qp_generate_options */
    qp_dtype kv;
    bool     no_reuse; /* prompts are always computed */
    /* Makes the drafter for the engine's session, NULL: none. */
    qp_drafter *(*drafter)(void *user, qp_session *session);
    void *user;
} qp_engine_options;

typedef struct {
    const int32_t      *ids; /* the prompt, copied like all else that options point to */
    int64_t             count;
    qp_generate_options options; /* max_tokens 0 with echo: the prompt alone is scored */
    /* The last call for this request. NULL: nothing. */
    void (*on_end)(void *user, const qp_generation *result);
} qp_request;

/* The tokenizer (NULL: none) must outlive it; the context's. NULL after an error: ARGUMENT (rows, a number
 * below 0), those of qp_session_new and of `drafter`. */
QP_API qp_engine *qp_engine_new(qp_model *m, const qp_tokenizer *t, qp_engine_options options);
/* Ends what is in hand as QP_STOP_CANCELLED. */
QP_API void qp_engine_close(qp_engine *e);

/* Puts a request into the queue and gives it a number from 1. Checks everything about it before: a
 * request that does not fit is ARGUMENT with its reason in `error` (may be NULL), a full queue STATE.
 * The context is not touched. */
QP_API QP_MUST_CHECK qp_status qp_engine_submit(qp_engine *e, const qp_request *r, uint64_t *number,
                                                char error[256]);
/* The request ends at its next token, as QP_STOP_CANCELLED; unknown and ended ones are passed over. */
QP_API void qp_engine_cancel(qp_engine *e, uint64_t number);

/* One step. False: there was nothing to do. What fails in it ends the requests that it concerns
 * (QP_STOP_ERROR), and the context is cleared. */
QP_API bool qp_engine_step(qp_engine *e);
/* Sleeps until there is something to do, somebody calls qp_engine_wake, or so many seconds (below 0:
 * any) are over. */
QP_API void qp_engine_wait(qp_engine *e, double seconds);
QP_API void qp_engine_wake(qp_engine *e); /* from any thread */

typedef struct {
    int64_t  rows, busy, waiting; /* rows; of these in use; requests in the queue */
    int64_t  positions, held;     /* of all rows; of these computed */
    uint64_t requests, errors;    /* ended; with QP_STOP_ERROR */
    uint64_t prompt_tokens, reused, tokens, calls, drafted, accepted; /* as in qp_generation, in all */
} qp_engine_stats;
QP_API qp_engine_stats qp_engine_stats_of(qp_engine *e);

#ifdef __cplusplus
}
#endif
#endif
