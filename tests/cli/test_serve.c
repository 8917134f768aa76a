/* quipu serve over real sockets: limits, clients that are slow, leave or may not ask. */
#define _GNU_SOURCE
#include "server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_disconnect), cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_injection),  cmocka_unit_test(test_slow),
        cmocka_unit_test(test_drain),    cmocka_unit_test(test_log),        cmocka_unit_test(test_key)};
    return cmocka_run_group_tests(tests, make_server, end_server);
}
