/* quipu serve over real sockets: answers, limits, clients that are slow, leave or may not ask. */
#define _GNU_SOURCE
#include "support.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t server;
static int   port;
static bool  loud; /* the next writes its access log to `said` */
static int   said;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The server ---------------------------------------------------------------------------------- */

static void start(const char *model, const char *key, const char *header_timeout) {
    int  fds[2];
    char path[300], line[300] = "";
    snprintf(path, sizeof path, "%s/%s", folder, model);
    assert_int_equal(pipe(fds), 0);
    server = fork();
    if (server == 0) {
        setenv("QUIPU_API_KEY", key, 1);
        dup2(fds[1], 2);
        close(fds[0]);
        execl(COMMAND, COMMAND, "serve", "-m", path, "--port", "0", "--rows", "1", "--queue", "1", "--max-body",
              "100000", "-t", "1", "-c", "1000000", "--header-timeout", header_timeout, "--body-timeout", "1",
              loud ? NULL : "-q", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    for (size_t n = 0; n < sizeof line - 1 && read(fds[0], line + n, 1) == 1 && line[n] != '\n'; n++) {
    }
    if (loud) said = fds[0];
    else close(fds[0]);
    const char *at = strstr(line, "http://127.0.0.1:");
    if (!at) fail_msg("the server did not start: %s", line);
    port = atoi(at + strlen("http://127.0.0.1:"));
}

static void stop(void) {
    int status = -1;
    kill(server, SIGTERM);
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- A client -------------------------------------------------------------------------------------- */

static int call(void) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void say(int fd, const char *text) { (void)!send(fd, text, strlen(text), MSG_NOSIGNAL); }

static int post(const char *path, const char *headers, const char *body) {
    char head[500];
    int  fd = call();
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n", path,
             headers, strlen(body));
    say(fd, head);
    say(fd, body);
    return fd;
}

/* The status; the body until the connection ends (chunks' sizes are left in it) in `text`. */
static char text[1 << 20];
static int hear(int fd) {
    size_t        n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (ssize_t got;
         n < sizeof text - 1 && poll(&p, 1, 30000) == 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(fd);
    int   status = n > 12 ? atoi(text + 9) : 0;
    char *body = strstr(text, "\r\n\r\n");
    if (body) memmove(text, body + 4, strlen(body + 4) + 1);
    return status;
}

static int get(const char *path, const char *headers) {
    char head[500];
    int  fd = call();
    snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n%s%sConnection: close\r\n\r\n", path,
             strstr(headers, "Host:") ? "" : "Host: localhost\r\n", headers);
    say(fd, head);
    return hear(fd);
}

static json_t *json(void) {
    json_t *j = json_loads(text, 0, NULL);
    if (!j) fail_msg("no JSON: %.300s", text);
    return j;
}

static void expect_error_code(int status, int wanted, const char *words) {
    if (status != wanted || !strstr(text, "\"error\"") || !strstr(text, words))
        fail_msg("expected %d \"%s\", found %d: %.500s", wanted, words, status, text);
}

static long metric(const char *name) {
    assert_int_equal(get("/metrics", ""), 200);
    char line[100];
    snprintf(line, sizeof line, "\n%s ", name);
    char *at = strstr(text, line);
    assert_non_null(at);
    return atol(at + strlen(line));
}

static void await_metric(const char *name, long wanted) {
    for (double end = now() + 20; now() < end;) {
        if (metric(name) == wanted) return;
        usleep(20000);
    }
    fail_msg("%s does not become %ld", name, wanted);
}

/* ---- Tests ------------------------------------------------------------------------------------------- */

static const char hello[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 6, \"temperature\": 0";

static char *chat_text(const char *more) {
    char body[500];
    snprintf(body, sizeof body, "%s%s}", hello, more);
    assert_int_equal(hear(post("/v1/chat/completions", "", body)), 200);
    json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0);
    char   *out = strdup(json_string_value(json_object_get(json_object_get(choice, "message"), "content")));
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(all, "usage"), "completion_tokens")),
                     6);
    json_decref(all);
    return out;
}

