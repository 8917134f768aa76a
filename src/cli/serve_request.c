/* The JSON of OpenAI's API to what the engine takes. Everything about it is checked here; members that
 * are not known are passed over, as clients send many, those that would change the answer are refused. */
#define _GNU_SOURCE /* strdup */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/serve.h"
#include "format/json.h"

static bool refuse(serve_error *e, int status, const char *code, const char *text) {
    e->status = status;
    e->code = code;
    snprintf(e->text, sizeof e->text, "%s", text);
    return false;
}

/* ---- Members ------------------------------------------------------------------------------------- */

static bool read_sampling(const qpi_json *root, qp_sampling *s) {
    double penalty = 0, frequency = 0, presence = 0;
    *s = (qp_sampling){.temperature = 1};
    bool ok = qpi_json_number(root, "temperature", QPI_OPTIONAL, 0, 1000, &s->temperature) &&
              qpi_json_number(root, "top_p", QPI_OPTIONAL, 0, 1, &s->top_p) &&
              qpi_json_number(root, "min_p", QPI_OPTIONAL, 0, 1, &s->min_p) &&
              qpi_json_integer(root, "top_k", QPI_OPTIONAL, 0, INT32_MAX, &s->top_k) &&
              qpi_json_number(root, "repetition_penalty", QPI_OPTIONAL, 0, 1000, &penalty) &&
              qpi_json_number(root, "frequency_penalty", QPI_OPTIONAL, -2, 2, &frequency) &&
              qpi_json_number(root, "presence_penalty", QPI_OPTIONAL, -2, 2, &presence);
    s->repetition_penalty = penalty;
    s->frequency_penalty = frequency;
    s->presence_penalty = presence;
    return ok;
}

static bool read_stop(const qpi_json *root, serve_params *p) {
    qpi_json stop = qpi_json_member(root, "stop");
    if (!stop.value) return true;
    size_t n = json_is_array(stop.value) ? json_array_size(stop.value) : 1;
    if (n > sizeof p->stop / sizeof *p->stop) {
        qpi_json_fail(&stop, QP_ERR_FORMAT, "%zu texts, at most 8", n);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_is_array(stop.value) ? json_array_get(stop.value, i) : stop.value;
        if (!json_is_string(text)) {
            qpi_json_fail(&stop, QP_ERR_FORMAT, "expected a text or a list of them, found %s",
                          qpi_json_kind(text));
            return false;
        }
        if (json_string_length(text)) p->stop[p->stop_count++] = json_string_value(text);
    }
    return true;
}

/* {"50256": -100} */
static bool read_bias(const qpi_json *root, serve_params *p) {
    qpi_json    map = {0};
    const char *key;
    json_t     *value;
    if (!qpi_json_object(root, "logit_bias", QPI_OPTIONAL, &map) || !map.value) return !root->error->code;
    if (json_object_size(map.value) > 1024) {
        qpi_json_fail(&map, QP_ERR_FORMAT, "more than 1024 tokens");
        return false;
    }
    p->bias = calloc(json_object_size(map.value) + 1, sizeof *p->bias);
    if (!p->bias) return qpi_fail(root->error, QP_ERR_MEMORY, "out of memory") == QP_OK;
    json_object_foreach(map.value, key, value) {
        char  *end;
        long   id = strtol(key, &end, 10);
        double x = json_number_value(value);
        if (*end || end == key || id < 0 || id > INT32_MAX || !json_is_number(value) || fabs(x) > 100) {
            qpi_json_fail(&map, QP_ERR_FORMAT, "expected token ids with numbers from -100 to 100");
            return false;
        }
        p->bias[p->sampling.bias_count++] = (qp_logit_bias){(int32_t)id, (float)x};
    }
    p->sampling.bias = p->bias;
    return true;
}

/* Completions say how many (logprobs: 3), chats whether and how many. */
static bool read_logprobs(const qpi_json *root, serve_params *p) {
    int64_t top = -1;
    if (p->chat) {
        if (!qpi_json_boolean(root, "logprobs", QPI_OPTIONAL, &p->logprobs) ||
            !qpi_json_integer(root, "top_logprobs", QPI_OPTIONAL, 0, SERVE_MOST_TOP, &top))
            return false;
    } else {
        if (!qpi_json_integer(root, "logprobs", QPI_OPTIONAL, 0, SERVE_MOST_TOP, &top)) return false;
        p->logprobs = top >= 0;
    }
    p->top = p->logprobs && top > 0 ? (int)top : 0;
    return true;
}

