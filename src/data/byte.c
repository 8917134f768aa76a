/* The tokenizer of bytes. In a tokenizer.json it is a byte-level BPE without merges, whose
 * vocabulary gives every byte its value. */
#include "data/bpe.h"
#include "data/tokenizer.h"
#include "format/os.h"
#include "format/utf8.h"

#define END_TEXT "<|endoftext|>"
#define END_ID 256

static bool build(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    (void)t, (void)o, (void)e;
    return true;
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first) {
    (void)t, (void)first;
    if (!qpi_ids_reserve(w->out, n)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    int32_t *ids = w->out->data + w->out->count;
    for (size_t i = 0; i < n; i++) ids[i] = text[i];
    w->out->count += (int64_t)n;
    return true;
}

static void save(const qp_tokenizer *t, qpi_buffer *out) { qpi_bpe_print(t, NULL, out); }

const qpi_tokenizer_kind qpi_tokenizer_byte = {"byte", "BPE", build, encode, save, NULL};

#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"

static bool fill(qp_tokenizer *t, qpi_error *e) {
    for (int i = 0; i < 256; i++) {
        char   text[4];
        size_t n = qpi_utf8_encode(qpi_byte_to_code((uint8_t)i), text);
        if (!qpi_vocab_add(&t->vocab, "bytes", text, n, i, QPI_TOKEN_MODEL, e)) return false;
    }
    if (!qpi_vocab_add(&t->vocab, "bytes", END_TEXT, sizeof END_TEXT - 1, END_ID, 0, e)) return false;
    const qpi_token  *end = &t->vocab.tokens[END_ID];
    qpi_added         added = {.text = end->text, .size = end->text_size, .id = END_ID, .special = true};
    qpi_model_options none = {0};
    return qpi_tokenizer_add(t, added, e) &&
           qpi_tokenizer_part(t, QPI_PART_PRETOKENIZER, "bytes", LEVEL, sizeof LEVEL - 1, e) &&
           qpi_tokenizer_part(t, QPI_PART_DECODER, "bytes", LEVEL, sizeof LEVEL - 1, e) &&
           qpi_tokenizer_finish(t, &none, e);
}

qp_tokenizer *qp_tokenizer_bytes(qp_ctx *ctx) {
    qpi_error     e = {0};
    qp_tokenizer *t = qpi_tokenizer_new(&qpi_tokenizer_byte, END_ID + 1, &e);
    if (t && !fill(t, &e)) {
        qpi_tokenizer_free(t);
        t = NULL;
    }
    return qpi_tokenizer_give(ctx, t, &e);
}
