/* quipu serve: a model over HTTP. This thread is the engine's. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cli/dialogue.h"
#include "cli/serve.h"

static volatile sig_atomic_t signals;
static void on_stop(int number) { (void)number, signals++; }

static bool is_address(const char *host) {
    struct in6_addr any;
    return inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1;
}

static bool is_loopback(const char *host) { return !strncmp(host, "127.", 4) || !strcmp(host, "::1"); }

/* The model's name for clients: the last part of its path. */
static char *name_of(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t begin = n;
    while (begin && path[begin - 1] != '/') begin--;
    char *name = strndup(path + begin, n - begin);
    for (char *p = name; p && *p; p++)
        if ((unsigned char)*p < 32 || (unsigned char)*p > 126) *p = '?';
    return name;
}

/* Thousands of connections want descriptors. */
static void raise_limits(void) {
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max < 65536 ? l.rlim_max : 65536;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

typedef struct {
    serve_http *http;
    atomic_bool stop;
} watcher;

static void *watch(void *user) {
    watcher              *w = user;
    const struct timespec pause = {.tv_nsec = 20000000};
    while (!w->stop) {
        serve_http_watch(w->http);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* Until a signal; then what is in hand is finished, for `drain` seconds at most or until a second one. */
static void work(serve_server *s, serve_http *http, double drain) {
    const struct timespec pause = {.tv_nsec = 2000000};
    double                end = 0;
    for (;;) {
        if (signals && !s->draining) {
            s->draining = true;
            serve_http_refuse(http);
            end = cli_now() + drain;
        }
        if (s->draining && (signals > 1 || cli_now() > end || !serve_http_busy(http))) return;
        bool embedded = serve_embed_step(s), wrote = s->engine && qp_engine_step(s->engine);
        if (embedded || wrote) continue;
        if (s->engine) qp_engine_wait(s->engine, 0.1);
        else nanosleep(&pause, NULL);
    }
}

static int serve(cli *c, serve_server *s) {
    char        error[256];
    watcher     w = {0};
    pthread_t   thread;
    serve_http *http = serve_http_start(s, error);
    if (!http) return cli_error("%s", error);
    w.http = http;
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    bool watching = pthread_create(&thread, NULL, watch, &w) == 0;
    if (watching) {
        bool six = strchr(s->host, ':');
        fprintf(stderr, "quipu: http://%s%s%s:%u serves %s (chat page and /v1)\n", six ? "[" : "", s->host,
                six ? "]" : "", s->port, s->model);
        work(s, http, cli_number(c, "drain"));
        w.stop = true;
        pthread_join(thread, NULL);
    }
    serve_http_stop(http);
    while (serve_embed_step(s)) {
    } /* all have left */
    qp_engine_close(s->engine); /* its last calls come here, after HTTP is gone */
    return watching ? 0 : cli_error("cannot start a thread");
}

static int run(cli *c) {
    cli_dialogue d;
    const char  *key = cli_text(c, "api-key");
    serve_server s = {.host = cli_text(c, "host"),
                      .port = (uint16_t)cli_int(c, "port"),
                      .key = key ? key : getenv("QUIPU_API_KEY"),
                      .most_body = (size_t)cli_int(c, "max-body"),
                      .header_seconds = cli_number(c, "header-timeout"),
                      .body_seconds = cli_number(c, "body-timeout"),
                      .started = (int64_t)time(NULL),
                      .quiet = cli_flag(c, "quiet")};
    if (s.key && !*s.key) s.key = NULL;
    if (!strcasecmp(s.host, "localhost")) s.host = "127.0.0.1";
    if (!is_address(s.host)) return cli_usage(c, "serve: --host is \"%.60s\", expected an IP address", s.host);
    if (!s.key && !is_loopback(s.host))
        return cli_usage(c, "serve: --host %s lets others in: give an API key (QUIPU_API_KEY or --api-key)",
                         s.host);
    raise_limits();
    qp_ctx *ctx = cli_open(c);
    if (!ctx) return 1;
    if (!cli_dialogue_open(c, ctx, cli_int(c, "rows"), cli_int(c, "queue"), false, &d)) return cli_failed(ctx);
    char buffer[4096];
    if (qp_embed_options_load(d.m.model, cli_model_path(cli_text(c, "model"), buffer), &s.embed) != QP_OK)
        return cli_failed(ctx);
    pthread_mutex_init(&s.embed_lock, NULL);
    s.weights = d.m.model;
    s.width = d.m.info.width;
    s.room = s.embed.max_tokens ? s.embed.max_tokens : d.m.info.positions ? d.m.info.positions : d.positions;
    s.queue = (int)cli_int(c, "queue");
    qp_ctx *http_ctx = qp_open((qp_options){.threads = 1});
    char   *name = cli_text(c, "name") ? strdup(cli_text(c, "name")) : name_of(cli_text(c, "model"));
    s.engine = d.engine;
    s.ctx = ctx;
    s.http_ctx = http_ctx;
    s.tokenizer = d.m.tokenizer;
    s.template = d.template;
    s.ends = d.m.ends;
    s.end_count = d.m.end_count;
    s.begin = d.m.begin >= 0 ? d.m.begin : d.m.end_count ? d.m.ends[0] : -1;
    s.positions = d.positions;
    s.vocabulary = d.m.info.vocabulary;
    s.model = name;
    int status = http_ctx && name ? serve(c, &s) : cli_error("out of memory");
    free(name);
    qp_close(http_ctx);
    return status;
}

static const cli_option options[] = {
    CLI_DIALOGUE_OPTIONS,
    {"host", 0, CLI_TEXT, "ADDRESS", "127.0.0.1",
     "IP address to listen on; others than this machine's need an API key", 0, 0, false},
    {"port", 'p', CLI_INT, "N", "8080", "port; 0: any that is free", 0, 65535, false},
    {"api-key", 0, CLI_TEXT, "KEY", NULL, "what clients must send [QUIPU_API_KEY, which others cannot see]", 0,
     0, false},
    {"name", 0, CLI_TEXT, "NAME", NULL, "the model's name for clients [its file's]", 0, 0, false},
    {"rows", 0, CLI_INT, "N", "4", "texts written at once", 1, 1024, false},
    {"queue", 0, CLI_INT, "N", "64", "requests that wait at most; more are answered 429", 1, 1e6, false},
    {"max-body", 0, CLI_INT, "BYTES", "4194304", "of a request at most; more is answered 413", 1, 1e9, false},
    {"header-timeout", 0, CLI_NUMBER, "S", "10", "seconds for a request's header, in all", 0.01, 1e6, false},
    {"body-timeout", 0, CLI_NUMBER, "S", "30", "seconds for its body, in all", 0.01, 1e6, false},
    {"drain", 0, CLI_NUMBER, "S", "30", "seconds to finish what is in hand after SIGTERM", 0, 1e6, false},
    {0}};

QP_VERB(serve) = {
    .name = "serve",
    .summary = "a model over HTTP: OpenAI's API and a chat page",
    .arguments = "",
    .options = options,
    .examples = "  quipu serve -m SmolLM2-135M-Instruct.Q4_1.gguf        # then open http://127.0.0.1:8080\n"
                "  QUIPU_API_KEY=secret quipu serve -m my-model --host 0.0.0.0\n"
                "  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
                "\"content\": \"Hi\"}]}'\n",
    .run = run};