/* The pieces of a stream, together. */
static void test_stream(void **state) {
    (void)state;
    char *whole = chat_text(""), *joined = calloc(1, 1000), body[500];
    snprintf(body, sizeof body, "%s, \"stream\": true, \"stream_options\": {\"include_usage\": true}}", hello);
    assert_int_equal(hear(post("/v1/chat/completions", "", body)), 200);
    for (char *at = text; (at = strstr(at, "data: {")); at++) {
        json_t *event = json_loads(at + 6, JSON_DISABLE_EOF_CHECK, NULL),
               *choice = json_array_get(json_object_get(event, "choices"), 0);
        const char *piece = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
        assert_non_null(event);
        if (piece) strcat(joined, piece);
        if (!choice)
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(event, "usage"), "completion_tokens")), 6);
        json_decref(event);
    }
    assert_non_null(strstr(text, "data: [DONE]"));
    assert_string_equal(joined, whole);
    free(whole);
    free(joined);
}

/* echo with logprobs: what an evaluation harness reads. The same from text and from its ids. */
static void test_scores(void **state) {
    (void)state;
    double sum[2] = {0, 0};
    for (int ids = 0; ids < 2; ids++) {
        char body[300];
        snprintf(body, sizeof body,
                 "{\"prompt\": %s, \"max_tokens\": 1, \"echo\": true, \"logprobs\": 1, \"temperature\": 0}",
                 ids ? "[[72, 105, 33]]" : "\"Hi!\"");
        assert_int_equal(hear(post("/v1/completions", "", body)), 200);
        json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0),
               *l = json_object_get(choice, "logprobs");
        json_t *values = json_object_get(l, "token_logprobs");
        assert_int_equal(json_array_size(values), 4);
        assert_true(json_is_null(json_array_get(values, 0)));
        assert_int_equal(json_array_size(json_object_get(l, "top_logprobs")), 4);
        assert_string_equal(json_string_value(json_array_get(json_object_get(l, "tokens"), 1)), "i");
        assert_int_equal(strncmp(json_string_value(json_object_get(choice, "text")), "Hi!", 3), 0);
        for (size_t i = 1; i < 3; i++) {
            double p = json_real_value(json_array_get(values, i));
            assert_true(p < 0 && p > -50);
            sum[ids] += p;
        }
        json_decref(all);
    }
    assert_true(sum[0] == sum[1]);
    /* lm-eval drops the last token, which it did not ask about: it is there if the model ends, too */
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"Hi!\", \"max_tokens\": 1, \"echo\": true, \"logprobs\": 1, \"logit_bias\": "
                  "{\"256\": 100}}")),
        200);
    json_t *all = json(), *l = json_object_get(json_array_get(json_object_get(all, "choices"), 0), "logprobs");
    assert_int_equal(json_array_size(json_object_get(l, "token_logprobs")), 4);
    assert_non_null(strstr(text, "\"text\":\"Hi!\""));
    json_decref(all);
}

/* The texts of all events, or of the one answer, together. */
static void joined_text(char *out, size_t room) {
    *out = 0;
    for (char *at = text; (at = strstr(at, "\"text\":")); at++) {
        json_t *piece = json_loads(at + 7, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, NULL);
        strncat(out, json_string_value(piece), room - strlen(out) - 1);
        json_decref(piece);
    }
}

/* Pieces of SentencePiece: spaces are kept, what the tokenizer puts before a text is not part of it, characters
 * of several tokens are whole; a prompt that a row holds is echoed like any other. */
