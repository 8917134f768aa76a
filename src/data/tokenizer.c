/* A tokenizer's life, its tokens, and decoding. */
#define _POSIX_C_SOURCE 200809L
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/bpe.h"
#include "format/checksum.h"
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
    t->end = QPI_NO_TOKEN;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

static void free_encoder(qpi_encoder *w) {
    qpi_split_state_free(&w->split);
    qpi_buffer_free(&w->normal);
    qpi_buffer_free(&w->scratch);
    qpi_bpe_work_free(w->bpe);
    free(w);
}

void qpi_tokenizer_free(void *tokenizer) {
    qp_tokenizer *t = tokenizer;
    if (!t) return;
    for (qpi_encoder *w = t->idle, *next; w; w = next) {
        next = w->next;
        free_encoder(w);
    }
    if (t->model) t->kind->free(t->model);
    qpi_vocab_free(&t->vocab);
    for (int i = 0; i < 4; i++) qpi_matcher_free(&t->matchers[i / 2][i % 2]);
    qpi_pretokenizer_free(&t->pretokenizer);
    free(t->added);
    free(t->wrap_before);
    free(t->wrap_after);
    free(t->normalizer_json);
    free(t->pretokenizer_json);
    free(t->post_json);
    free(t->decoder_json);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

bool qpi_tokenizer_add(qp_tokenizer *t, qpi_added token, qpi_error *e) {
    qpi_added *p = qpi_grown(t->added, &t->added_capacity, t->added_count + 1, sizeof *p);
    if (!p) return qpi_fail_memory(e, "added tokens") == QP_OK;
    t->added = p;
    p[t->added_count] = token;
    for (int literal = 0; literal < 2; literal++)
        if (!(literal && token.special) && !qpi_matcher_add(&t->matchers[token.normalized][literal], token.text,
                                                            token.size, (uint32_t)t->added_count, e))
            return false;
    qpi_token *entry = &t->vocab.tokens[token.id];
    entry->flags |= QPI_TOKEN_ADDED | (token.special ? QPI_TOKEN_SPECIAL : 0);
    t->added_count++;
    return true;
}

bool qpi_tokenizer_describe(qp_tokenizer *t, const char *pretokenizer_json, qpi_error *e) {
    t->pretokenizer_json = strdup(pretokenizer_json);
    t->decoder_json =
        strdup("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}");
    return (t->pretokenizer_json && t->decoder_json) || qpi_fail_memory(e, "tokenizer") == QP_OK;
}

void qpi_tokenizer_finish(qp_tokenizer *t) {
    static const char *const names[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};
    for (size_t i = 0; i < sizeof names / sizeof *names && t->end < 0; i++)
        t->end = qp_tokenizer_id(t, names[i]);
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
int64_t     qp_tokenizer_size(const qp_tokenizer *t) { return (int64_t)t->vocab.size; }

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

int32_t qp_tokenizer_end(const qp_tokenizer *t) { return t->end; }

void qp_tokenizer_set_end(qp_tokenizer *t, int32_t id) {
    t->end = qpi_vocab_at(&t->vocab, id) ? id : QPI_NO_TOKEN;
}

uint64_t qpi_tokenizer_fingerprint(const qp_tokenizer *t, qpi_error *e) {
    qpi_buffer text = {0};
    uint64_t   sum = 0;
    if (qpi_tokenizer_print(t, &text))
        sum = qpi_checksum_of(0, text.data, text.count);
    else
        qpi_fail_memory(e, "tokenizer");
    qpi_buffer_free(&text);
    return sum;
}

void qp_ids_free(qp_ids *ids) {
    free(ids->data);
    *ids = (qp_ids){0};
}

void qp_text_free(qp_text *text) {
    free(text->data);
    *text = (qp_text){0};
}

/* ---- Decoding ------------------------------------------------------------------------- */

static bool put_text(qp_ctx *ctx, qp_text *out, const char *data, size_t n) {
    char *p = qpi_grown(out->data, &out->capacity, out->count + n, 1);
    if (!p) {
        qp_fail(ctx, QP_ERR_MEMORY, "decode: out of memory");
        return false;
    }
    out->data = p;
    if (n) memcpy(p + out->count, data, n);
    out->count += n;
    return true;
}

static const qpi_token *token_of(qp_ctx *ctx, const qp_tokenizer *t, int32_t id) {
    const qpi_token *token = qpi_vocab_at(&t->vocab, id);
    if (!token) qp_fail(ctx, QP_ERR_ARGUMENT, "decode: the tokenizer has no token %d", (int)id);
    return token;
}

qp_status qp_decode(qp_ctx *ctx, const qp_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                    qp_text *out) {
    size_t before = out->count;
    for (int64_t i = 0; i < n; i++) {
        const qpi_token *token = token_of(ctx, t, ids[i]);
        if (token && skip_special && (token->flags & QPI_TOKEN_SPECIAL)) continue;
        if (token && put_text(ctx, out, token->bytes, token->bytes_size)) continue;
        out->count = before;
        return qp_error_code(ctx);
    }
    return QP_OK;
}

/* What was held and what is new, less the unfinished character at the end, which is held. */
qp_status qp_decode_next(qp_ctx *ctx, const qp_tokenizer *t, qp_decoding *state, int32_t id, bool skip_special,
                         qp_text *out) {
    const qpi_token *token = token_of(ctx, t, id);
    if (!token) return QP_ERR_ARGUMENT;
    if (skip_special && (token->flags & QPI_TOKEN_SPECIAL)) return QP_OK;
    size_t before = out->count;
    if (!put_text(ctx, out, state->held, (size_t)state->count) ||
        !put_text(ctx, out, token->bytes, token->bytes_size)) {
        out->count = before;
        return QP_ERR_MEMORY;
    }
    size_t cut = qpi_utf8_cut(out->data + before, out->count - before);
    out->count -= cut;
    if (cut) memcpy(state->held, out->data + out->count, cut);
    state->count = (int)cut;
    return QP_OK;
}

qp_status qp_decode_end(qp_ctx *ctx, qp_decoding *state, qp_text *out) {
    if (!put_text(ctx, out, state->held, (size_t)state->count)) return QP_ERR_MEMORY;
    state->count = 0;
    return QP_OK;
}
