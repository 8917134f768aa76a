/* What the engine writes, as OpenAI's JSON: whole, or event by event. Callbacks run in the engine's
 * thread, the connection's in HTTP's; a job's lock is between them. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/json.h"
#include "cli/serve.h"
#include "format/json.h"

#define MOST_UNSENT ((size_t)4 << 20) /* of a client that does not read */

/* ---- Life ----------------------------------------------------------------------------------------- */

serve_job *serve_job_new(serve_params *params, int count) {
    static atomic_ullong number;
    serve_job           *j = calloc(1, sizeof *j);
    if (j) j->choices = calloc((size_t)count, sizeof *j->choices);
    if (!j || !j->choices) {
        free(j);
        serve_params_free(params);
        return NULL;
    }
    pthread_mutex_init(&j->lock, NULL);
    j->refs = 1;
    j->params = *params;
    j->count = j->left = count;
    j->created = (int64_t)time(NULL);
    j->fd = -1;
    snprintf(j->id, sizeof j->id, "%s-%llx%08llx", j->params.chat ? "chatcmpl" : "cmpl",
             (unsigned long long)j->created, (unsigned long long)++number);
    for (int i = 0; i < count; i++) {
        serve_choice *c = &j->choices[i];
        *c = (serve_choice){.job = j, .index = i, .previous = -1};
        if (!j->params.logprobs) continue;
        if (j->params.chat) {
            c->content = json_array();
        } else {
            c->tokens = json_array();
            c->token_logprobs = json_array();
            c->top_logprobs = json_array();
            c->offsets = json_array();
        }
    }
    return j;
}