static bool refuse_unsupported(const qpi_json *root, const serve_params *p) {
    qpi_json format = {0}, at;
    int64_t  best = 1;
    if (!qpi_json_object(root, "response_format", QPI_OPTIONAL, &format) ||
        !qpi_json_integer(root, "best_of", QPI_OPTIONAL, 1, SERVE_MOST_CHOICES, &best))
        return false;
    const char *type = json_string_value(json_object_get(format.value, "type"));
    if (format.value && (!type || strcmp(type, "text"))) {
        qpi_json_fail(&format, QP_ERR_UNSUPPORTED, "only {\"type\": \"text\"} is there");
        return false;
    }
    at = qpi_json_member(root, "suffix");
    if (at.value && json_string_length(at.value)) {
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "there is no filling in");
        return false;
    }
    at = qpi_json_member(root, "best_of");
    if (best > p->n) qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "no more than n");
    return best <= p->n;
}

static bool read_common(const qpi_json *root, serve_params *p) {
    int64_t  n = 1, seed = -1;
    qpi_json options = {0};
    bool     ok = qpi_json_integer(root, "n", QPI_OPTIONAL, 1, SERVE_MOST_CHOICES, &n) &&
                  qpi_json_integer(root, "seed", QPI_OPTIONAL, INT64_MIN, INT64_MAX, &seed) &&
                  qpi_json_integer(root, "max_tokens", QPI_OPTIONAL, 0, INT32_MAX, &p->max_tokens) &&
                  qpi_json_integer(root, "max_completion_tokens", QPI_OPTIONAL, 0, INT32_MAX, &p->max_tokens) &&
                  qpi_json_boolean(root, "stream", QPI_OPTIONAL, &p->stream) &&
                  qpi_json_object(root, "stream_options", QPI_OPTIONAL, &options) &&
                  (!options.value || qpi_json_boolean(&options, "include_usage", QPI_OPTIONAL, &p->usage));
    p->n = (int)n;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    bool given = json_is_integer(json_object_get(root->value, "seed"));
    p->seed = given ? (uint64_t)seed : (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;
    return ok && read_sampling(root, &p->sampling) && read_stop(root, p) && read_bias(root, p) &&
           read_logprobs(root, p) && refuse_unsupported(root, p);
}

/* ---- Chats ------------------------------------------------------------------------------------------ */

/* Content that is a list of texts becomes one text. */
static bool join_parts(const qpi_json *message) {
    qpi_json   content = qpi_json_member(message, "content");
    qpi_buffer text = {0};
    bool       ok = true;
    if (!json_is_array(content.value)) {
        bool calls = json_is_array(json_object_get(message->value, "tool_calls"));
        ok = json_is_string(content.value) || (!content.value && calls);
        if (!ok && !content.value) qpi_json_fail(&content, QP_ERR_FORMAT, "missing");
        else if (!ok)
            qpi_json_fail(&content, QP_ERR_FORMAT, "expected a text or a list of parts, found %s",
                          qpi_json_kind(content.value));
        return ok;
    }
    for (size_t i = 0; ok && i < json_array_size(content.value); i++) {
        qpi_json    part = qpi_json_item(&content, i);
        const char *type = json_string_value(json_object_get(part.value, "type"));
        json_t     *words = json_object_get(part.value, "text");
        ok = type && json_is_string(words) && !strcmp(type, "text");
        if (!ok) qpi_json_fail(&part, QP_ERR_UNSUPPORTED, "expected {\"type\": \"text\", \"text\": ..}");
        else if (!qpi_buffer_put(&text, json_string_value(words), json_string_length(words)))
            ok = qpi_fail(message->error, QP_ERR_MEMORY, "out of memory") == QP_OK;
    }
    if (ok)
        ok = !json_object_set_new(message->value, "content",
                                  json_stringn(text.data ? text.data : "", text.count));
    qpi_buffer_free(&text);
    return ok;
}

/* Who calls what is the model's choice: nothing makes it call a tool. */
static bool refuse_tool_choice(const qpi_json *root) {
    static const char *const old[] = {"functions", "function_call"};
    qpi_json                 choice = qpi_json_member(root, "tool_choice");
    const char              *how = json_string_value(choice.value);
    bool                     known = how && (!strcmp(how, "auto") || !strcmp(how, "none"));
    if (choice.value && !known) {
        qpi_json_fail(&choice, QP_ERR_UNSUPPORTED, "only \"auto\" and \"none\" are there");
        return false;
    }
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
        qpi_json at = qpi_json_member(root, old[i]);
        if (!at.value) continue;
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "only tools are there");
        return false;
    }
    return true;
}

