/* A tokenizer's life, its tokens, and decoding. */
#define _POSIX_C_SOURCE 200809L
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/bpe.h"
#include "format/os.h"
#include "format/utf8.h"

/* ---- Life ----------------------------------------------------------------------------- */

qp_tokenizer *qpi_tokenizer_new(const qpi_tokenizer_kind *kind, int64_t id_limit, qpi_error *e) {
    qp_tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    t->kind = kind;
    t->vocab.id_limit = id_limit;
    t->begin = t->end = QPI_NO_TOKEN;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void qpi_encoder_free(qpi_encoder *w) {
    qpi_split_state_free(&w->split);
    qpi_normal_state_free(&w->normal);
    qpi_buffer_free(&w->scratch);
    qpi_bpe_work_free(w->bpe);
    free(w->cache);
    free(w);
}

void qpi_tokenizer_free(void *tokenizer) {
    qp_tokenizer *t = tokenizer;
    if (!t) return;
    for (qpi_encoder *w = t->idle, *next; w; w = next) {
        next = w->next;
        qpi_encoder_free(w);
    }
    if (t->model) t->kind->free(t->model);
    qpi_vocab_free(&t->vocab);
    for (int i = 0; i < 2; i++) qpi_matcher_free(&t->matchers[i]);
    qpi_normalizer_free(&t->normalizer);
    qpi_pretokenizer_free(&t->pretokenizer);
    qpi_around_free(&t->single);
    qpi_around_free(&t->pair);
    qpi_decoder_free(&t->decoder);
    free(t->added);
    for (int i = 0; i < QPI_PARTS; i++) free(t->parts[i]);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

bool qpi_tokenizer_add(qp_tokenizer *t, qpi_added token, qpi_error *e) {
    qpi_added *p = qpi_grown(t->added, &t->added_capacity, t->added_count + 1, sizeof *p);
    if (!p) return qpi_fail_memory(e, "added tokens") == QP_OK;
    t->added = p;
    p[t->added_count] = token;
    qpi_token *entry = &t->vocab.tokens[token.id];
    entry->flags |= QPI_TOKEN_ADDED | (token.special ? QPI_TOKEN_SPECIAL : 0);
    t->added_count++;
    return true;
}

/* What the decoder gets of each token. */
static bool set_bytes(qp_tokenizer *t, qpi_error *e) {
    for (size_t id = 0; id < t->vocab.size; id++) {
        const qpi_token *token = &t->vocab.tokens[id];
        if (!token->text) continue;
        qpi_vocab_set_plain(&t->vocab, (int32_t)id);
        if (t->decoder.bytes && !(token->flags & QPI_TOKEN_ADDED) &&
            !qpi_vocab_set_byte_level(&t->vocab, (int32_t)id, e))
            return false;
    }
    for (size_t i = 0; i < t->added_count; i++) {
        qpi_token *token = &t->vocab.tokens[t->added[i].id];
        token->bytes = t->added[i].text;
        token->bytes_size = (uint32_t)t->added[i].size;
    }
    return true;
}

void qpi_tokenizer_add_end(qp_tokenizer *t, int64_t id) {
    bool there = !qpi_vocab_at(&t->vocab, id) || t->end_count == QP_MAX_ENDS;
    for (int i = 0; i < t->end_count; i++) there |= t->ends[i] == id;
    if (there) return;
    t->ends[t->end_count++] = (int32_t)id;
    if (t->end < 0) t->end = (int32_t)id;
}

bool qpi_tokenizer_finish(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    static const char *const names[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};
    if (!t->kind->build(t, o, e)) return false;
    if (!t->single.count && !qpi_around_default(&t->single, &t->pair, e)) return false;
    qpi_decoder_finish(&t->decoder);
    for (int i = 0; i < 2; i++)
        if (!qpi_matcher_make(&t->matchers[i], t->added, t->added_count, i, e)) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names && t->end < 0; i++)
        t->end = qp_tokenizer_id(t, names[i]);
    qpi_tokenizer_add_end(t, t->end);
    return set_bytes(t, e);
}

qp_tokenizer *qpi_tokenizer_give(qp_ctx *ctx, qp_tokenizer *t, const qpi_error *e) {
    if (!t) {
        qp_fail(ctx, e->code, "%s", e->text);
        return NULL;
    }
    t->owned = qpi_own(ctx, t, qpi_tokenizer_free);
    if (t->owned) return t;
    qpi_tokenizer_free(t);
    return NULL;
}

void qp_tokenizer_close(qp_tokenizer *t) {
    if (!t) return;
    qpi_disown(t->owned);
    qpi_tokenizer_free(t);
}

qp_tokenizer *qp_tokenizer_load(qp_ctx *ctx, const char *path) {
    qpi_error e = {0};
    return qpi_tokenizer_give(ctx, qpi_tokenizer_load(path, &e), &e);
}

/* ---- Tokens --------------------------------------------------------------------------- */

const char *qp_tokenizer_kind(const qp_tokenizer *t) { return t->kind->name; }
int64_t qp_tokenizer_size(const qp_tokenizer *t) { return (int64_t)t->vocab.size; }

int32_t qp_tokenizer_id(const qp_tokenizer *t, const char *token) {
    return qpi_vocab_find(&t->vocab, token, strlen(token));
}

const char *qp_tokenizer_token(const qp_tokenizer *t, int32_t id) {
    const qpi_token *token = qpi_vocab_at(&t->vocab, id);
    return token ? token->text : NULL;
}

bool qp_tokenizer_is_special(const qp_tokenizer *t, int32_t id) {
    const qpi_token *token = qpi_vocab_at(&t->vocab, id);
    return token && (token->flags & QPI_TOKEN_SPECIAL);
}

int32_t qp_tokenizer_begin(const qp_tokenizer *t) { return t->begin; }
int32_t qp_tokenizer_end(const qp_tokenizer *t) { return t->end; }

int qp_tokenizer_ends(const qp_tokenizer *t, const int32_t **ids) {
    *ids = t->ends;
    return t->end_count;
}

void qp_tokenizer_set_end(qp_tokenizer *t, int32_t id) {
    t->end = qpi_vocab_at(&t->vocab, id) ? id : QPI_NO_TOKEN;
    t->end_count = 0;
    qpi_tokenizer_add_end(t, t->end);
}

void qp_ids_free(qp_ids *ids) {
    free(ids->data);
    *ids = (qp_ids){0};
}

void qp_text_free(qp_text *text) {
    free(text->data);
    *text = (qp_text){0};
}