static void destroy(serve_job *j) {
    for (int i = 0; i < j->count; i++) {
        serve_choice *c = &j->choices[i];
        qpi_buffer_free(&c->text);
        json_decref(c->tokens);
        json_decref(c->token_logprobs);
        json_decref(c->top_logprobs);
        json_decref(c->offsets);
        json_decref(c->content);
    }
    free(j->choices);
    free(j->vectors);
    qpi_buffer_free(&j->out);
    serve_prompts_free(j->prompts, j->prompt_count);
    serve_params_free(&j->params);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

void serve_job_release(serve_job *j) {
    pthread_mutex_lock(&j->lock);
    bool last = --j->refs == 0;
    pthread_mutex_unlock(&j->lock);
    if (last) destroy(j);
}

void serve_job_cancel(serve_job *j) {
    for (int i = 0; i < j->count; i++)
        if (j->choices[i].number && !j->choices[i].ended) qp_engine_cancel(j->engine, j->choices[i].number);
}

void serve_job_wake(serve_job *j) {
    if (!j->suspended || !j->connection) return;
    j->suspended = false;
    j->resume(j->connection);
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

static const char *finish_reason(const serve_choice *c) {
    return c->result.reason == QP_STOP_LENGTH ? "length" : "stop";
}

static json_t *usage(const serve_job *j) {
    json_int_t prompt = 0, tokens = 0, reused = 0;
    for (int i = 0; i < j->count; i++) {
        if (i % j->params.n == 0)
            prompt += j->choices[i].result.prompt_tokens, reused += j->choices[i].result.reused;
        tokens += j->choices[i].result.tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens", tokens,
                     "total_tokens", prompt + tokens, "prompt_tokens_details", "cached_tokens", reused);
}

static json_t *frame(const serve_job *j, const char *object) {
    return json_pack("{s:s, s:s, s:I, s:o, s:[]}", "id", j->id, "object", object, "created",
                     (json_int_t)j->created, "model", cli_json_name(j->model), "choices");
}

static json_t *logprobs_of(serve_choice *c) {
    if (!c->job->params.logprobs) return json_null();
    if (c->job->params.chat) return json_pack("{s:O}", "content", c->content);
    return json_pack("{s:O, s:O, s:O, s:O}", "tokens", c->tokens, "token_logprobs", c->token_logprobs,
                     "top_logprobs", c->top_logprobs, "text_offset", c->offsets);
}

json_t *serve_job_result(serve_job *j) {
    json_t *all = frame(j, j->params.chat ? "chat.completion" : "text_completion");
    for (int i = 0; all && i < j->count; i++) {
        serve_choice *c = &j->choices[i];
        json_t       *text = cli_json_text(c->text.data ? c->text.data : "", c->text.count), *choice;
        if (j->params.chat)
            choice = json_pack("{s:i, s:{s:s, s:o}, s:o, s:s}", "index", i, "message", "role", "assistant",
                               "content", text, "logprobs", logprobs_of(c), "finish_reason", finish_reason(c));
        else
            choice = json_pack("{s:i, s:o, s:o, s:s}", "index", i, "text", text, "logprobs", logprobs_of(c),
                               "finish_reason", finish_reason(c));
        json_array_append_new(json_object_get(all, "choices"), choice);
    }
    if (all) json_object_set_new(all, "usage", usage(j));
    return all;
}

/* ---- Events ------------------------------------------------------------------------------------------- */

static void put_event(serve_job *j, json_t *value) {
    bool ok = value && qpi_buffer_put(&j->out, "data: ", 6) && qpi_json_print(&j->out, value, 0) &&
              qpi_buffer_put(&j->out, "\n\n", 2);
    json_decref(value);
    if (!ok || j->out.count - j->sent > MOST_UNSENT) j->failed = true;
}

static void forget_logprobs(serve_choice *c) {
    json_array_clear(c->content);
    json_array_clear(c->tokens);
    json_array_clear(c->token_logprobs);
    json_array_clear(c->top_logprobs);
    json_array_clear(c->offsets);
}

/* A piece of text; finish NULL: more to come. */
static void put_chunk(serve_choice *c, const char *text, size_t n, const char *finish) {
    serve_job *j = c->job;
    json_t    *all = frame(j, j->params.chat ? "chat.completion.chunk" : "text_completion"), *choice;
    if (j->params.chat) {
        json_t *delta = json_object();
        if (!c->begun) json_object_set_new(delta, "role", json_string("assistant"));
        if (n || !c->begun) json_object_set_new(delta, "content", cli_json_text(text, n));
        choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "delta", delta, "logprobs",
                           logprobs_of(c), "finish_reason", finish);
    } else {
        choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "text", cli_json_text(text, n),
                           "logprobs", logprobs_of(c), "finish_reason", finish);
    }
    c->begun = true;
    if (j->params.logprobs && choice) { /* they are the event's now */
        json_object_set_new(choice, "logprobs", json_deep_copy(json_object_get(choice, "logprobs")));
        forget_logprobs(c);
    }
    json_array_append_new(json_object_get(all, "choices"), choice);
    put_event(j, all);
}

static void end_stream(serve_job *j) {
    if (j->params.usage) {
        json_t *all = frame(j, j->params.chat ? "chat.completion.chunk" : "text_completion");
        json_object_set_new(all, "usage", usage(j));
        put_event(j, all);
    }
    if (!qpi_buffer_put(&j->out, "data: [DONE]\n\n", 14)) j->failed = true;
}

/* ---- Callbacks ------------------------------------------------------------------------------------------ */

