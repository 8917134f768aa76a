/* HTTP: routes, limits, deadlines, the access log. One thread of libmicrohttpd serves all connections;
 * those that wait for the engine are suspended. Its timeout is about idleness, so deadlines are kept
 * here: the watch closes what takes too long, and notices clients that left while suspended. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/serve.h"
#include "format/json.h"

#define KEEP_ALIVE_SECONDS 60
#define SEND_SECONDS 120 /* for what is left when a reply is complete */
#define CONNECTIONS 4096
#define POOL 36864 /* of a connection; those above 32 KiB libmicrohttpd maps, and unmaps at its end */

typedef struct client { /* one connection */
    struct client *next, *previous;
    int            fd;
    double         deadline; /* 0: none */
    serve_job     *job;      /* its own reference */
} client;

struct serve_http {
    serve_server      *s;
    struct MHD_Daemon *daemon;
    pthread_mutex_t    lock; /* of the list, deadlines and jobs in it, stops */
    client            *clients;
    bool               stops; /* nobody will resume what is suspended from now on */
    atomic_int         busy;
};

typedef struct { /* one request */
    serve_http *h;
    client     *client;
    double      begun;
    qpi_buffer  body;
    bool        too_large, waiting;
    serve_job  *job;
    char        method[8], path[64];
    int         status;
    uint64_t    bytes;
} exchange;

typedef enum MHD_Result result;

static void set_deadline(exchange *x, double seconds) {
    pthread_mutex_lock(&x->h->lock);
    if (x->client) x->client->deadline = seconds ? cli_now() + seconds : 0;
    pthread_mutex_unlock(&x->h->lock);
}

/* ---- Answers -------------------------------------------------------------------------------------- */

static result answer(exchange *x, struct MHD_Connection *c, int status, const char *type, const char *text,
                     size_t n) {
    struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (status == 401) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 429 || status == 503) MHD_add_response_header(r, "Retry-After", "1");
    if (!strncmp(type, "text/html", 9))
        MHD_add_response_header(r, "Content-Security-Policy",
                                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                "connect-src 'self'; img-src data:; frame-ancestors 'none'");
    x->status = status;
    x->bytes = n;
    set_deadline(x, SEND_SECONDS);
    result ok = MHD_queue_response(c, (unsigned)status, r);
    MHD_destroy_response(r);
    return ok;
}

static result answer_json(exchange *x, struct MHD_Connection *c, int status, json_t *value) {
    qpi_buffer text = {0};
    bool       ok = value && qpi_json_print(&text, value, 0);
    const char none[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}";
    result     r = answer(x, c, ok ? status : 500, "application/json", ok ? text.data : none,
                          ok ? text.count : sizeof none - 1);
    qpi_buffer_free(&text);
    json_decref(value);
    return r;
}

static result answer_error(exchange *x, struct MHD_Connection *c, const serve_error *e) {
    const char *type = e->status == 401   ? "authentication_error"
                       : e->status == 429 ? "rate_limit_error"
                       : e->status >= 500 ? "server_error"
                                          : "invalid_request_error";
    return answer_json(x, c, e->status,
                       json_pack("{s:{s:o, s:s, s:n, s:s?}}", "error", "message", cli_json_name(e->text),
                                 "type", type, /* may quote any bytes */
                                 "param", "code", e->code));
}

static result refuse(exchange *x, struct MHD_Connection *c, int status, const char *code, const char *text) {
    serve_error e = {.status = status, .code = code};
    snprintf(e.text, sizeof e.text, "%s", text);
    return answer_error(x, c, &e);
}

/* ---- Streams ---------------------------------------------------------------------------------------- */

static void resume(void *connection) { MHD_resume_connection(connection); }