static void test_echo(void **state) {
    static const char prompt[] = "the quick \xF0\x9F\xA6\x99 fox \xC3\xA9 is";
    char              body[300], got[300];
    (void)state;
    stop();
    start("pieces", "", "2");
    for (int i = 0; i < 6; i++) {
        snprintf(body, sizeof body,
                 "{\"prompt\": \"%s\", \"echo\": true, \"max_tokens\": %d, \"temperature\": 0%s%s}", prompt,
                 i % 3, i & 1 ? ", \"stream\": true" : "", i > 3 ? ", \"logprobs\": 1" : "");
        assert_int_equal(hear(post("/v1/completions", "", body)), 200);
        joined_text(got, sizeof got);
        if (strncmp(got, prompt, strlen(prompt))) fail_msg("%s: found \"%s\"", body, got);
    }
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"the \xF0\x9F\xA6\x99 quick  fox\", \"echo\": true, \"max_tokens\": 0, "
                  "\"logprobs\": 0}")),
        200);
    json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0),
           *l = json_object_get(choice, "logprobs"), *tokens = json_object_get(l, "tokens"),
           *offsets = json_object_get(l, "text_offset");
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "<s>");
    *got = 0;
    for (size_t i = 1; i < json_array_size(tokens); i++) { /* a byte is a token, no text alone: _ here */
        const char *one = json_string_value(json_array_get(tokens, i));
        bool        half = !strcmp(one, "\xEF\xBF\xBD"), second = half && strchr(got, '_');
        assert_int_equal(json_integer_value(json_array_get(offsets, i)), strlen(got) - second);
        if (!second) strcat(got, half ? "_" : one);
    }
    assert_string_equal(got, "the _ quick  fox");
    json_decref(all);
    stop();
    start("long", "", "2");
}

static void test_parameters(void **state) {
    (void)state;
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"x\", \"max_tokens\": 3, \"logit_bias\": {\"65\": 100}, \"n\": 1}")),
        200);
    assert_non_null(strstr(text, "\"text\":\"AAA\""));
    assert_int_equal(
        hear(post(
            "/v1/completions", "",
            "{\"prompt\": \"x\", \"max_tokens\": 9, \"logit_bias\": {\"65\": 100}, \"stop\": [\"AAAA\"]}")),
        200);
    assert_non_null(strstr(text, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\""));
    /* A is 1 ahead of B and loses 2, once or each time */
    static const char penalised[] = "{\"prompt\": \"x\", \"max_tokens\": 6, \"temperature\": 0, "
                                    "\"logit_bias\": {\"65\": 100, \"66\": 99}, ";
    char              body[300];
    snprintf(body, sizeof body, "%s\"presence_penalty\": 2}", penalised);
    assert_int_equal(hear(post("/v1/completions", "", body)), 200);
    assert_non_null(strstr(text, "\"text\":\"ABAAAA\""));
    snprintf(body, sizeof body, "%s\"frequency_penalty\": 2}", penalised);
    assert_int_equal(hear(post("/v1/completions", "", body)), 200);
    assert_non_null(strstr(text, "\"text\":\"ABABAB\""));
    char first[2000];
    for (int i = 0; i < 2; i++) { /* a seed decides */
        assert_int_equal(
            hear(post("/v1/completions", "", "{\"prompt\": \"x\", \"max_tokens\": 9, \"seed\": 7}")), 200);
        char *at = strstr(text, "\"choices\"");
        at[strcspn(at, "}")] = 0;
        if (i) assert_string_equal(first, at);
        snprintf(first, sizeof first, "%s", at);
    }
    assert_int_equal(hear(post("/tokenize", "", "{\"prompt\": \"Hi\"}")), 200);
    assert_non_null(strstr(text, "\"tokens\":[72,105]"));
    assert_int_equal(get("/", ""), 200);
    assert_non_null(strstr(text, "<!doctype html>"));
    assert_null(strstr(text, "https:")); /* it needs no network */
}

