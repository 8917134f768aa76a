#define _GNU_SOURCE
#include "cli/line.h"

#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#ifdef QUIPU_EDITLINE
#include <histedit.h>
#endif

struct cli_lines {
    bool                terminal;
    const char         *prompt;
    const volatile int *interrupted;
    char               *text;
    size_t              capacity;
#ifdef QUIPU_EDITLINE
    EditLine *editor;
    History  *history;
#endif
};

#ifdef QUIPU_EDITLINE

static char *show_prompt(EditLine *e) {
    cli_lines *l = NULL;
    el_get(e, EL_CLIENTDATA, &l);
    return (char *)(l && l->prompt ? l->prompt : "");
}

/* Waits for a byte; false: interrupted, at whatever moment. */
static bool await_byte(const volatile int *interrupted) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    sigset_t      none, before;
    int           n = -1;
    sigemptyset(&none);
    sigaddset(&none, SIGINT);
    pthread_sigmask(SIG_BLOCK, &none, &before);
    while (n < 0 && !*interrupted) {
        n = ppoll(&input, 1, NULL, &before);
        if (n < 0 && errno != EINTR) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n > 0 && !*interrupted;
}

/* libedit's own reader goes on after a signal; this one gives up. */
static int read_character(EditLine *e, wchar_t *out) {
    cli_lines *l = NULL;
    mbstate_t  state = {0};
    char       c;
    el_get(e, EL_CLIENTDATA, &l);
    for (int bytes = 0; bytes < 8; bytes++) {
        ssize_t n = await_byte(l->interrupted) ? read(0, &c, 1) : -1;
        if (n <= 0) return (int)n;
        size_t used = mbrtowc(out, &c, 1, &state);
        if (used == 0 || used == 1) return 1;
        if (used != (size_t)-2) state = (mbstate_t){0}, bytes = 0; /* not of this character set: passed over */
    }
    return -1;
}

static void open_editor(cli_lines *l) {
    HistEvent event;
    setlocale(LC_CTYPE, "");
    l->editor = el_init("quipu", stdin, stdout, stderr);
    l->history = history_init();
    if (l->history) history(l->history, &event, H_SETSIZE, 1000);
    if (!l->editor) return;
    el_set(l->editor, EL_CLIENTDATA, l);
    el_set(l->editor, EL_PROMPT, show_prompt);
    el_set(l->editor, EL_EDITOR, "emacs");
    el_set(l->editor, EL_GETCFN, read_character);
    if (l->history) el_set(l->editor, EL_HIST, history, l->history);
}

static bool edit(cli_lines *l, const char *start, ssize_t *n) {
    HistEvent event;
    int       count = 0;
    if (!l->editor) return false;
    el_set(l->editor, EL_PREP_TERM, 1); /* before the prompt: a Ctrl-D typed at it would be lost otherwise */
    if (start) el_push(l->editor, start);
    const char *text = el_gets(l->editor, &count);
    *n = -1;
    if (!text || count <= 0) {
        el_set(l->editor, EL_PREP_TERM, 0); /* the terminal as it was */
        return true;
    }
    if (l->history && text[0] != '\n') history(l->history, &event, H_ENTER, text);
    free(l->text);
    l->text = strdup(text);
    if (l->text) *n = count, l->capacity = (size_t)count + 1;
    return true;
}

static void close_editor(cli_lines *l) {
    if (l->history) history_end(l->history);
    if (l->editor) el_end(l->editor);
}

bool cli_lines_can_start(const cli_lines *l) { return l->terminal && l->editor; }

#else
static void open_editor(cli_lines *l) { (void)l; }
static void close_editor(cli_lines *l) { (void)l; }
static bool edit(cli_lines *l, const char *start, ssize_t *n) { return (void)l, (void)start, (void)n, false; }
bool cli_lines_can_start(const cli_lines *l) { return (void)l, false; }
#endif

cli_lines *cli_lines_open(void) {
    cli_lines *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->terminal = isatty(0) && isatty(1);
    if (l->terminal) open_editor(l);
    return l;
}

void cli_lines_close(cli_lines *l) {
    if (!l) return;
    close_editor(l);
    free(l->text);
    free(l);
}

/* Reading a line ends at Ctrl-C; writing goes on behind it, and nothing of it is lost. */
static void end_calls_at_interrupt(bool end) {
    struct sigaction action;
    sigaction(SIGINT, NULL, &action);
    action.sa_flags = end ? action.sa_flags & ~SA_RESTART : action.sa_flags | SA_RESTART;
    sigaction(SIGINT, &action, NULL);
}

cli_line_result cli_lines_next(cli_lines *l, const char *prompt, const char *start,
                               const volatile int *interrupted, char **line) {
    ssize_t n;
    l->prompt = prompt;
    l->interrupted = interrupted;
    if (*interrupted) return CLI_LINE_INTERRUPTED;
    if (!l->terminal || !edit(l, start, &n)) {
        if (l->terminal) printf("%s", prompt), fflush(stdout);
        end_calls_at_interrupt(true);
        n = getline(&l->text, &l->capacity, stdin);
        end_calls_at_interrupt(false);
        if (n < 0) clearerr(stdin);
    }
    if (*interrupted) return CLI_LINE_INTERRUPTED;
    if (n < 0) return CLI_LINE_END;
    while (n > 0 && (l->text[n - 1] == '\n' || l->text[n - 1] == '\r')) l->text[--n] = 0;
    *line = l->text;
    return CLI_LINE;
}