static ssize_t read_events(void *user, uint64_t at, char *out, size_t most) {
    serve_job *j = user;
    ssize_t    n = 0;
    (void)at;
    pthread_mutex_lock(&j->lock);
    if (j->sent < j->out.count) {
        size_t left = j->out.count - j->sent;
        n = (ssize_t)(left < most ? left : most);
        memcpy(out, j->out.data + j->sent, (size_t)n);
        j->sent += (size_t)n;
        if (j->sent == j->out.count) j->sent = j->out.count = 0;
    } else if (j->failed || j->gone) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (!j->left) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        j->suspended = true;
        MHD_suspend_connection(j->connection);
    }
    pthread_mutex_unlock(&j->lock);
    return n;
}

static result stream(exchange *x, struct MHD_Connection *c) {
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, x->job, NULL);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    x->status = 200;
    set_deadline(x, 0);
    result ok = MHD_queue_response(c, 200, r);
    MHD_destroy_response(r);
    return ok;
}

/* ---- Generation --------------------------------------------------------------------------------------- */

static bool start(exchange *x, struct MHD_Connection *c, json_t *root, bool chat, serve_error *e) {
    serve_server *s = x->h->s;
    serve_params  p;
    int           count = 0;
    if (!serve_params_read(root, chat, &p, e)) return false;
    serve_prompt *prompts = calloc(SERVE_MOST_PROMPTS, sizeof *prompts);
    if (!prompts) *e = (serve_error){.status = 503, .text = "out of memory"};
    bool ok = prompts && serve_params_prompts(&p, s->http_ctx, s->tokenizer, s->template, s->vocabulary,
                                              s->begin, prompts, &count, e);
    if (ok && count * p.n > SERVE_MOST_PROMPTS) {
        *e = (serve_error){.status = 400, .text = "more than 64 choices"};
        ok = false;
    }
    serve_job *j = ok ? serve_job_new(&p, count * p.n) : NULL;
    if (!ok) serve_params_free(&p);
    else if (!j) *e = (serve_error){.status = 503, .text = "out of memory"};
    if (!j) serve_prompts_free(prompts, count);
    if (j) {
        j->prompts = prompts;
        j->prompt_count = count;
        j->engine = s->engine;
        j->tokenizer = s->tokenizer;
        j->ctx = s->ctx;
        j->model = s->model;
        j->connection = c;
        j->resume = resume;
        j->fd = x->client ? x->client->fd : -1;
        ok = serve_job_submit(j, s->ends, s->end_count, s->positions, e);
        if (ok) x->job = j;
        else serve_job_release(j);
    }
    return ok && j;
}

/* Called again after the last choice has ended. */
static result generated(exchange *x, struct MHD_Connection *c) {
    serve_job *j = x->job;
    pthread_mutex_lock(&j->lock);
    bool    waits = j->left > 0, failed = j->failed;
    json_t *all = waits || failed || j->error[0] ? NULL
                  : j->inputs                    ? serve_embed_result(j)
                                                 : serve_job_result(j);
    pthread_mutex_unlock(&j->lock);
    if (waits) return MHD_YES;
    x->waiting = false;
    if (j->error[0]) return refuse(x, c, j->error_status, NULL, j->error);
    return failed ? refuse(x, c, 500, NULL, "the model failed") : answer_json(x, c, 200, all);
}

/* The answer comes when the job is done. */
static result await(exchange *x, struct MHD_Connection *c) {
    serve_job *j = x->job;
    pthread_mutex_lock(&x->h->lock);
    if (x->client) x->client->job = j;
    bool stops = x->h->stops;
    pthread_mutex_unlock(&x->h->lock);
    if (stops) return MHD_NO;
    set_deadline(x, 0);
    if (j->params.stream) return stream(x, c);
    x->waiting = true;
    pthread_mutex_lock(&j->lock);
    bool done = !j->left, gone = j->gone;
    if (!done && !gone) {
        j->suspended = true;
        MHD_suspend_connection(c);
    }
    pthread_mutex_unlock(&j->lock);
    return done ? generated(x, c) : gone ? MHD_NO : MHD_YES;
}

