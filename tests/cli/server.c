/* See server.h. */
#define _GNU_SOURCE
#include "server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

pid_t server;
int   port;
bool  loud;
int   said;

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The server ---------------------------------------------------------------------------------- */

void start(const char *model, const char *key, const char *header_timeout) {
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

void stop(void) {
    int status = -1;
    kill(server, SIGTERM);
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- A client -------------------------------------------------------------------------------------- */

int call(void) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

void say(int fd, const char *text) { (void)!send(fd, text, strlen(text), MSG_NOSIGNAL); }

int post(const char *path, const char *headers, const char *body) {
    char head[500];
    int  fd = call();
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n", path,
             headers, strlen(body));
    say(fd, head);
    say(fd, body);
    return fd;
}

char text[1 << 20];
int hear(int fd) {
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

int get(const char *path, const char *headers) {
    char head[500];
    int  fd = call();
    snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n%s%sConnection: close\r\n\r\n", path,
             strstr(headers, "Host:") ? "" : "Host: localhost\r\n", headers);
    say(fd, head);
    return hear(fd);
}

json_t *json(void) {
    json_t *j = json_loads(text, 0, NULL);
    if (!j) fail_msg("no JSON: %.300s", text);
    return j;
}

void expect_error_code(int status, int wanted, const char *words) {
    if (status != wanted || !strstr(text, "\"error\"") || !strstr(text, words))
        fail_msg("expected %d \"%s\", found %d: %.500s", wanted, words, status, text);
}

long metric(const char *name) {
    assert_int_equal(get("/metrics", ""), 200);
    char line[100];
    snprintf(line, sizeof line, "\n%s ", name);
    char *at = strstr(text, line);
    assert_non_null(at);
    return atol(at + strlen(line));
}

void await_metric(const char *name, long wanted) {
    for (double end = now() + 20; now() < end;) {
        if (metric(name) == wanted) return;
        usleep(20000);
    }
    fail_msg("%s does not become %ld", name, wanted);
}

/* ---- Of every test --------------------------------------------------------------------------------- */

int make_server(void **state) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 1000000}";
    if (make_folder(state) || save_model("long", config)) return -1;
    write_text("long/chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
    start("long", "", "2");
    return 0;
}

int end_server(void **state) {
    if (server > 0) kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return remove_folder(state);
}