/* As numbers and as base64 (what OpenAI's client asks for); a text's vector does not depend on the others. */
static void test_embeddings(void **state) {
    (void)state;
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [\"Hi\", \"there\"]}")), 200);
    json_t *both = json(), *data = json_object_get(both, "data"),
           *second = json_object_get(json_array_get(data, 1), "embedding");
    assert_int_equal(json_array_size(data), 2);
    assert_int_equal(json_array_size(second), 32);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(both, "usage"), "prompt_tokens")), 7);
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": \"there\"}")), 200);
    json_t *one = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(one, "data"), 0), "embedding")));
    assert_int_equal(
        hear(post("/v1/embeddings", "", "{\"input\": \"there\", \"encoding_format\": \"base64\"}")), 200);
    json_t *coded = json();
    assert_int_equal(
        json_string_length(json_object_get(json_array_get(json_object_get(coded, "data"), 0), "embedding")),
        172);
    json_decref(one);
    json_decref(coded);
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [[72, 105], [116, 104, 101, 114, 101]]}")),
                     200);
    json_t *ids = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(ids, "data"), 1), "embedding")));
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", [116, 104, 101, 114, 101], \"y\"]}")),
                     200);
    json_t *mixed = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(mixed, "data"), 1), "embedding")));
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [116, 104, 101, 114, 101]}")), 200);
    json_t *alone = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(alone, "data"), 0), "embedding")));
    json_decref(ids);
    json_decref(mixed);
    json_decref(alone);
    json_decref(both);
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [1, 300]}")), 400, "token 1");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[1], []]}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[1], [-1]]}")), 400, "token 0");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [1, \"x\"]}")), 400, "token 1");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", 1]}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": \"\"}")), 400, "");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": \"x\", \"dimensions\": 5}")), 400,
                      "dimensions");
}