static result generate(exchange *x, struct MHD_Connection *c, json_t *root, bool chat) {
    serve_error e = {0};
    if (x->h->s->draining) {
        json_decref(root);
        return refuse(x, c, 503, "draining", "the server is stopping");
    }
    if (!x->h->s->engine) {
        json_decref(root);
        return refuse(x, c, 400, NULL, "this model writes no text; /v1/embeddings is there");
    }
    if (!start(x, c, root, chat, &e)) return answer_error(x, c, &e);
    return await(x, c);
}

static result embed(exchange *x, struct MHD_Connection *c, json_t *root) {
    serve_error e = {0};
    if (x->h->s->draining) {
        json_decref(root);
        return refuse(x, c, 503, "draining", "the server is stopping");
    }
    if (!(x->job = serve_embed_submit(x->h->s, root, &e))) return answer_error(x, c, &e);
    pthread_mutex_lock(&x->job->lock);
    x->job->connection = c;
    x->job->resume = resume;
    pthread_mutex_unlock(&x->job->lock);
    return await(x, c);
}

/* ---- Routes --------------------------------------------------------------------------------------------- */

static result health(exchange *x, struct MHD_Connection *c, json_t *body) {
    (void)body;
    return answer_json(x, c, x->h->s->draining ? 503 : 200,
                       json_pack("{s:s}", "status", x->h->s->draining ? "draining" : "ok"));
}

static result models(exchange *x, struct MHD_Connection *c, json_t *body) {
    (void)body;
    return answer_json(x, c, 200,
                       json_pack("{s:s, s:[{s:o, s:s, s:I, s:s, s:I}]}", "object", "list", "data", "id",
                                 cli_json_name(x->h->s->model), "object", "model", "created",
                                 (json_int_t)x->h->s->started, "owned_by", "quipu", "max_model_len",
                                 (json_int_t)x->h->s->positions));
}

static result metrics(exchange *x, struct MHD_Connection *c, json_t *body) {
    char            text[4096];
    qp_engine_stats e = x->h->s->engine ? qp_engine_stats_of(x->h->s->engine) : (qp_engine_stats){0};
    const struct {
        const char *name, *type, *help;
        uint64_t    value;
    } all[] = {
        {"quipu_rows", "gauge", "texts at once at most", (uint64_t)e.rows},
        {"quipu_rows_busy", "gauge", "texts being written", (uint64_t)e.busy},
        {"quipu_queue_waiting", "gauge", "requests that wait", (uint64_t)(e.waiting + x->h->s->embed_waiting)},
        {"quipu_connections", "gauge", "open connections", (uint64_t)x->h->s->connections},
        {"quipu_requests_total", "counter", "requests of the engine that ended", e.requests},
        {"quipu_request_errors_total", "counter", "of these with an error", e.errors},
        {"quipu_prompt_tokens_total", "counter", "tokens of prompts", e.prompt_tokens},
        {"quipu_prompt_tokens_reused_total", "counter", "of these not computed again", e.reused},
        {"quipu_tokens_total", "counter", "tokens written", e.tokens},
        {"quipu_model_calls_total", "counter", "runs of the model", e.calls}};
    size_t n = 0;
    (void)body;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n",
                              all[i].name, all[i].help, all[i].name, all[i].type, all[i].name, all[i].value);
    n += (size_t)snprintf(text + n, sizeof text - n,
                          "# HELP quipu_http_answers_total answers by class of status\n# TYPE "
                          "quipu_http_answers_total counter\n");
    for (int i = 2; i < 6; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "quipu_http_answers_total{class=\"%dxx\"} %llu\n", i,
                              (unsigned long long)x->h->s->answers[i]);
    return answer(x, c, 200, "text/plain; version=0.0.4", text, n);
}

static result page(exchange *x, struct MHD_Connection *c, json_t *body) {
    (void)body;
    return answer(x, c, 200, "text/html; charset=utf-8", (const char *)serve_page, serve_page_bytes);
}

