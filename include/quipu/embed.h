/* quipu/embed.h: a vector for a text: the hidden states of a model, pooled (Reimers & Gurevych 2019,
 * arXiv:1908.10084). Vectors of the folders that the Python package sentence-transformers writes equal
 * that package's.
 */
#ifndef QUIPU_EMBED_H
#define QUIPU_EMBED_H

#include "data.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    QP_POOL_MEAN, /* of all positions */
    QP_POOL_CLS,  /* the first position */
    QP_POOL_LAST  /* the last position */
} qp_pooling;

typedef struct {
    qp_pooling pooling;
    bool       normalize;  /* divided by its Euclidean length */
    int64_t    max_tokens; /* longer texts are cut; 0: the model's positions */
} qp_embed_options;

/* What a model's folder says: modules.json, the pooling's config.json, sentence_bert_config.json, or its GGUF
 * file (ARCHITECTURE.pooling_type); without these the mean or, of causal models, the last position, not
 * normalised. ARGUMENT, FORMAT, IO; UNSUPPORTED: a module or a pooling that quipu has not. */
QP_API QP_MUST_CHECK qp_status qp_embed_options_load(qp_model *m, const char *folder, qp_embed_options *out);

/* ids i64 or i32 [B, T] -> [B, D]. Row b has lengths[b] tokens (1 to T), the rest is padding that nothing
 * sees; lengths NULL: all T. A row's vector does not depend on the others. Differentiates. */
QP_API qp_tensor qp_embed_ids(qp_model *m, qp_tensor ids, const int64_t *lengths, qp_embed_options options);

/* n texts -> vectors [n, D], in order; texts of similar length share a batch. With the tokens that the
 * tokenizer puts around a text; their texts within it are ordinary text. tokens, if not NULL, gets how
 * many tokens were read. ARGUMENT: a text has no tokens at all, max_tokens below 0. */
QP_API QP_MUST_CHECK qp_status qp_embed(qp_model *m, const qp_tokenizer *t, int64_t n, const char *const *texts,
                                        const size_t *bytes, qp_embed_options options, float *vectors,
                                        int64_t *tokens);

#ifdef __cplusplus
}
#endif
#endif
