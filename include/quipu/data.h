/* quipu/data.h: tokenizers, data sets, batches. */
#ifndef QUIPU_DATA_H
#define QUIPU_DATA_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Tokenizers ---------------------------------------------------------------------- */

/* Text to ids and back. A tokenizer lives until its context closes (or qp_tokenizer_close);
 * it never changes, so any number of threads may use it at once, each with its own context
 * for errors.
 *
 * Kinds: "byte" (ids 0..255 are the bytes) and "bpe" (byte-level pair merges: GPT-2, Llama 3,
 * Qwen 2 and their like; Sennrich et al. 2016, arXiv:1508.07909). Ids equal those of the
 * Python package `tokenizers`.
 *
 * Text is UTF-8, but need not be: bytes that are not UTF-8 are taken as characters that are
 * neither letter nor space, and decoding gives back the same bytes. (Normalisation, where a
 * tokenizer asks for one, changes text, and is the only thing that does.) */
typedef struct qp_tokenizer qp_tokenizer;

/* Growing results: start with {0}, functions append, free at the end. */
typedef struct {
    int32_t *data;
    int64_t  count, capacity;
} qp_ids;
typedef struct {
    char  *data; /* not ended by 0 */
    size_t count, capacity;
} qp_text;
QP_API void qp_ids_free(qp_ids *ids);
QP_API void qp_text_free(qp_text *text);

/* A tokenizer.json, or a folder that holds one. NULL after storing an error: IO, FORMAT (the
 * file and the place or key), UNSUPPORTED (names the component that quipu has not), MEMORY.
 * Understood: model BPE; pre-tokenizers ByteLevel, Digits, Split with a pattern, and
 * sequences of them; normalizers NFC, NFD, NFKC, NFKD; post-processors ByteLevel,
 * TemplateProcessing, RobertaProcessing; decoder ByteLevel; added tokens with all their
 * flags. Truncation and padding are left to the caller. */
QP_API qp_tokenizer *qp_tokenizer_load(qp_ctx *ctx, const char *path);

/* The tokenizer of bytes: ids 0..255, and 256 for the end of a text, "<|endoftext|>". */
QP_API qp_tokenizer *qp_tokenizer_bytes(qp_ctx *ctx);

typedef struct {
    int64_t            size;      /* tokens in all, with the special ones and the 256 bytes */
    int64_t            min_count; /* pairs seen less often are not merged; 0: as 1 */
    const char        *pattern;   /* how text is cut into words: "gpt2" (NULL), "llama3", "qwen2",
                                     or a regular expression */
    const char *const *special;   /* special tokens, ids 0, 1, ..; NULL: {"<|endoftext|>"} */
    int                special_count;
    const char        *field;     /* of JSON lines; NULL: "text" */
} qp_bpe_options;

/* Learns a byte-level BPE from files: text, or JSON lines if the name ends in .jsonl. Ties go to
 * the pair with the smaller ids, as in `tokenizers`, whose trainer yields the same tokenizer;
 * the number of threads changes nothing. Fewer tokens than asked for come out when no pair
 * occurs min_count times. Special tokens' texts count as ordinary text here. */
QP_API qp_tokenizer *qp_tokenizer_train(qp_ctx *ctx, int n, const char *const *paths, qp_bpe_options options);
QP_API qp_tokenizer *qp_tokenizer_train_text(qp_ctx *ctx, const char *text, size_t bytes, qp_bpe_options options);

/* Writes a tokenizer.json that `tokenizers` and transformers load and that yields the same ids
 * there. */
QP_API QP_MUST_CHECK qp_status qp_tokenizer_save(qp_ctx *ctx, const qp_tokenizer *t, const char *path);

/* Frees it early. No data set may still use it. NULL is allowed. */
QP_API void qp_tokenizer_close(qp_tokenizer *t);

QP_API const char *qp_tokenizer_kind(const qp_tokenizer *t); /* "byte", "bpe" */
QP_API int64_t     qp_tokenizer_size(const qp_tokenizer *t); /* largest id + 1 */

/* The id of a token written as in tokenizer.json ("\u0120the", "<|endoftext|>"), or -1; and its
 * text under an id, NULL if there is none. */
QP_API int32_t     qp_tokenizer_id(const qp_tokenizer *t, const char *token);
QP_API const char *qp_tokenizer_token(const qp_tokenizer *t, int32_t id);
QP_API bool        qp_tokenizer_is_special(const qp_tokenizer *t, int32_t id);

/* The token that ends a text, -1 if there is none: "<|endoftext|>", "<|end_of_text|>", "</s>"
 * or "<eos>", whichever comes first, unless set. tokenizer.json does not say; a model's
 * config does. */
QP_API int32_t qp_tokenizer_end(const qp_tokenizer *t);
QP_API void    qp_tokenizer_set_end(qp_tokenizer *t, int32_t id); /* before any other use */

typedef struct {
    bool wrap;    /* add what the file's template puts around a text (a first token, say) */
    bool literal; /* special tokens' texts are ordinary text: for input from strangers */
} qp_encode_options;

/* Appends the ids of a text. Long texts are shared out to the context's threads. */
QP_API QP_MUST_CHECK qp_status qp_encode(qp_ctx *ctx, const qp_tokenizer *t, const char *text, size_t bytes,
                                         qp_encode_options options, qp_ids *out);

/* Appends the bytes of n ids; with skip_special without those of special tokens. ARGUMENT: an id
 * is no token. Added tokens yield their text. */
QP_API QP_MUST_CHECK qp_status qp_decode(qp_ctx *ctx, const qp_tokenizer *t, const int32_t *ids, int64_t n,
                                         bool skip_special, qp_text *out);

/* Decoding id by id: bytes that may yet become a character are held back until it is complete.
 * Start with {0}; qp_decode_end appends what is still held. */
typedef struct {
    char held[4];
    int  count;
} qp_decoding;
QP_API QP_MUST_CHECK qp_status qp_decode_next(qp_ctx *ctx, const qp_tokenizer *t, qp_decoding *state, int32_t id,
                                              bool skip_special, qp_text *out);
QP_API QP_MUST_CHECK qp_status qp_decode_end(qp_ctx *ctx, qp_decoding *state, qp_text *out);

#ifdef __cplusplus
}
#endif
#endif