static result tokenize(exchange *x, struct MHD_Connection *c, json_t *body) {
    serve_server *s = x->h->s;
    const json_t *text = json_object_get(body, "prompt");
    qp_ids        ids = {0};
    if (!json_is_string(text)) text = json_object_get(body, "content");
    bool literal = json_is_false(json_object_get(body, "parse_special"));
    if (!json_is_string(text)) {
        json_decref(body);
        return refuse(x, c, 400, NULL, "expected {\"prompt\": TEXT}");
    }
    qp_status status =
        qp_encode(s->http_ctx, s->tokenizer, json_string_value(text), json_string_length(text),
                  (qp_encode_options){.wrap = !json_is_false(json_object_get(body, "add_special_tokens")),
                                      .literal = literal},
                  &ids);
    json_decref(body);
    if (status != QP_OK) {
        qp_clear(s->http_ctx);
        return refuse(x, c, 500, NULL, "the text cannot be encoded");
    }
    json_t *list = json_array();
    for (int64_t i = 0; i < ids.count; i++) json_array_append_new(list, json_integer(ids.data[i]));
    json_t *all = json_pack("{s:I, s:I, s:o}", "count", (json_int_t)ids.count, "max_model_len",
                            (json_int_t)s->positions, "tokens", list);
    qp_ids_free(&ids);
    return answer_json(x, c, 200, all);
}

static result chat(exchange *x, struct MHD_Connection *c, json_t *body) { return generate(x, c, body, true); }
static result complete(exchange *x, struct MHD_Connection *c, json_t *body) {
    return generate(x, c, body, false);
}

static const struct {
    const char *method, *path;
    bool        open;                                                   /* without a key too */
    result (*run)(exchange *x, struct MHD_Connection *c, json_t *body); /* body (POST) is taken over */
} routes[] = {{"GET", "/", true, page},
              {"GET", "/health", true, health},
              {"GET", "/v1/models", false, models},
              {"GET", "/metrics", false, metrics},
              {"POST", "/v1/chat/completions", false, chat},
              {"POST", "/v1/completions", false, complete},
              {"POST", "/v1/embeddings", false, embed},
              {"POST", "/tokenize", false, tokenize}};

/* ---- Requests ----------------------------------------------------------------------------------------------
 */

static result dispatch(exchange *x, struct MHD_Connection *c, const char *path, const char *method) {
    bool          known = false;
    serve_server *s = x->h->s;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(routes[i].path, path)) continue;
        known = true;
        if (strcmp(routes[i].method, method) && !(!strcmp(method, "HEAD") && !strcmp(routes[i].method, "GET")))
            continue;
        if (!s->key && !serve_is_local(c))
            return refuse(x, c, 403, NULL,
                          "without an API key only pages and programs of this machine may ask");
        if (s->key && !routes[i].open && !serve_has_key(c, s->key))
            return refuse(x, c, 401, "invalid_api_key", "the API key is missing or wrong");
        if (x->too_large) return refuse(x, c, 413, "body_too_large", "the request's body is too large");
        if (strcmp(method, "POST")) return routes[i].run(x, c, NULL);
        qpi_error e = {0};
        json_t   *body = qpi_json_parse("request", x->body.data ? x->body.data : "", x->body.count, &e);
        qpi_buffer_free(&x->body);
        return body ? routes[i].run(x, c, body) : refuse(x, c, 400, NULL, e.text);
    }
    return refuse(x, c, known ? 405 : 404, NULL,
                  known ? "another method is expected" : "there is no such thing here");
}

/* A client that waits to be asked for its body (Expect) can be refused before; others would not listen
 * while they send, so what they send is read, until the deadline, and dropped. */
