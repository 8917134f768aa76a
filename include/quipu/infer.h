/* quipu/infer.h: sampling and text generation. */
#ifndef QUIPU_INFER_H
#define QUIPU_INFER_H

#include "data.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the next token is drawn. Applied in this order; the value in brackets switches off. */
typedef struct {
    double  repetition_penalty; /* [0 or 1]; logits of tokens seen are divided by it if positive,
                                   multiplied otherwise. arXiv:1909.05858 */
    double  temperature;        /* [1]; 0: always the likeliest token */
    int64_t top_k;              /* [0]; only the k likeliest. arXiv:1805.04833 */
    double  top_p;              /* [0 or 1]; only the fewest likeliest that hold this share.
                                   arXiv:1904.09751 */
    double  min_p;              /* [0]; only those at least min_p times the likeliest.
                                   arXiv:2407.01082 */
} qp_sampling;

typedef struct qp_sampler qp_sampler;

/* For vocabularies of n tokens. Draws depend on seed and on how many were drawn before. The
 * context's; NULL after an error: ARGUMENT (an option outside its range), MEMORY. */
QP_API qp_sampler *qp_sampler_new(qp_ctx *ctx, int64_t n, qp_sampling sampling, uint64_t seed);
/* Frees it early. NULL is allowed. */
QP_API void        qp_sampler_close(qp_sampler *s);
QP_API void        qp_sampler_seen(qp_sampler *s, int32_t id); /* counts for the repetition penalty */
/* Draws from n logits, which it overwrites; what it draws counts as seen. Allocates nothing. */
QP_API int32_t qp_sampler_draw(qp_sampler *s, float *logits);

typedef enum { QP_STOP_LENGTH, QP_STOP_END_TOKEN, QP_STOP_TEXT, QP_STOP_CALLBACK } qp_stop_reason;

typedef struct {
    int64_t            max_tokens;
    qp_sampling        sampling;
    uint64_t           seed;
    const char *const *stop; /* generation ends before the first of these texts */
    int                stop_count;
    const int32_t     *ends; /* tokens that end it; NULL: the tokenizer's */
    int                end_count;
    /* Text as it comes, whole characters, nothing of a stop text. Return false to stop. */
    bool (*on_text)(void *user, const char *text, size_t bytes);
    /* Each token as it is drawn, the one that ends it not. Return false to stop. */
    bool (*on_token)(void *user, int32_t id);
    void *user;
} qp_generate_options;

typedef struct {
    int64_t        prompt_tokens, tokens;
    double         prompt_seconds, seconds; /* reading the prompt; writing the rest */
    qp_stop_reason reason;
} qp_generation;

/* Continues the ids: session (batch 1) is fed the prompt, then what is drawn, until something
 * stops it or the session is full (QP_STOP_LENGTH). After the first
 * token the loop asks the system for no memory. Without a tokenizer (NULL) there is no text and
 * there are no stop texts. */
QP_API QP_MUST_CHECK qp_status qp_generate(qp_session *session, const qp_tokenizer *t, const int32_t *ids, int64_t n,
                                           qp_generate_options options, qp_generation *result);

#ifdef __cplusplus
}
#endif
#endif