static bool read_chat(const qpi_json *root, serve_params *p) {
    qpi_json messages = {0}, tools = {0}, variables = {0};
    if (!qpi_json_array(root, "messages", QPI_REQUIRED, &messages) ||
        !qpi_json_array(root, "tools", QPI_OPTIONAL, &tools) ||
        !qpi_json_object(root, "chat_template_kwargs", QPI_OPTIONAL, &variables) || !refuse_tool_choice(root))
        return false;
    if (!json_array_size(messages.value)) {
        qpi_json_fail(&messages, QP_ERR_FORMAT, "expected at least one message");
        return false;
    }
    for (size_t i = 0; i < json_array_size(messages.value); i++) {
        qpi_json    m = qpi_json_item(&messages, i);
        const char *role;
        if (!json_is_object(m.value)) {
            qpi_json_fail(&m, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(m.value));
            return false;
        }
        if (!qpi_json_string(&m, "role", QPI_REQUIRED, &role) || !join_parts(&m)) return false;
    }
    p->messages = messages.value;
    const char *choice = json_string_value(json_object_get(root->value, "tool_choice"));
    p->tools = choice && !strcmp(choice, "none") ? NULL : tools.value;
    p->variables = variables.value;
    return true;
}

bool serve_params_read(json_t *value, bool chat, serve_params *p, serve_error *e) {
    qpi_error error = {0};
    qpi_json  root = qpi_json_root("request", value, &error);
    *p = (serve_params){.root = value, .chat = chat, .max_tokens = chat ? -1 : 16};
    if (!json_is_object(value))
        qpi_json_fail(&root, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(value));
    bool ok = !error.code && read_common(&root, p) &&
              (chat ? read_chat(&root, p) : qpi_json_boolean(&root, "echo", QPI_OPTIONAL, &p->echo));
    if (ok && !chat) {
        qpi_json prompt = qpi_json_member(&root, "prompt");
        p->prompt = prompt.value;
        if (!p->prompt) qpi_json_fail(&prompt, QP_ERR_FORMAT, "missing");
    }
    if (!error.code && ok) return true;
    serve_params_free(p);
    return refuse(e, error.code == QP_ERR_MEMORY ? 500 : 400, NULL, error.text);
}

void serve_params_free(serve_params *p) {
    json_decref(p->root);
    free(p->bias);
    *p = (serve_params){0};
}

/* ---- Prompts ------------------------------------------------------------------------------------------ */

bool serve_read_ids(const json_t *list, int64_t vocabulary, qp_ids *out, serve_error *e) {
    size_t n = json_array_size(list);
    out->data = malloc((n + 1) * sizeof *out->data);
    if (!out->data) return refuse(e, 500, NULL, "out of memory");
    out->capacity = (int64_t)n + 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocabulary) {
            refuse(e, 400, NULL, "");
            snprintf(e->text, sizeof e->text, "token %zu is no id from 0 to %" PRId64, i, vocabulary - 1);
            return false;
        }
        out->data[out->count++] = (int32_t)json_integer_value(id);
    }
    return true;
}

static bool library_refuses(qp_ctx *ctx, serve_error *e) {
    refuse(e, qp_error_code(ctx) == QP_ERR_MEMORY ? 500 : 400, NULL, qp_error(ctx));
    qp_clear(ctx);
    return false;
}

/* How many tokens stand before a text's own in ids, and behind. */
static bool find_own(qp_ctx *ctx, const qp_tokenizer *t, serve_prompt *out) {
    qp_ids  bare = {0};
    bool    ok = qp_encode(ctx, t, out->echo.data, out->echo.count, (qp_encode_options){0}, &bare) == QP_OK;
    int64_t around = ok ? out->ids.count - bare.count : 0;
    while (bare.count && out->before < around &&
           memcmp(out->ids.data + out->before, bare.data, (size_t)bare.count * sizeof *bare.data))
        out->before++;
    out->after = around - out->before;
    qp_ids_free(&bare);
    return ok;
}

/* The text of ids; not yet a character that what is written may complete. */
static bool echo_ids(qp_ctx *ctx, const qp_tokenizer *t, serve_prompt *out) {
    qp_decoding state = {0};
    bool        ok = true;
    for (int64_t i = 0; i < out->ids.count && ok; i++)
        ok = !qp_tokenizer_token(t, out->ids.data[i]) ||
             qp_decode_next(ctx, t, &state, out->ids.data[i], false, &out->echo) == QP_OK;
    if (state.ids.count || state.last) ok = qp_decode_end(ctx, &state, &out->echo) == QP_OK && ok;
    return ok;
}

