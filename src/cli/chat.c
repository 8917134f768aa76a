/* quipu chat: a conversation. */
#define _GNU_SOURCE /* sigaction, isatty */
#include <ctype.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/dialogue.h"
#include "cli/json.h"
#include "cli/line.h"
#include "core/core.h"
#include "format/json.h"

#define REPLY_BYTES ((size_t)16 << 20)

typedef struct {
    cli         *c;
    qp_ctx      *ctx;
    cli_dialogue d;
    json_t      *messages;
    qp_sampling  sampling;
    int64_t      tokens;
    uint64_t     seed;
    bool         quit;
    int          status; /* 1: something has failed */
    char        *draft;  /* what the next line starts with */
    /* the reply at hand */
    qp_text       reply;
    bool          done, cut;
    qp_generation result;
} talk;

static volatile int interrupted;
static void on_interrupt(int number) { (void)number, interrupted = 1; }

static void say(const talk *t, const char *format, ...) QP_PRINTF(2, 3);
static void say(const talk *t, const char *format, ...) {
    va_list args;
    if (cli_flag(t->c, "quiet")) return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

/* A failure is said, and the conversation goes on. */
static bool failed(talk *t) {
    if (!qp_failed(t->ctx)) return false;
    t->status = cli_error("%s", qp_error(t->ctx));
    qp_clear(t->ctx);
    return true;
}

/* ---- Messages ------------------------------------------------------------------------------------ */

static size_t count(const talk *t) { return json_array_size(t->messages); }

static const char *role(const talk *t, size_t i) {
    const char *text = json_string_value(json_object_get(json_array_get(t->messages, i), "role"));
    return text ? text : "";
}

static const char *content(const talk *t, size_t i) {
    const char *text = json_string_value(json_object_get(json_array_get(t->messages, i), "content"));
    return text ? text : "";
}

static void add(talk *t, const char *who, const char *text, size_t bytes) {
    json_t *m = json_pack("{s:s, s:o}", "role", who, "content", cli_json_text(text, bytes));
    if (!m || json_array_append_new(t->messages, m)) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: messages");
}

/* Without the last user's message and what came behind it; false: there is none. */
static bool drop_exchange(talk *t) {
    size_t n = count(t);
    while (n && strcmp(role(t, n - 1), "user")) n--;
    if (!n) return false;
    while (count(t) >= n) json_array_remove(t->messages, count(t) - 1);
    return true;
}

static void set_system(talk *t, const char *text) {
    if (count(t) && !strcmp(role(t, 0), "system")) json_array_remove(t->messages, 0);
    if (!*text) return;
    json_t *m = json_pack("{s:s, s:o}", "role", "system", "content", cli_json_name(text));
    if (!m || json_array_insert_new(t->messages, 0, m))
        qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: messages");
}

/* ---- A reply ---------------------------------------------------------------------------------------- */

static bool on_text(void *user, const char *text, size_t bytes) {
    talk *t = user;
    if (t->reply.count + bytes > REPLY_BYTES || !cli_append(t->ctx, &t->reply, text, bytes)) return false;
    for (size_t i = t->reply.count - bytes; i < t->reply.count; i++) /* JSON here has no 0 */
        if (!t->reply.data[i]) t->reply.data[i] = '?';
    if (!isatty(1)) return fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
    for (size_t i = 0; i < bytes; i++) { /* what would move the terminal's cursor or more */
        unsigned char c = (unsigned char)text[i];
        putchar(c == 127 || (c < 32 && c != '\n' && c != '\t') ? '?' : c);
    }
    return fflush(stdout) == 0;
}

static void on_end(void *user, const qp_generation *result) {
    talk *t = user;
    t->result = *result;
    t->done = true;
    if (result->reason == QP_STOP_ERROR)
        t->status = cli_error("%s", result->error ? result->error : "the reply failed");
}

static bool prompt_of(talk *t, qp_ids *ids) {
    qp_rendered rendered = {0};
    qpi_buffer  text = {0};
    bool        ok = qpi_json_print(&text, t->messages, 0);
    if (!ok) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: messages");
    ok = ok &&
         qp_chat_render(t->ctx, t->d.template, text.data, text.count,
                        (qp_chat_options){.generation_prompt = true}, &rendered) == QP_OK &&
         qp_chat_encode(t->ctx, t->d.m.tokenizer, &rendered, ids) == QP_OK;
    qpi_buffer_free(&text);
    qp_rendered_free(&rendered);
    return ok;
}

static bool submit(talk *t, const qp_ids *ids, uint64_t *number) {
    char       error[256];
    int64_t    room = t->d.positions - ids->count;
    qp_request r = {.ids = ids->data,
                    .count = ids->count,
                    .on_end = on_end,
                    .options = {.max_tokens = t->tokens && t->tokens < room ? t->tokens : room,
                                .sampling = t->sampling,
                                .seed = t->seed++,
                                .ends = t->d.m.ends,
                                .end_count = t->d.m.end_count,
                                .on_text = on_text,
                                .user = t}};
    if (room <= 0) {
        t->status = cli_error("the conversation has %" PRId64 " tokens, there is room for %" PRId64
                              ": /undo, /clear or --context",
                              ids->count, t->d.positions);
        return false;
    }
    if (qp_engine_submit(t->d.engine, &r, number, error) == QP_OK) return true;
    t->status = cli_error("%s", error);
    return false;
}

/* Answers the messages. False: no reply was begun. */
static bool answer(talk *t) {
    qp_ids   ids = {0};
    uint64_t number = 0;
    t->reply.count = 0;
    t->done = t->cut = false;
    bool ok = prompt_of(t, &ids) && submit(t, &ids, &number);
    qp_ids_free(&ids);
    failed(t);
    if (!ok) return false;
    while (!t->done) {
        if (interrupted && !t->cut) {
            t->cut = true;
            qp_engine_cancel(t->d.engine, number);
        }
        if (!qp_engine_step(t->d.engine) && !t->done) break;
    }
    interrupted = 0; /* before anything is said: who reads it may press Ctrl-C again at once */
    if (!t->reply.count || t->reply.data[t->reply.count - 1] != '\n' || isatty(1)) putchar('\n');
    fflush(stdout);
    if (t->cut) say(t, "(stopped; the part that is there counts as the reply: /retry for another)\n");
    if (t->result.reason == QP_STOP_LENGTH) say(t, "(cut: the limit of tokens)\n");
    if (isatty(2) && t->result.tokens)
        say(t, "(%" PRId64 " tokens, %.1f/s; prompt %" PRId64 ", %" PRId64 " of it kept)\n", t->result.tokens,
            t->result.seconds > 0 ? (double)t->result.tokens / t->result.seconds : 0, t->result.prompt_tokens,
            t->result.reused);
    add(t, "assistant", t->reply.count ? t->reply.data : "", t->reply.count);
    return !failed(t);
}

/* A user's message, answered; taken back where no reply was begun. */
static void turn(talk *t, const char *text) {
    add(t, "user", text, strlen(text));
    if (!failed(t) && !answer(t)) drop_exchange(t);
}

/* ---- Commands ------------------------------------------------------------------------------------------ */

static void retry(talk *t, const char *rest) {
    (void)rest;
    while (count(t) && !strcmp(role(t, count(t) - 1), "assistant"))
        json_array_remove(t->messages, count(t) - 1);
    if (!count(t) || strcmp(role(t, count(t) - 1), "user")) say(t, "there is nothing to answer\n");
    else if (!answer(t)) drop_exchange(t);
}

static void edit(talk *t, const char *rest) {
    size_t n = count(t);
    while (n && strcmp(role(t, n - 1), "user")) n--;
    if (!n) {
        say(t, "there is no message to edit\n");
        return;
    }
    if (!*rest) t->draft = strdup(content(t, n - 1));
    drop_exchange(t);
    if (*rest) turn(t, rest);
}

static void undo(talk *t, const char *rest) {
    (void)rest;
    say(t, drop_exchange(t) ? "the last exchange is gone\n" : "there is nothing to undo\n");
}

static void clear(talk *t, const char *rest) {
    (void)rest;
    size_t keep = count(t) && !strcmp(role(t, 0), "system");
    while (count(t) > keep) json_array_remove(t->messages, count(t) - 1);
    say(t, "a new conversation\n");
}

static void system_message(talk *t, const char *rest) {
    if (*rest) set_system(t, strcmp(rest, "-") ? rest : "");
    if (!failed(t))
        say(t, "system: %s\n", count(t) && !strcmp(role(t, 0), "system") ? content(t, 0) : "(none)");
}

static void show(talk *t, const char *rest) {
    (void)rest;
    for (size_t i = 0; i < count(t); i++) {
        char *text = strdup(content(t, i));
        for (char *p = text; p && *p; p++)
            if ((unsigned char)*p < 32 && *p != '\n' && *p != '\t') *p = '?';
        printf("%s: %s\n", role(t, i), text ? text : "");
        free(text);
    }
    fflush(stdout);
}

static void save(talk *t, const char *rest) {
    if (!*rest) say(t, "/save FILE\n");
    else if (qpi_json_save(rest, t->messages, 2, &t->ctx->error))
        say(t, "%zu messages in %s\n", count(t), rest);
    failed(t);
}

static bool are_messages(talk *t, const char *path, json_t *all) {
    qpi_json root = qpi_json_root(path, all, &t->ctx->error);
    if (!json_is_array(all))
        qpi_json_fail(&root, QP_ERR_FORMAT, "expected an array of messages, found %s", qpi_json_kind(all));
    for (size_t i = 0; i < json_array_size(all); i++) {
        qpi_json    m = qpi_json_item(&root, i);
        const char *who, *text;
        if (!qpi_json_string(&m, "role", QPI_REQUIRED, &who) ||
            !qpi_json_string(&m, "content", QPI_REQUIRED, &text))
            break;
    }
    return !qp_failed(t->ctx);
}

static void load(talk *t, const char *rest) {
    json_t *all = *rest ? qpi_json_load(rest, &t->ctx->error) : NULL;
    if (!*rest) {
        say(t, "/load FILE\n");
    } else if (all && are_messages(t, rest, all)) {
        json_decref(t->messages);
        t->messages = json_incref(all);
        say(t, "%zu messages\n", count(t));
    }
    json_decref(all);
    failed(t);
}

static void params(talk *t, const char *rest) {
    double top_k = (double)t->sampling.top_k, tokens = (double)t->tokens, seed = (double)t->seed;
    struct {
        const char *name;
        double     *value, high;
    } all[] = {{"temp", &t->sampling.temperature, 1e5},
               {"top-p", &t->sampling.top_p, 1},
               {"min-p", &t->sampling.min_p, 1},
               {"repeat-penalty", &t->sampling.repetition_penalty, 1e5},
               {"top-k", &top_k, 1e9},
               {"tokens", &tokens, 1e9},
               {"seed", &seed, 9e15}};
    char   name[32];
    double value;
    int    used;
    for (; sscanf(rest, " %31[a-z-]%*[ =]%lf%n", name, &value, &used) == 2; rest += used) {
        size_t i = 0;
        while (i < sizeof all / sizeof *all && strcmp(all[i].name, name)) i++;
        if (i == sizeof all / sizeof *all || !(value >= 0 && value <= all[i].high)) break;
        *all[i].value = value;
    }
    if (rest[strspn(rest, " ")]) say(t, "not understood: %s (as in /params temp=0.5 top-k=40)\n", rest);
    t->sampling.top_k = (int64_t)top_k;
    t->tokens = (int64_t)tokens;
    t->seed = (uint64_t)seed;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        say(t, "%s=%.15g%s", all[i].name, *all[i].value, i + 1 < sizeof all / sizeof *all ? " " : "\n");
}

static void quit(talk *t, const char *rest) { (void)rest, t->quit = true; }
static void help(talk *t, const char *rest);

static const struct {
    const char *name, *arguments, *help;
    void (*run)(talk *t, const char *rest);
} commands[] = {
    {"help", "", "this list", help},
    {"retry", "", "another reply to the last message", retry},
    {"edit", "[TEXT]", "the last message anew, and its reply", edit},
    {"undo", "", "without the last message and its reply", undo},
    {"clear", "", "a new conversation (the system message stays)", clear},
    {"system", "[TEXT]", "the system message; - for none", system_message},
    {"params", "[NAME=VALUE]...", "temp, top-p, min-p, top-k, repeat-penalty, tokens, seed", params},
    {"show", "", "the conversation", show},
    {"save", "FILE", "the conversation as JSON", save},
    {"load", "FILE", "and back", load},
    {"quit", "", "also Ctrl-D, or Ctrl-C twice", quit}};

static void help(talk *t, const char *rest) {
    (void)rest;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        say(t, "  /%-7s %-16s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    say(t, "  A line that ends with \\ goes on in the next. Ctrl-C stops a reply.\n");
}

static void command(talk *t, char *line) {
    size_t n = strcspn(line, " \t");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strlen(commands[i].name) == n && !memcmp(commands[i].name, line, n)) {
            commands[i].run(t, line + n + strspn(line + n, " \t"));
            return;
        }
    say(t, "there is no /%.*s; /help lists what there is\n", (int)n, cli_shown(line));
}

/* ---- Lines ----------------------------------------------------------------------------------------------- */

/* A message of one or more lines in text; false: it is over. */
static bool next_message(talk *t, cli_lines *lines, qp_text *text) {
    char *line, *start = t->draft;
    int   interruptions = 0;
    text->count = 0;
    t->draft = NULL;
    for (bool more = false;;) {
        cli_line_result result = cli_lines_next(lines, more ? ". " : "> ", start, &interrupted, &line);
        free(start);
        start = NULL;
        if (result == CLI_LINE_END && !more) return false;
        if (result == CLI_LINE_INTERRUPTED) {
            interrupted = 0;
            if (++interruptions == 2 || !isatty(0)) return false;
            say(t, "\n(Ctrl-C once more or /quit leaves)\n");
            text->count = 0;
            more = false;
            continue;
        }
        size_t n = result == CLI_LINE ? strlen(line) : 0;
        bool   goes_on = n && line[n - 1] == '\\';
        if (goes_on) line[n - 1] = '\n';
        if (n && !cli_append(t->ctx, text, line, n)) return false;
        more = goes_on;
        if (!more) return cli_append(t->ctx, text, "", 1);
    }
}

static void converse(talk *t) {
    qp_text    text = {0};
    cli_lines *lines = cli_lines_open();
    if (!lines) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: lines");
    if (isatty(0))
        say(t, "%s, %" PRId64 " positions. /help lists commands.\n", t->d.m.info.model_type, t->d.positions);
    while (lines && !t->quit && next_message(t, lines, &text)) {
        if (text.data[0] == '/' && text.data[1] != '/') command(t, text.data + 1);
        else if (text.data[strspn(text.data, " \t\n")])
            turn(t, text.data + (text.data[0] == '/')); /* // begins a message with / */
        if (t->draft && !cli_lines_can_start(lines)) say(t, "the message was: %s\n", t->draft);
    }
    if (isatty(0) && !t->quit) putchar('\n');
    cli_lines_close(lines);
    qp_text_free(&text);
    free(t->draft);
}

static int run(cli *c) {
    talk t = {.c = c,
              .sampling = {.temperature = cli_number(c, "temp"),
                           .top_k = cli_int(c, "top-k"),
                           .top_p = cli_number(c, "top-p"),
                           .min_p = cli_number(c, "min-p"),
                           .repetition_penalty = cli_number(c, "repeat-penalty")},
              .tokens = cli_int(c, "tokens"),
              .seed = (uint64_t)cli_int(c, "seed")};
    if (!(t.ctx = cli_open(c))) return 1;
    if (!(t.messages = json_array())) return cli_error("out of memory");
    if (cli_dialogue_open(c, t.ctx, 1, 1, true, &t.d)) {
        struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
        sigaction(SIGINT, &action, NULL);
        if (cli_text(c, "system")) set_system(&t, cli_text(c, "system"));
        if (cli_text(c, "load")) load(&t, cli_text(c, "load"));
        if (!t.status) {
            converse(&t);
            if (isatty(0)) t.status = 0; /* who sits there has seen what failed */
        }
    }
    qp_engine_close(t.d.engine);
    qp_text_free(&t.reply);
    json_decref(t.messages);
    return qp_failed(t.ctx) ? cli_failed(t.ctx) : t.status;
}

static const cli_option options[] = {
    CLI_DIALOGUE_OPTIONS,
    {"system", 0, CLI_TEXT, "TEXT", NULL, "the system message", 0, 0, false},
    {"load", 0, CLI_TEXT, "FILE", NULL, "a conversation to go on with, as /save writes it", 0, 0, false},
    {"tokens", 'n', CLI_INT, "N", "0", "tokens of a reply at most; 0: as many as there is room for", 0, 1e9,
     false},
    {"temp", 0, CLI_NUMBER, "X", "0.7", "temperature; 0: always the likeliest token", 0, 1e5, false},
    {"top-k", 0, CLI_INT, "K", "0", "of the K likeliest only; 0: all", 0, 1e9, false},
    {"top-p", 0, CLI_NUMBER, "P", "0.95", "of the likeliest that hold this share only; 1: all", 0, 1, false},
    {"min-p", 0, CLI_NUMBER, "P", "0", "of those at least P times the likeliest only; 0: all", 0, 1, false},
    {"repeat-penalty", 0, CLI_NUMBER, "X", "1", "above 1: what has occurred gets less likely", 0, 1e5, false},
    {0}};

QP_VERB(chat) = {.name = "chat",
                 .summary = "talk with a model",
                 .arguments = "",
                 .options = options,
                 .examples = "  quipu chat -m SmolLM2-135M-Instruct.Q4_1.gguf\n"
                             "  quipu chat -m my-model --system \"You answer in one sentence.\" --temp 0\n"
                             "  echo \"What is a quipu?\" | quipu chat -m my-model\n",
                 .run = run};
