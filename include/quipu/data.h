/* quipu/data.h: tokenizers, data sets, batches. */
#ifndef QUIPU_DATA_H
#define QUIPU_DATA_H

#include "record.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Tokenizers ---------------------------------------------------------------------- */

/* Text to ids and back. A tokenizer lives until its context closes (or qp_tokenizer_close);
 * it never changes, so any number of threads may use it at once, each with its own context
 * for errors.
 *
 * Kinds: "byte" (ids 0..255 are the bytes), "bpe" (pair merges, over bytes as in GPT-2, Llama 3
 * and Qwen 2, or over characters as in Llama 2 and Gemma; Sennrich et al. 2016,
 * arXiv:1508.07909), "wordpiece" (BERT), "unigram" (T5, XLM-R; Kudo 2018, arXiv:1804.10959) and
 * "wordlevel". Ids equal those of the Python package `tokenizers`.
 *
 * Text is UTF-8, but need not be: bytes that are not UTF-8 are taken as characters that are
 * neither letter nor space and that no vocabulary of characters knows. Tokenizers over bytes
 * decode to the same bytes again. */
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

/* A tokenizer.json; SentencePiece's tokenizer.model; a GGUF file (models gpt2, llama, t5, bert); or a model's
 * folder, which holds one of the first two, and whose tokenizer_config.json, special_tokens_map.json and
 * generation_config.json say which tokens begin and end a text. NULL after storing an error: IO, FORMAT (the
 * file and the place or key), UNSUPPORTED (names the component that quipu has not), MEMORY.
 *
 * Of tokenizer.json all components are understood except UnicodeScripts and dropout. Patterns are PCRE2's
 * where the package has Oniguruma's. Truncation and padding are kept but left to the caller. Refused, to
 * bound time and memory: tokens of more than 256 bytes (WordPiece, Unigram) and added tokens of more than
 * 512. */
QP_API qp_tokenizer *qp_tokenizer_load(qp_ctx *ctx, const char *path);

/* The tokenizer of bytes: ids 0..255, and 256 for the end of a text, "<|endoftext|>". The context's; NULL:
 * MEMORY. */
QP_API qp_tokenizer *qp_tokenizer_bytes(qp_ctx *ctx);

typedef struct {
    int64_t            size;      /* tokens in all, with the special ones and the 256 bytes */
    int64_t            min_count; /* pairs seen less often are not merged; 0: as 1 */
    const char        *pattern;   /* how text is cut into words: "gpt2" (NULL), "llama3", "qwen2",
                                   or a regular expression */
    const char *const *special;   /* special tokens, ids 0, 1, ..; NULL: {"<|endoftext|>"} */
    int                special_count;
    const char        *field; /* of JSON lines; NULL: "text" */
} qp_bpe_options;

/* Learns a byte-level BPE from files: text, or JSON lines if the name ends in .jsonl. Ties go to the pair
 * with the smaller ids, as in `tokenizers`, whose trainer yields the same tokenizer; the number of threads
 * changes nothing. Fewer tokens than asked for come out when no pair occurs min_count times. Special tokens'
 * texts count as ordinary text here. The context's; NULL after storing an error: ARGUMENT (a size below the
 * 256 bytes, a special token), IO, FORMAT (JSON lines, the pattern), UNSUPPORTED (too many words), MEMORY,
 * CANCELLED. */
QP_API qp_tokenizer *qp_tokenizer_train(qp_ctx *ctx, int n, const char *const *paths, qp_bpe_options options);
QP_API qp_tokenizer *qp_tokenizer_train_text(qp_ctx *ctx, const char *text, size_t bytes,
                                             qp_bpe_options options);

/* Writes a tokenizer.json that `tokenizers` and transformers load and that yields the same ids
 * there. Errors: IO, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_tokenizer_save(qp_ctx *ctx, const qp_tokenizer *t, const char *path);

/* Frees it early. No data set may still use it. NULL is allowed. */
QP_API void qp_tokenizer_close(qp_tokenizer *t);

QP_API const char *
qp_tokenizer_kind(const qp_tokenizer *t); /* "byte", "bpe", "wordpiece", "unigram", "wordlevel" */
QP_API int64_t qp_tokenizer_size(const qp_tokenizer *t); /* largest id + 1 */

/* The id of a token written as in tokenizer.json ("\u0120the", "<|endoftext|>"), or -1; and its
 * text under an id, NULL if there is none. */
