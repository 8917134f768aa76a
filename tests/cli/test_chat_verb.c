/* quipu chat: piped, and on a terminal. */
#define _GNU_SOURCE
#include "support.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const char chatml[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
                             "{% if add_generation_prompt %}<assistant>{% endif %}";

static int make(void **state) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 1, \"max_position_embeddings\": 1000000}";
    if (make_folder(state)) return -1;
    /* one that has much to say */
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = qp_model_new(ctx, "config", config);
    bool      ok = m && qp_model_save(m, in_folder("long")) == QP_OK;
    qp_close(ctx);
    if (!ok) return -1;
    write_text("long/chat_template.jinja", chatml);
    write_text("bytes/chat_template.jinja", chatml);
    return 0;
}

static outcome talk(const char *lines, const char *first, const char *second) {
    return run_with(lines, strlen(lines), "chat", "-m", "%/bytes", "--temp", "0", "-n", "8", "-q", first,
                    second, NULL);
}

/* A conversation from a file goes on as it would have. */
static void test_piped(void **state) {
    (void)state;
    char    lines[1000], *whole;
    outcome o = talk("first\nsecond\n/show\n", NULL, NULL);
    expect_success(o);
    assert_non_null(strstr(o.out, "user: first\nassistant: "));
    assert_non_null(strstr(o.out, "user: second\nassistant: "));
    whole = strdup(o.out);
    snprintf(lines, sizeof lines, "first\n/save %s\n", in_folder("talk.json"));
    expect_success(talk(lines, NULL, NULL));
    expect_success(
        run_with("first\n", 6, "chat", "-m", "%/long", "--kv", "q8_0", "-n", "4", "-q", "-c", "256", NULL));
    o = talk("second\n/show\n", "--load", "%/talk.json");
    expect_success(o);
    assert_string_equal(strstr(o.out, "user: first"), strstr(whole, "user: first"));
    /* undone, edited and retried it is the same again */
    o = talk("first\nx\n/undo\nwrong\n/edit second\n/retry\n/show\n", NULL, NULL);
    expect_success(o);
    assert_string_equal(strstr(o.out, "user: first"), strstr(whole, "user: first"));
    o = talk("/system be brief\nfirst\n/clear\n/show\n", NULL, NULL);
    assert_non_null(strstr(o.out, "system: be brief\n"));
    assert_null(strstr(o.out, "user: first"));
    free(whole);
}

static void test_errors(void **state) {
    (void)state;
    write_text("broken.jinja", "\n{{ x | nosuch }}");
    expect_message(run("chat", "-m", "%/bytes", "--chat-template", "%/broken.jinja", NULL), 1,
                   "line 2: templates here have no filter 'nosuch'");
    expect_message(run("chat", "-m", "%/bytes", "--kv", "i8", NULL), 1,
                   "--kv i8: expected f32, bf16, f16 or q8_0");
    expect_message(run("chat", "-m", "%/nosuch", NULL), 1, "nosuch");
    /* within a conversation an error is a line, and the conversation goes on */
    write_text("refuses.jinja", "{% if messages | length > 1 %}{{ raise_exception('one is enough') }}{% endif "
                                "%}{{ messages[0].content }}");
    outcome o = talk("a\nb\n/load %/nosuch\n/show\n", "--chat-template", "%/refuses.jinja");
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.err, "one is enough"));
    assert_non_null(strstr(o.out, "user: a"));
    assert_null(strstr(o.out, "user: b"));
    /* and one that cannot begin as asked for does not begin */
    expect_message(talk("a\n", "--load", "%/nosuch"), 1, "nosuch");
    expect_message(talk("a message of some length\n", "-c", "10"), 1, "there is room for 10");
}

/* ---- A terminal ------------------------------------------------------------------------------------ */

typedef struct {
    int    fd;
    pid_t  pid;
    char   seen[65536];
    size_t count;
} terminal;

static terminal start(const char *tokens) {
    terminal t = {0};
    char     model[300];
    snprintf(model, sizeof model, "%s/long", folder);
    t.pid = forkpty(&t.fd, NULL, NULL, NULL);
    assert_true(t.pid >= 0);
    if (t.pid == 0) {
        setenv("TERM", "xterm", 1);
        execl(COMMAND, COMMAND, "chat", "-m", model, "--temp", "0", "-n", tokens, "-c", "1000000",
              (char *)NULL);
        _exit(127);
    }
    return t;
}

/* Reads until the words are seen, and forgets what was before. */
static void await(terminal *t, const char *words) {
    time_t end = time(NULL) + 30;
    while (time(NULL) < end) {
        t->seen[t->count] = 0;
        char *at = memmem(t->seen, t->count, words, strlen(words));
        if (at) {
            t->count -= (size_t)(at + strlen(words) - t->seen);
            memmove(t->seen, at + strlen(words), t->count);
            return;
        }
        if (t->count > sizeof t->seen / 2) t->count = 0;
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (poll(&p, 1, 1000) < 1) continue;
        ssize_t n = read(t->fd, t->seen + t->count, sizeof t->seen - 1 - t->count);
        if (n <= 0) break;
        t->count += (size_t)n;
    }
    fail_msg("expected \"%s\", found \"%.2000s\"", words, t->seen);
}

static void type(terminal *t, const char *keys) {
    assert_int_equal(write(t->fd, keys, strlen(keys)), strlen(keys));
}

static void expect_exit(terminal *t) {
    char          rest[4096];
    int           status;
    struct pollfd p = {.fd = t->fd, .events = POLLIN};
    while (poll(&p, 1, 20000) == 1 && read(t->fd, rest, sizeof rest) > 0) {
    }
    if (!p.revents) kill(t->pid, SIGKILL);
    assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
    if (!WIFEXITED(status)) fail_msg("ended by signal %d: %.*s", WTERMSIG(status), (int)t->count, t->seen);
    assert_int_equal(WEXITSTATUS(status), 0);
    close(t->fd);
}

/* Ctrl-C stops the reply and not the program; a second one at the prompt leaves, as do Ctrl-D and /quit. */
static void test_terminal(void **state) {
    (void)state;
    terminal t = start("100000000");
    await(&t, "> ");
    type(&t, "Hello\n");
    await(&t, "Hello\r\n");
    /* once the reply has begun: the terminal alternates between editing a line (no echo) and not */
    for (struct termios now = {0}; tcgetattr(t.fd, &now) == 0 && !(now.c_lflag & ICANON);) usleep(10000);
    usleep(100000);
    type(&t, "\x03");
    await(&t, "(stopped;");
    await(&t, "> ");
    type(&t, "\x03");
    await(&t, "once more");
    type(&t, "\x03");
    expect_exit(&t);
    t = start("5");
    await(&t, "> ");
    type(&t, "Hello\n");
    await(&t, "tokens, ");
    await(&t, "> ");
    type(&t, "/quit\n");
    expect_exit(&t);
    t = start("5");
    await(&t, "> ");
    type(&t, "\x04");
    expect_exit(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_piped), cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_terminal)};
    return cmocka_run_group_tests(tests, make, remove_folder);
}
