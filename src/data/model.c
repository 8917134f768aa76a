/* What the kinds of models share: words through the cache, their tokens, their vocabularies in files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"

/* ---- Words ------------------------------------------------------------------------------- */

bool qpi_put_ids(qpi_encoder *w, const int32_t *ids, size_t n) {
    if (w->out->capacity - w->out->count < (int64_t)n && !qpi_ids_reserve(w->out, n))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    if (n) memcpy(w->out->data + w->out->count, ids, n * sizeof *ids);
    w->out->count += (int64_t)n;
    return true;
}

bool qpi_no_unknown(qpi_encoder *w, const char *name) {
    char shown[QPI_SHOWN];
    if (name)
        qpi_fail(&w->error, QP_ERR_FORMAT,
                 "tokenizer: a word is unknown, and the vocabulary has no token \"%s\" for it",
                 qpi_shown(shown, name, strlen(name)));
    else
        qpi_fail(&w->error, QP_ERR_FORMAT,
                 "tokenizer: a character is unknown, and the model has no token for it");
    return false;
}

typedef struct {
    const qp_tokenizer *t;
    qpi_encoder        *w;
    qpi_encode_word_fn *encode_word;
} job;

static inline bool encode_cached(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n,
                                 qpi_encode_word_fn *one) {
    uint64_t head, tail;
    qp_ids  *out = w->out;
    if (n > QPI_CACHE_WORD) return one(t, w, text, n);
    qpi_known_word *known = qpi_cached(w->cache, text, n, &head, &tail);
    if (known->size == n && !((known->head ^ head) | (known->tail ^ tail))) {
        if (out->capacity - out->count < QPI_CACHE_IDS) return qpi_put_ids(w, known->ids, known->count);
        memcpy(out->data + out->count, known->ids, sizeof known->ids); /* the room is there; fewer may count */
        out->count += known->count;
        return true;
    }
    int64_t before = out->count;
    if (!one(t, w, text, n)) return false;
    int64_t count = out->count - before;
    if (count > QPI_CACHE_IDS) return true;
    *known = (qpi_known_word){.head = head, .tail = tail, .size = (uint8_t)n, .count = (uint8_t)count};
    if (count) memcpy(known->ids, out->data + before, (size_t)count * sizeof *known->ids);
    return true;
}

bool qpi_encode_cached(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n,
                       qpi_encode_word_fn *one) {
    return encode_cached(t, w, text, n, one);
}

static bool encode_word(void *arg, const uint8_t *text, size_t n) {
    const job *j = arg;
    return encode_cached(j->t, j->w, text, n, j->encode_word);
}

bool qpi_encode_words(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first,
                      qpi_encode_word_fn *one) {
    job j = {t, w, one};
    if (!w->cache && !(w->cache = calloc(1, sizeof *w->cache)))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    return qpi_pretokenize(&t->pretokenizer, &w->split, text, n, first, encode_word, &j);
}

/* ---- Tokens -------------------------------------------------------------------------------- */

int32_t qpi_model_token(const qp_tokenizer *t, const char *text, size_t n) {
    int32_t id = qpi_vocab_find(&t->vocab, text, n);
    return id >= 0 && (t->vocab.tokens[id].flags & QPI_TOKEN_MODEL) ? id : QPI_NO_TOKEN;
}

void qpi_byte_tokens(const qp_tokenizer *t, int32_t ids[256]) {
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        ids[i] = qpi_model_token(t, text, 6);
    }
}

bool qpi_model_trie(const qp_tokenizer *t, qpi_trie *trie, size_t longest, qpi_error *e) {
    size_t         count = 0;
    qpi_trie_text *texts = malloc((t->vocab.count + 1) * sizeof *texts);
    if (!texts) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    bool ok = true;
    for (size_t i = 0; ok && i < t->vocab.size; i++) {
        const qpi_token *token = &t->vocab.tokens[i];
        if (!(token->flags & QPI_TOKEN_MODEL) || !token->text_size) continue;
        if (qpi_vocab_find(&t->vocab, token->text, token->text_size) != (int32_t)i)
            continue; /* it comes again */
        if (token->text_size > longest)
            ok = qpi_fail(e, QP_ERR_UNSUPPORTED,
                          "model.vocab: token %zu: one of more than %zu bytes is not supported", i,
                          longest) == QP_OK;
        texts[count++] = (qpi_trie_text){token->text, token->text_size, (int32_t)i};
    }
    if (ok && !qpi_trie_make(trie, texts, count)) ok = qpi_fail_memory(e, "tokenizer") == QP_OK;
    free(texts);
    return ok;
}

/* ---- Writing -------------------------------------------------------------------------------- */

void qpi_print_vocab(const qp_tokenizer *t, qpi_buffer *out) {
    const char *comma = "";
    qpi_put_text(out, "\"vocab\":{");
    for (size_t i = 0; i < t->vocab.size; i++) {
        const qpi_token *token = &t->vocab.tokens[i];
        char             number[24];
        if (!(token->flags & QPI_TOKEN_MODEL)) continue;
        snprintf(number, sizeof number, ":%zu", i);
        qpi_put_text(out, comma);
        qpi_put_text(out, "\n");
        qpi_json_print_string(out, token->text, token->text_size);
        qpi_put_text(out, number);
        comma = ",";
    }
    qpi_put_text(out, "}");
}