/* A model that fails says so, each way. */
static void test_spoilt(void **state) {
    (void)state;
    stop();
    start("spoilt", "", "2");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", \"y\"]}")), 500, "not finite");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[7]], \"encoding_format\": \"base64\"}")),
                      500, "not finite");
    expect_error_code(hear(post("/v1/completions", "", "{\"prompt\": \"x\"}")), 500, "the model failed");
    expect_error_code(hear(post("/v1/completions", "", "{\"prompt\": \"x\", \"stream\": true}")), 200,
                      "the model failed");
    stop();
    start("long", "", "2");
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *path, *body;
        int         status;
        const char *words;
    } wrong[] = {
        {"/v1/chat/completions", "", 400, "request: line 1"},
        {"/v1/chat/completions", "[]", 400, "expected an object"},
        {"/v1/chat/completions", "{}", 400, "messages: missing"},
        {"/v1/chat/completions", "{\"messages\": [{\"role\": 1}]}", 400, "messages[0].role"},
        {"/v1/chat/completions",
         "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", 400,
         "messages[0].content[0]"},
        {"/v1/chat/completions",
         "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"temperature\": \"hot\"}", 400,
         "temperature"},
        {"/v1/chat/completions", "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"n\": 100000}",
         400, "n: expected"},
        {"/v1/chat/completions", "{\"messages\": [{\"role\": \"user\"}]}", 400, "messages[0].content: missing"},
        {"/v1/chat/completions",
         "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"tool_choice\": \"required\"}", 400,
         "tool_choice"},
        {"/v1/chat/completions",
         "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"functions\": [{}]}", 400, "functions"},
        {"/v1/embeddings", "{\"input\": \"x\", \"encoding_format\": \"foo\"}", 400, "encoding_format"},
        {"/v1/embeddings", "{\"input\": \"x\", \"encoding_format\": 5}", 400, "encoding_format"},
        {"/v1/embeddings", "{\"input\": \"x\", \"dimensions\": \"5\"}", 400, "dimensions"},
        {"/v1/completions", "{\"prompt\": [300]}", 400, "token 0"},
        {"/v1/completions", "{\"prompt\": [-1]}", 400, "token 0"},
        {"/v1/completions", "{\"prompt\": [[1], {}]}", 400, "expected a text"},
        {"/v1/completions", "{\"prompt\": \"x\", \"logit_bias\": {\"x\": 1}}", 400, "logit_bias"},
        {"/v1/completions", "{\"prompt\": \"x\", \"logit_bias\": {\"999999\": 1}}", 400, ""},
        {"/v1/completions", "{\"prompt\": \"x\", \"suffix\": \"y\"}", 400, "suffix"},
        {"/v1/completions", "\xFF\xFE", 400, "expected a value"},
        {"/v1/completions", "{\"prompt\": \"\xC3\"}", 400, "not UTF-8"},
        {"/v1/completions", "{\"prompt\": \"\\u0000\"}", 400, "u0000"},
        {"/v1/nothing", "{}", 404, ""},
        {"/health", "{}", 405, ""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_error_code(hear(post(wrong[i].path, "", wrong[i].body)), wrong[i].status, wrong[i].words);
    char *large = malloc(200001);
    memset(large, 'x', 200000);
    large[200000] = 0;
    expect_error_code(hear(post("/v1/completions", "", large)), 413, "too large");
    free(large);
    static const char *const hosts[] = {"evil.example", "127.0.0.1.evil.example", "127.evil.example:80",
                                        "localhost.evil.example", "128.0.0.1"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        char line[100];
        snprintf(line, sizeof line, "Host: %s\r\n", hosts[i]);
        expect_error_code(get("/health", line), 403, "API key");
    }
    assert_int_equal(get("/health", "Host: 127.0.0.1:8080\r\n"), 200);
    assert_int_equal(get("/health", "Host: 127.1.2.3\r\n"), 200);
    expect_error_code(hear(post("/v1/completions", "Origin: http://evil.example\r\n", "{}")), 403, "API key");
    assert_int_equal(get("/health", ""), 200); /* and it lives */
}

/* A client that leaves frees its row at once, whether it waits for all or reads a stream; one that waits
 * in the queue frees that. */
static void test_disconnect(void **state) {
    (void)state;
    const char *endless[] = {
        "{\"prompt\": \"x\", \"max_tokens\": 1000000, \"logit_bias\": {\"65\": 100}}",
        "{\"prompt\": \"x\", \"max_tokens\": 1000000, \"logit_bias\": {\"65\": 100}, \"stream\": true}"};
    for (int i = 0; i < 4; i++) {
        int fd = post("/v1/completions", "", endless[i % 2]);
        await_metric("quipu_rows_busy", 1);
        int waits = post("/v1/completions", "", endless[i / 2]);
        await_metric("quipu_queue_waiting", 1);
        expect_error_code(hear(post("/v1/completions", "", endless[0])), 429, "queue");
        close(waits);
        await_metric("quipu_queue_waiting", 0);
        double begin = now();
        close(fd);
        await_metric("quipu_rows_busy", 0);
        assert_true(now() - begin < 5);
    }
}

/* However a client leaves: with bytes of it unread, by a reset, after half of a body; whatever it asked for. Its
 * row is free, and what answers it later finds nobody (under a sanitizer: touches nothing of it). */
static void test_leaving(void **state) {
    (void)state;
    static char many[60000] = "{\"input\": [\"x\"";
    for (size_t n = strlen(many); n < sizeof many - 100; n += 5) memcpy(many + n, ", \"y\"", 5);
    strcpy(many + strlen(many), "]}");
    static const struct {
        const char *path, *body;
        bool        more, reset, whole;
    } ways[] = {
        {"/v1/completions", "{\"prompt\": \"x\", \"max_tokens\": 1000000, \"logit_bias\": {\"65\": 100}}", true,
         false, true},
        {"/v1/completions", "{\"prompt\": \"x\", \"max_tokens\": 1000000, \"logit_bias\": {\"65\": 100}}", true,
         true, true},
        {"/v1/completions",
         "{\"prompt\": \"x\", \"max_tokens\": 1000000, \"logit_bias\": {\"65\": 100}, \"stream\": true}", false,
         true, true},
        {"/v1/chat/completions", "{\"messages\": [", false, true, false},
        {"/v1/embeddings", NULL, true, true, true}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int  fd = post(ways[i].path, ways[i].whole ? "" : "X: y\r\nContent-Length: 9999\r\nX-",
                       ways[i].body ? ways[i].body : many);
        bool writes = strstr(ways[i].path, "completions") && ways[i].whole;
        if (writes) await_metric("quipu_rows_busy", 1);
        if (ways[i].more) say(fd, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if (ways[i].reset)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
        close(fd);
        await_metric("quipu_rows_busy", 0);
        await_metric("quipu_queue_waiting", 0);
        await_metric("quipu_connections", 1);
    }
}

/* Numbers below 0, and beyond what an int or a token id holds: none is cut to fit. */
static void test_numbers(void **state) {
    (void)state;
    static const char *const wrong[] = {"\"max_tokens\": -1",
                                        "\"max_tokens\": 4294967297",
                                        "\"max_tokens\": 1e300",
                                        "\"max_tokens\": 1.5",
                                        "\"n\": -1",
                                        "\"n\": 0",
                                        "\"n\": 4294967297",
                                        "\"logprobs\": -1",
                                        "\"logprobs\": 4294967297",
                                        "\"top_k\": -1",
                                        "\"top_k\": 4294967297",
                                        "\"top_p\": -0.1",
                                        "\"top_p\": 1.1",
                                        "\"temperature\": -1",
                                        "\"best_of\": -1",
                                        "\"seed\": 1e30",
                                        "\"logit_bias\": {\"-1\": 1}",
                                        "\"logit_bias\": {\"4294967361\": 1}",
                                        "\"logit_bias\": {\"65\": 1e300}",
                                        "\"stop\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\"]"};
    static const char *const prompts[] = {"[4294967361]", "[-4294967231]", "[18446744073709551681]", "[257]",
                                          "[65.0]",       "[[65], [-1]]",  "[[4294967361]]"};
    char                     body[300];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(body, sizeof body, "{\"prompt\": \"x\", %s}", wrong[i]);
        int status = hear(post("/v1/completions", "", body));
        if (status != 400) fail_msg("%s: expected 400, found %d: %.200s", body, status, text);
    }
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        snprintf(body, sizeof body, "{\"prompt\": %s}", prompts[i]);
        assert_int_equal(hear(post("/v1/completions", "", body)), 400);
        snprintf(body, sizeof body, "{\"input\": %s}", prompts[i]);
        assert_int_equal(hear(post("/v1/embeddings", "", body)), 400);
    }
    assert_int_equal(hear(post("/v1/completions", "Content-Length: -1\r\nX-", "{}")), 400);
}