QP_API int32_t qp_tokenizer_id(const qp_tokenizer *t, const char *token);
QP_API const char *qp_tokenizer_token(const qp_tokenizer *t, int32_t id);
QP_API bool qp_tokenizer_is_special(const qp_tokenizer *t, int32_t id);

/* The token that begins a text, and the one that ends it; -1 if there is none. tokenizer.json does not say:
 * they come from the other files of a model's folder, or from GGUF; an end that nothing names is
 * "<|endoftext|>", "<|end_of_text|>", "</s>" or "<eos>", whichever comes first. */
QP_API int32_t qp_tokenizer_begin(const qp_tokenizer *t);
QP_API int32_t qp_tokenizer_end(const qp_tokenizer *t);

/* All tokens that end a text or a turn of a chat (generation_config.json's eos_token_id, what GGUF names),
 * the one above among them; how many. */
#define QP_MAX_ENDS 16
QP_API int qp_tokenizer_ends(const qp_tokenizer *t, const int32_t **ids);
QP_API void qp_tokenizer_set_end(qp_tokenizer *t, int32_t id); /* before any other use */

typedef struct {
    bool wrap;    /* add what the file's template puts around a text (a first token, say) */
    bool literal; /* special tokens' texts are ordinary text: for input from strangers */
} qp_encode_options;

/* Appends the ids of a text. Long texts are shared out to the context's threads. Errors: UNSUPPORTED (a text
 * that a pattern takes too long for, a word that is too long, a text that a normaliser makes many times
 * longer), MEMORY; nothing is appended then. */
QP_API QP_MUST_CHECK qp_status qp_encode(qp_ctx *ctx, const qp_tokenizer *t, const char *text, size_t bytes,
                                         qp_encode_options options, qp_ids *out);

/* The same for two texts, as encoders of pairs take them, with what the file's template puts around and
 * between them if options say so; b NULL: for one. types, if not NULL, gets one number for each id: which
 * text it belongs to, as the template says (0 and 1, as a rule). UNSUPPORTED: the template has no place for a
 * second text. */
QP_API QP_MUST_CHECK qp_status qp_encode_pair(qp_ctx *ctx, const qp_tokenizer *t, const char *a, size_t a_bytes,
                                              const char *b, size_t b_bytes, qp_encode_options options,
                                              qp_ids *out, qp_ids *types);

/* Appends the bytes of n ids; with skip_special without those of special tokens. ARGUMENT: an id
 * is no token. Added tokens yield their text. */
QP_API QP_MUST_CHECK qp_status qp_decode(qp_ctx *ctx, const qp_tokenizer *t, const int32_t *ids, int64_t n,
                                         bool skip_special, qp_text *out);

/* Decoding id by id, to the same text: what the next ids may yet change is held back (bytes that may become a
 * character; all of the text where a decoder needs all of it). Start with {0}; qp_decode_end appends what is
 * still held and makes the state fresh again. */
typedef struct {
    const qp_tokenizer *tokenizer;
    char                held[4];
    int                 count;
    int32_t             last;     /* a token that waits for the next, plus 1 */
    int64_t             position; /* tokens so far */
    int64_t             stripped, trailing;
    qp_ids              ids;
} qp_decoding;
QP_API QP_MUST_CHECK qp_status qp_decode_next(qp_ctx *ctx, const qp_tokenizer *t, qp_decoding *state,
                                              int32_t id, bool skip_special, qp_text *out);
QP_API QP_MUST_CHECK qp_status qp_decode_end(qp_ctx *ctx, qp_decoding *state, qp_text *out);

/* ---- Data sets ----------------------------------------------------------------------- */

/* Batches in an order that depends on the seed alone, prepared ahead by a thread of their own.
 * A data set lives until its context closes (or qp_data_close). */
typedef struct qp_data qp_data;

typedef enum {
    QP_SHUFFLED,   /* every epoch a new permutation of the samples, computed and not stored; the
                      windows of a text also move from epoch to epoch */
    QP_SEQUENTIAL, /* in order; rows beyond the end of the last batch do not count */
    QP_STREAMS,    /* row j of a batch goes on where row j of the one before ended */
} qp_order;