static bool declared_too_large(const exchange *x, struct MHD_Connection *c) {
    if (!MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Expect")) return false;
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    return length && strtoull(length, NULL, 10) > x->h->s->most_body;
}

static result handle(void *user, struct MHD_Connection *c, const char *path, const char *method,
                     const char *version, const char *data, size_t *bytes, void **state) {
    exchange *x = *state;
    (void)version;
    if (!x) {
        if (!(x = *state = calloc(1, sizeof *x))) return MHD_NO;
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        x->h = user;
        x->client = info ? info->socket_context : NULL;
        x->begun = cli_now();
        x->h->busy++;
        snprintf(x->method, sizeof x->method, "%s", method);
        snprintf(x->path, sizeof x->path, "%s", path);
        set_deadline(x, x->h->s->body_seconds);
        if (declared_too_large(x, c)) return x->too_large = true, dispatch(x, c, path, method);
        return MHD_YES;
    }
    if (*bytes) {
        x->too_large |= *bytes > x->h->s->most_body - x->body.count || !qpi_buffer_put(&x->body, data, *bytes);
        if (x->too_large) qpi_buffer_free(&x->body);
        *bytes = 0;
        return MHD_YES;
    }
    if (x->waiting) return generated(x, c);
    return x->status ? MHD_YES : dispatch(x, c, path, method);
}

/* What a client said, as it can stand in JSON's quotes. */
static const char *quotable(char *text) {
    for (char *p = cli_shown(text); *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p > 126) *p = '?';
    return text;
}

static void log_exchange(const exchange *x, bool left) {
    char      stamp[32], path[sizeof x->path], method[sizeof x->method];
    time_t    t = time(NULL);
    struct tm tm;
    int64_t   prompt = 0, tokens = 0;
    gmtime_r(&t, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &tm);
    snprintf(path, sizeof path, "%s", x->path);
    snprintf(method, sizeof method, "%s", x->method);
    for (int i = 0; x->job && i < x->job->count; i++) {
        prompt += x->job->choices[i].result.prompt_tokens;
        tokens += x->job->choices[i].result.tokens;
    }
    fprintf(stderr,
            "{\"time\":\"%s\",\"method\":\"%s\",\"path\":\"%s\",\"status\":%d,\"ms\":%.1f,\"prompt_tokens\":"
            "%" PRId64 ",\"tokens\":%" PRId64 "%s}\n",
            stamp, quotable(method), quotable(path), x->status, 1000 * (cli_now() - x->begun), prompt, tokens,
            left ? ",\"client\":\"left\"" : "");
}

static void completed(void *user, struct MHD_Connection *c, void **state,
                      enum MHD_RequestTerminationCode code) {
    exchange   *x = *state;
    serve_http *h = user;
    (void)c;
    if (!x) return;
    pthread_mutex_lock(&h->lock);
    if (x->client) {
        x->client->job = NULL;
        x->client->deadline = cli_now() + KEEP_ALIVE_SECONDS;
    }
    pthread_mutex_unlock(&h->lock);
    bool left = false;
    if (x->job) {
        pthread_mutex_lock(&x->job->lock);
        left = x->job->left > 0;
        if (left || code != MHD_REQUEST_TERMINATED_COMPLETED_OK) x->job->gone = true;
        x->job->connection = NULL;
        x->job->fd = -1;
        serve_job_cancel(x->job);
        pthread_mutex_unlock(&x->job->lock);
    }
    if (x->status >= 200 && x->status < 600) h->s->answers[x->status / 100]++;
    if (!h->s->quiet) log_exchange(x, left);
    if (x->job) serve_job_release(x->job);
    qpi_buffer_free(&x->body);
    free(x);
    h->busy--;
}

/* ---- Connections ------------------------------------------------------------------------------------- */

static void connection(void *user, struct MHD_Connection *c, void **context,
                       enum MHD_ConnectionNotificationCode code) {
    serve_http *h = user;
    client     *k = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!info || !(k = *context = calloc(1, sizeof *k))) return;
        k->fd = info->connect_fd;
        k->deadline = cli_now() + h->s->header_seconds;
        h->s->connections++;
        pthread_mutex_lock(&h->lock);
        k->next = h->clients;
        if (k->next) k->next->previous = k;
        h->clients = k;
        pthread_mutex_unlock(&h->lock);
    } else if (k) {
        pthread_mutex_lock(&h->lock);
        if (k->previous) k->previous->next = k->next;
        else h->clients = k->next;
        if (k->next) k->next->previous = k->previous;
        pthread_mutex_unlock(&h->lock);
        h->s->connections--;
        free(k);
        *context = NULL;
    }
}