/* What a client says is text: neither the template's language nor its marks. */
static void test_injection(void **state) {
    (void)state;
    static const char *const tries[] = {"{{ 7 * 7 }}", "{% for x in range(9) %}a{% endfor %}",
                                        "{{ ''.__class__.__mro__ }}"};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        char body[300];
        snprintf(body, sizeof body,
                 "{\"messages\": [{\"role\": \"%s\", \"content\": \"%s\"}], \"max_tokens\": 1, "
                 "\"chat_template\": \"%s\"}",
                 i ? "user" : tries[0], tries[i], tries[i]);
        assert_int_equal(hear(post("/v1/chat/completions", "", body)), 200);
        json_t *all = json();
        /* a byte is a token here, and the template adds a line's end */
        assert_int_equal(json_integer_value(json_object_get(json_object_get(all, "usage"), "prompt_tokens")),
                         strlen(tries[i]) + 1);
        json_decref(all);
    }
}

/* Deadlines are absolute: a byte now and then does not put them off. */
static void test_slow(void **state) {
    (void)state;
    enum { N = 100 };
    int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = call();
        say(fds[i], i % 2 ? "GET /health HTTP/1.1\r\nHost: "
                          : "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n");
    }
    double begin = now();
    assert_int_equal(get("/health", ""), 200);
    assert_true(now() - begin < 2);
    for (; now() < begin + 3.5; usleep(200000))
        for (int i = 0; i < N; i++) say(fds[i], "x");
    assert_true(metric("quipu_connections") < N / 2);
    for (int i = 0; i < N; i++) close(fds[i]);
}

static void test_drain(void **state) {
    (void)state;
    int fd =
        post("/v1/completions", "", "{\"prompt\": \"x\", \"max_tokens\": 2000, \"logit_bias\": {\"65\": 100}}");
    await_metric("quipu_rows_busy", 1);
    kill(server, SIGTERM);
    assert_int_equal(hear(fd), 200);
    assert_non_null(strstr(text, "\"completion_tokens\":2000"));
    int status = -1;
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_int_equal(status, 0);
    start("long", "", "2");
}