typedef struct {
    int64_t  batch; /* rows; 0: 1 */
    qp_order order;
    uint64_t seed;
    int      process, processes; /* this one of how many that share the work; 0, 0: alone. Each
                                    gets its own rows of a common order */
    int      ahead;              /* batches prepared ahead; 0: 2; -1: none, and no thread */

    /* For text. */
    int64_t             length;           /* positions of a row; 0: 256 */
    const qp_tokenizer *tokenizer;        /* must outlive the data set; NULL: a byte tokenizer of its own */
    const char         *field;            /* of JSON lines; NULL: "text" */
    bool                special;          /* special tokens written in the text count as such, not as text */
    bool                wrap;             /* put what the tokenizer's template asks for around each document */
    double              validation;       /* share of the tokens, at the end, that is kept apart */
    const char *const  *validation_paths; /* or files of their own */
    int                 validation_count;
} qp_data_options;

/* Text: files are taken whole, *.jsonl and *.ndjson line by line (one document each). Documents
 * are joined with qp_tokenizer_end between them and cut into windows. Fields:
 *     input_ids [B, T] i64
 *     labels    [B, T] i64: the id that follows each position, -100 where none is to be learnt
 *               (behind the end of the text when it is taken in order)
 * The ids are held in memory, 2 or 4 bytes each. NULL after storing an error: IO, FORMAT,
 * ARGUMENT (fewer ids than one window takes), MEMORY, CANCELLED. */
QP_API qp_data *qp_data_open(qp_ctx *ctx, int n, const char *const *paths, qp_data_options options);

/* The part kept apart, in order and with the same rows and length; NULL if there is none. It
 * belongs to d. */
QP_API qp_data *qp_data_validation(qp_data *d);

/* Frees it early, with its validation part; batches that were handed out stay valid. NULL is
 * allowed. */
QP_API void qp_data_close(qp_data *d);

/* The next batch, in the current scope: count 0 on failure (FORMAT: what a source's `fill` said; MEMORY). Its
 * tensors use the data set's own memory, which is taken again once they are gone; so in a loop that leaves
 * its scope nothing is allocated. */
QP_API qp_record qp_data_next(qp_data *d);

/* The number of batches taken so far, and going to any other place: the batch at a position is
 * always the same, bit for bit. */
QP_API uint64_t qp_data_position(const qp_data *d);
QP_API QP_MUST_CHECK qp_status qp_data_seek(qp_data *d, uint64_t position);

QP_API int64_t qp_data_samples(const qp_data *d); /* of an epoch, over all processes */
QP_API int64_t qp_data_batches(const qp_data *d); /* of an epoch, for each process; the last one
                                                     counts if it is not full */
QP_API int64_t qp_data_tokens(const qp_data *d);  /* ids of a text; 0 for other kinds */
QP_API int64_t qp_data_bytes(const qp_data *d);   /* of the text that those ids stand for */

/* Changes with anything that changes the batches: files, tokenizer, options. */
QP_API uint64_t qp_data_fingerprint(const qp_data *d);

/* The position and all that it depends on, as a JSON object (valid until the next call; NULL
 * without memory); and going back there. STATE if something has changed, and the text says
 * what: the file, the option or the tokenizer. */
QP_API const char *qp_data_state(qp_data *d);
QP_API QP_MUST_CHECK qp_status qp_data_restore(qp_data *d, const char *state);

/* ---- Other kinds of data ------------------------------------------------------------- */

typedef struct { /* one tensor of a sample */
    const char *name;
    qp_dtype    dtype;
    int         ndim;
    int64_t     shape[QP_MAX_DIMS - 1];
} qp_field;

typedef struct {
    const char *path;
    uint64_t    bytes, checksum; /* XXH64 */
} qp_data_file;

/* What a kind of data provides. `source` is its own state. */
typedef struct {
    const char *name;
    int (*fields)(void *source, qp_field *fields); /* sets up to QP_MAX_FIELDS; how many */
    int64_t (*samples)(void *source);              /* of an epoch, at least 1 */
    /* Writes a sample of an epoch: rows[f] is room for field f. index -1: a row that does not
     * count. NULL, or a text that says what went wrong and stays valid. Called from the data
     * set's thread, one call at a time, and by nobody else. */
    const char *(*fill)(void *source, uint64_t epoch, int64_t index, void *const *rows);
    uint64_t (*fingerprint)(void *source);
    bool (*file)(void *source, int index, qp_data_file *out); /* false past the end; may be NULL */
    void (*close)(void *source);                              /* may be NULL */
} qp_source;

/* A data set of any kind (options for text are ignored). The source is closed with it, or at once on failure.
 * The context's; NULL after storing an error: ARGUMENT (options out of range, no samples, malformed fields),
 * MEMORY. */
QP_API qp_data *qp_data_new(qp_ctx *ctx, const qp_source *type, void *source, qp_data_options options);

#ifdef __cplusplus
}
#endif
#endif