static bool read_prompt(const json_t *prompt, qp_ctx *ctx, const qp_tokenizer *t, int64_t vocabulary,
                        int32_t begin, bool echo, serve_prompt *p, serve_error *e) {
    qp_ids *out = &p->ids;
    if (json_is_array(prompt))
        return serve_read_ids(prompt, vocabulary, out, e) &&
               (!echo || echo_ids(ctx, t, p) || library_refuses(ctx, e));
    if (!json_is_string(prompt))
        return refuse(e, 400, NULL, "prompt: expected a text, token ids, or a list of either");
    if (qp_encode(ctx, t, json_string_value(prompt), json_string_length(prompt),
                  (qp_encode_options){.wrap = true}, out) != QP_OK)
        return library_refuses(ctx, e);
    if (!out->count && begin >= 0) { /* an empty text: what stands before one */
        int32_t *data = realloc(out->data, sizeof *data);
        if (!data) return refuse(e, 500, NULL, "out of memory");
        *data = begin;
        *out = (qp_ids){.data = data, .count = 1, .capacity = 1};
    }
    if (!echo) return true;
    p->echo.data = strdup(json_string_value(prompt));
    if (!p->echo.data) return refuse(e, 500, NULL, "out of memory");
    p->echo.count = p->echo.capacity = json_string_length(prompt);
    return find_own(ctx, t, p) || library_refuses(ctx, e);
}

static bool read_chat_prompt(const serve_params *p, qp_ctx *ctx, const qp_tokenizer *t,
                             const qp_chat_template *chat, qp_ids *out, serve_error *e) {
    qp_rendered     rendered = {0};
    qpi_buffer      messages = {0}, tools = {0}, variables = {0};
    qp_chat_options o = {.generation_prompt = true};
    bool            ok =
        qpi_json_print(&messages, p->messages, 0) &&
        (!p->tools || (qpi_json_print(&tools, p->tools, 0) && qpi_buffer_put(&tools, "", 1))) &&
        (!p->variables || (qpi_json_print(&variables, p->variables, 0) && qpi_buffer_put(&variables, "", 1)));
    o.tools = tools.data;
    o.variables = variables.data;
    if (!chat)
        refuse(e, 400, NULL, "the model has no chat template: give --chat-template, or use /v1/completions");
    else if (!ok) refuse(e, 500, NULL, "out of memory");
    else if (qp_chat_render(ctx, chat, messages.data, messages.count, o, &rendered) != QP_OK ||
             qp_chat_encode(ctx, t, &rendered, out) != QP_OK)
        ok = library_refuses(ctx, e);
    qpi_buffer_free(&messages);
    qpi_buffer_free(&tools);
    qpi_buffer_free(&variables);
    qp_rendered_free(&rendered);
    return ok && chat;
}

bool serve_params_prompts(const serve_params *p, qp_ctx *ctx, const qp_tokenizer *t,
                          const qp_chat_template *chat, int64_t vocabulary, int32_t begin,
                          serve_prompt *prompts, int *count, serve_error *e) {
    const json_t *first = json_array_get(p->prompt, 0);
    bool          several = json_is_array(p->prompt) && !json_is_integer(first);
    size_t        n = several ? json_array_size(p->prompt) : 1;
    bool          ok = n > 0 && n <= SERVE_MOST_PROMPTS;
    *count = 0;
    if (!ok) return refuse(e, 400, NULL, "prompt: expected 1 to 64 of them");
    for (size_t i = 0; i < n && ok; i++) {
        serve_prompt *one = &prompts[(*count)++];
        ok = p->chat ? read_chat_prompt(p, ctx, t, chat, &one->ids, e)
                     : read_prompt(several ? json_array_get(p->prompt, i) : p->prompt, ctx, t, vocabulary,
                                   begin, p->echo, one, e);
        if (ok && !one->ids.count) ok = refuse(e, 400, NULL, "the prompt is empty");
    }
    return ok;
}

void serve_prompts_free(serve_prompt *prompts, int count) {
    for (int i = 0; i < count; i++) {
        qp_ids_free(&prompts[i].ids);
        qp_text_free(&prompts[i].echo);
    }
    free(prompts);
}