bool serve_client_left(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

/* Has the client left? Asked at each token, so that its row is free at once. */
static bool client_left(serve_job *j) {
    if (j->gone || j->failed) return true;
    j->gone = j->fd >= 0 && serve_client_left(j->fd);
    return j->gone;
}

/* What the token adds to the text before it: decoders treat a text's first token in their own way. */
static json_t *token_text(serve_choice *c, int32_t id, qp_text *out) {
    serve_job *j = c->job;
    int32_t    pair[] = {c->previous, id};
    bool       known = qp_tokenizer_token(j->tokenizer, id), follows = c->previous >= 0;
    out->count = 0;
    if (known && follows) known = qp_decode(j->ctx, j->tokenizer, pair, 1, false, out) == QP_OK;
    size_t before = out->count;
    out->count = 0;
    if (known) known = qp_decode(j->ctx, j->tokenizer, pair + !follows, 1 + follows, false, out) == QP_OK;
    if (!known) qp_clear(j->ctx);
    if (before > out->count) before = out->count;
    out->count -= before;
    if (before) memmove(out->data, out->data + before, out->count);
    return cli_json_text(out->count ? out->data : "", out->count);
}

static bool begins_character(char byte) { return ((unsigned char)byte & 0xC0) != 0x80; }

/* A token's place in the text, in characters; the text goes on behind it. */
static int64_t offset_of(serve_choice *c, const qp_token *t, const qp_text *text) {
    const serve_prompt *p = &c->job->prompts[c->index / c->job->params.n];
    bool                within = t->prompt ? c->read >= p->before && c->read < p->ids.count - p->after
                                           : !qp_tokenizer_is_special(c->job->tokenizer, t->id);
    int64_t             at = c->offset;
    if (!within) return at;
    if (at && text->count && !begins_character(*text->data)) at--;
    for (size_t i = 0; i < text->count; i++) c->offset += begins_character(text->data[i]);
    if (qp_tokenizer_token(c->job->tokenizer, t->id)) c->previous = t->id;
    return at;
}

static json_t *bytes_of(const qp_text *text) {
    json_t *list = json_array();
    for (size_t i = 0; i < text->count; i++)
        json_array_append_new(list, json_integer((unsigned char)text->data[i]));
    return list;
}

static json_t *chat_logprob(serve_choice *c, int32_t id, float logprob, qp_text *text) {
    json_t *token = token_text(c, id, text);
    return json_pack("{s:o, s:o, s:o}", "token", token, "logprob", cli_json_logprob(logprob), "bytes",
                     bytes_of(text));
}

static void add_logprobs(serve_choice *c, const qp_token *t) {
    serve_job *j = c->job;
    qp_text    text = {0};
    if (j->params.chat) {
        json_t *top = json_array();
        for (int i = 0; i < t->top_count; i++)
            json_array_append_new(top, chat_logprob(c, t->top[i].id, t->top[i].logprob, &text));
        json_t *entry = chat_logprob(c, t->id, t->logprob, &text);
        json_object_set_new(entry, "top_logprobs", top);
        json_array_append_new(c->content, entry);
        offset_of(c, t, &text);
    } else {
        json_t *top = t->prompt && isnan(t->logprob) ? json_null() : json_object();
        for (int i = 0; json_is_object(top) && i < t->top_count; i++) {
            json_t *name = token_text(c, t->top[i].id, &text);
            if (name && !json_object_get(top, json_string_value(name)))
                json_object_set_new(top, json_string_value(name), cli_json_logprob(t->top[i].logprob));
            json_decref(name);
        }
        json_array_append_new(c->tokens, token_text(c, t->id, &text));
        json_array_append_new(c->token_logprobs, cli_json_logprob(t->logprob));
        json_array_append_new(c->top_logprobs, top);
        json_array_append_new(c->offsets, json_integer((json_int_t)offset_of(c, t, &text)));
    }
    qp_text_free(&text);
}

static void add_text(serve_choice *c, const char *text, size_t n) {
    serve_job *j = c->job;
    if (j->params.stream) put_chunk(c, text, n, NULL);
    else if (!qpi_buffer_put(&c->text, text, n)) j->failed = true;
}

static bool on_token(void *user, const qp_token *t) {
    serve_choice *c = user;
    serve_job    *j = c->job;
    pthread_mutex_lock(&j->lock);
    if (j->params.logprobs) add_logprobs(c, t);
    const serve_prompt *p = &j->prompts[c->index / j->params.n];
    if (t->prompt && ++c->read == p->ids.count) /* echo: as it was sent, once all of it is scored */
        add_text(c, p->echo.data ? p->echo.data : "", p->echo.count);
    bool go_on = !client_left(j);
    pthread_mutex_unlock(&j->lock);
    return go_on;
}

static bool on_text(void *user, const char *text, size_t n) {
    serve_choice *c = user;
    serve_job    *j = c->job;
    pthread_mutex_lock(&j->lock);
    add_text(c, text, n);
    if (j->params.stream) serve_job_wake(j);
    bool go_on = !j->gone && !j->failed;
    pthread_mutex_unlock(&j->lock);
    return go_on;
}

static void on_end(void *user, const qp_generation *result) {
    serve_choice *c = user;
    serve_job    *j = c->job;
    pthread_mutex_lock(&j->lock);
    c->result = *result;
    c->ended = true;
    bool wrong = result->reason == QP_STOP_ERROR;
    if (wrong && !j->params.stream) j->failed = true;
    j->left--;
    if (j->params.stream && !j->failed) {
        if (wrong)
            put_event(j, json_pack("{s:{s:s, s:s, s:n, s:n}}", "error", "message", "the model failed", "type",
                                   "server_error", "param", "code"));
        else put_chunk(c, "", 0, finish_reason(c));
    }
    if (j->params.stream && !j->left && !j->failed) end_stream(j);
    if (j->params.stream || !j->left) serve_job_wake(j);
    pthread_mutex_unlock(&j->lock);
    serve_job_release(j);
}

/* ---- Submitting --------------------------------------------------------------------------------------------
 */

static bool submit(serve_choice *c, const qp_ids *ids, const int32_t *ends, int end_count, int64_t positions,
                   serve_error *e) {
    serve_job          *j = c->job;
    const serve_params *p = &j->params;
    int64_t             room = positions - ids->count;
    bool       scores = p->echo && p->logprobs && p->max_tokens == 1; /* the one token counts, whatever it is */
    char       error[256];
    qp_request r = {.ids = ids->data,
                    .count = ids->count,
                    .on_end = on_end,
                    .options = {.max_tokens = p->max_tokens < 0 || p->max_tokens > room ? room : p->max_tokens,
                                .sampling = p->sampling,
                                .seed = p->seed + (uint64_t)c->index,
                                .stop = p->stop,
                                .stop_count = p->stop_count,
                                .ends = ends,
                                .end_count = scores ? 0 : end_count,
                                .logprobs = p->logprobs,
                                .top = p->top,
                                .echo = p->echo,
                                .on_text = on_text,
                                .on_token = on_token,
                                .user = c}};
    if (room < (p->echo ? 0 : 1)) {
        *e = (serve_error){.status = 413, .code = "context_length_exceeded"};
        snprintf(e->text, sizeof e->text, "the prompt has %" PRId64 " tokens, there is room for %" PRId64,
                 ids->count, positions);
        return false;
    }
    pthread_mutex_lock(&j->lock); /* the engine may answer before the number is known */
    qp_status status = qp_engine_submit(j->engine, &r, &c->number, error);
    if (status == QP_OK) j->refs++;
    pthread_mutex_unlock(&j->lock);
    if (status == QP_OK) return true;
    *e = (serve_error){.status = status == QP_ERR_STATE    ? 429
                                 : status == QP_ERR_MEMORY ? 503
                                                           : 400,
                       .code = status == QP_ERR_STATE ? "queue_full" : NULL};
    snprintf(e->text, sizeof e->text, "%s", error);
    return false;
}

bool serve_job_submit(serve_job *j, const int32_t *ends, int end_count, int64_t positions, serve_error *e) {
    for (int i = 0; i < j->count; i++) {
        if (submit(&j->choices[i], &j->prompts[i / j->params.n].ids, ends, end_count, positions, e)) continue;
        pthread_mutex_lock(&j->lock);
        j->gone = true;
        serve_job_cancel(j);
        pthread_mutex_unlock(&j->lock);
        return false;
    }
    return true;
}