/* Whatever a client sends, a line of the access log is JSON. */
static void test_log(void **state) {
    char line[500] = "";
    (void)state;
    stop();
    loud = true;
    start("long", "", "2");
    loud = false;
    int fd = call();
    say(fd, "P\"\\X /\"y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    hear(fd);
    for (size_t n = 0; n < sizeof line - 1 && read(said, line + n, 1) == 1 && line[n] != '\n'; n++) {
    }
    close(said);
    json_t *all = json_loads(line, 0, NULL);
    if (!all) fail_msg("no JSON: %s", line);
    assert_string_equal(json_string_value(json_object_get(all, "method")), "P??X");
    assert_string_equal(json_string_value(json_object_get(all, "path")), "/?y");
    json_decref(all);
    stop();
    start("long", "", "2");
}

static void test_key(void **state) {
    (void)state;
    stop();
    start("long", "sesame", "2");
    static const struct {
        const char *headers;
        int         status;
    } tries[] = {{"", 401},
                 {"Authorization: Bearer sesam\r\n", 401},
                 {"Authorization: Bearer sesamee\r\n", 401},
                 {"Authorization: sesame\r\n", 401},
                 {"Authorization: Bearer \r\n", 401},
                 {"Authorization: Bearer sesame\r\n", 200},
                 {"Authorization: bearer sesame\r\n", 200}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++)
        assert_int_equal(get("/v1/models", tries[i].headers), tries[i].status);
    assert_int_equal(get("/health", ""), 200);
    expect_error_code(hear(post("/v1/completions", "", "{\"prompt\": \"x\"}")), 401, "API key");
    /* others are let in with a key only */
    unsetenv("QUIPU_API_KEY");
    expect_message(run("serve", "-m", "%/bytes", "--host", "0.0.0.0", NULL), 2, "API key");
    expect_message(run("serve", "-m", "%/bytes", "--host", "127.evil", NULL), 2, "expected an IP address");
    expect_message(run("serve", "-m", "%/nosuch", "--host", "localhost", NULL), 1, "nosuch");
}

static bool make_spoilt(void) {
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_model     *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    qp_state_dict all = m ? qp_module_state(qp_model_module(m)) : (qp_state_dict){0};
    float         nan[64] = {NAN};
    for (int i = 0; i < all.count; i++) {
        qp_tensor t = all.entries[i].tensor;
        if (!strcmp(all.entries[i].name, "norm.weight") && qp_write(t, QP_F32, nan, qp_count(t)) != QP_OK)
            break;
    }
    bool ok = m && qp_model_save(m, in_folder("spoilt")) == QP_OK;
    qp_close(ctx);
    return ok;
}

static bool make_pieces(void) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 520, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"max_position_embeddings\": 2000}";
    size_t    bytes;
    char     *vocabulary = read_file(SOURCE_DIR "/tests/golden/tokenizers/llama.json", &bytes);
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = qp_model_new(ctx, "config", config);
    bool      ok = m && qp_model_save(m, in_folder("pieces")) == QP_OK;
    write_file("pieces/tokenizer.json", vocabulary, bytes);
    free(vocabulary);
    qp_close(ctx);
    return ok;
}

static int make(void **state) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 1000000}";
    if (make_folder(state)) return -1;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = qp_model_new(ctx, "config", config);
    bool      ok = m && qp_model_save(m, in_folder("long")) == QP_OK;
    qp_close(ctx);
    if (!ok) return -1;
    write_text("long/chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
    if (!make_pieces() || !make_spoilt()) return -1;
    start("long", "", "2");
    return 0;
}

static int end(void **state) {
    if (server > 0) kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return remove_folder(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),     cmocka_unit_test(test_scores),     cmocka_unit_test(test_echo),
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_embeddings), cmocka_unit_test(test_spoilt),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_disconnect), cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_numbers),    cmocka_unit_test(test_injection),  cmocka_unit_test(test_slow),
        cmocka_unit_test(test_drain),      cmocka_unit_test(test_log),        cmocka_unit_test(test_key)};
    return cmocka_run_group_tests(tests, make, end);
}