/* A client that left is told from its socket; its job is cancelled and the connection woken, so that
 * libmicrohttpd finds out too. */
static void watch_job(client *k, double t) {
    serve_job *j = k->job;
    bool       left = serve_client_left(k->fd);
    pthread_mutex_lock(&j->lock);
    if (!j->left && !k->deadline) k->deadline = t + SEND_SECONDS; /* a stream that is complete and not read */
    if (!left) {
        pthread_mutex_unlock(&j->lock);
        return;
    }
    if (!j->gone || j->suspended) {
        j->gone = true;
        serve_job_cancel(j);
        if (j->suspended && j->connection && (j->params.stream || !j->left)) {
            j->suspended = false;
            j->resume(j->connection);
        }
    }
    pthread_mutex_unlock(&j->lock);
}

void serve_http_watch(serve_http *h) {
    double t = cli_now();
    pthread_mutex_lock(&h->lock);
    for (client *k = h->clients; k; k = k->next) {
        if (k->job) watch_job(k, t);
        if (!k->deadline || t < k->deadline) continue;
        k->deadline = 0;
        shutdown(k->fd, SHUT_RDWR); /* it is closed by its thread */
    }
    pthread_mutex_unlock(&h->lock);
}

/* ---- Life --------------------------------------------------------------------------------------------------
 */

static void no_log(void *user, const char *format, va_list args) { (void)user, (void)format, (void)args; }

serve_http *serve_http_start(serve_server *s, char error[256]) {
    struct sockaddr_in  v4 = {.sin_family = AF_INET, .sin_port = htons(s->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(s->port)};
    bool                six = inet_pton(AF_INET6, s->host, &v6.sin6_addr) == 1;
    if (!six) inet_pton(AF_INET, s->host, &v4.sin_addr);
    serve_http *h = calloc(1, sizeof *h);
    if (!h) return snprintf(error, 256, "out of memory"), NULL;
    h->s = s;
    pthread_mutex_init(&h->lock, NULL);
    unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (six ? MHD_USE_IPv6 : 0);
    errno = 0;
    h->daemon = MHD_start_daemon(
        flags, s->port, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, no_log, NULL, MHD_OPTION_SOCK_ADDR,
        six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, MHD_OPTION_NOTIFY_COMPLETED, completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, connection, h, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL, MHD_OPTION_END);
    if (!h->daemon) {
        snprintf(error, 256, "cannot listen on %.60s port %u: %s", s->host, s->port,
                 errno ? strerror(errno) : "libmicrohttpd refused");
        pthread_mutex_destroy(&h->lock);
        free(h);
        return NULL;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT);
    if (info) s->port = info->port;
    return h;
}

void serve_http_refuse(serve_http *h) {
    int fd = MHD_quiesce_daemon(h->daemon);
    if (fd >= 0) shutdown(fd, SHUT_RDWR), close(fd);
}

int serve_http_busy(serve_http *h) { return h->busy; }

void serve_http_stop(serve_http *h) {
    /* what is suspended must go on for the daemon to stop */
    pthread_mutex_lock(&h->lock);
    h->stops = true;
    for (client *k = h->clients; k; k = k->next) {
        shutdown(k->fd, SHUT_RDWR);
        if (!k->job) continue;
        pthread_mutex_lock(&k->job->lock);
        k->job->gone = true;
        if (k->job->suspended && k->job->connection) {
            k->job->suspended = false;
            k->job->resume(k->job->connection);
        }
        pthread_mutex_unlock(&k->job->lock);
    }
    pthread_mutex_unlock(&h->lock);
    MHD_stop_daemon(h->daemon);
    pthread_mutex_destroy(&h->lock);
    free(h);
}
