/* quipu: verbs, options, help. */
#define _GNU_SOURCE /* sigaction, isatty */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "format/buffer.h"

struct cli {
    const cli_verb *verb;
    const char    **given; /* of each option, as cli_option_at counts them */
    const char    **list;  /* values of repeatable options, those of one option together */
    int            *list_option, list_count;
    const char    **arguments;
    int             argument_count;
    qp_ctx         *ctx;
};

const cli_option cli_common[] = {
    {"threads", 't', CLI_INT, "N", "0", "worker threads (0: one per processor)", 0, 1024, false},
    {"seed", 's', CLI_INT, "N", "0", "seed of all random draws", 0, 9e15, false},
    {"json", 0, CLI_FLAG, NULL, NULL, "print one JSON object", 0, 0, false},
    {"quiet", 'q', CLI_FLAG, NULL, NULL, "no progress, no remarks", 0, 0, false},
    {"help", 'h', CLI_FLAG, NULL, NULL, "this text", 0, 0, false},
    {0}};

/* ---- Options ------------------------------------------------------------------------------------- */

static int own_count(const cli_verb *v) {
    int n = 0;
    while (v->options && v->options[n].name) n++;
    return n;
}

const cli_option *cli_option_at(const cli_verb *v, int i) {
    int n = own_count(v);
    if (i < n) return &v->options[i];
    return i - n < (int)(sizeof cli_common / sizeof cli_common[0]) - 1 ? &cli_common[i - n] : NULL;
}

static int option_index(const cli_verb *v, const char *name, size_t length, char letter) {
    const cli_option *o;
    for (int i = 0; (o = cli_option_at(v, i)); i++)
        if (name ? strlen(o->name) == length && !memcmp(o->name, name, length) : o->letter == letter) return i;
    return -1;
}

static const char *value_of(const cli *c, const char *name) {
    int i = option_index(c->verb, name, strlen(name), 0);
    return i < 0 ? NULL : c->given[i] ? c->given[i] : cli_option_at(c->verb, i)->fallback;
}

bool cli_given(const cli *c, const char *name) {
    int i = option_index(c->verb, name, strlen(name), 0);
    if (i >= 0 && c->given[i]) return true;
    for (int k = 0; k < c->list_count; k++)
        if (c->list_option[k] == i) return true;
    return false;
}

/* A whole number, also as "1e6" and "2.5e3". */
static bool read_int(const char *text, int64_t *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (end != text && !*end && !errno) return true;
    double x = strtod(text, &end);
    if (end == text || *end || !(fabs(x) <= 0x1p53) || x != floor(x)) return false;
    *out = (int64_t)x;
    return true;
}

bool cli_flag(const cli *c, const char *name) { return value_of(c, name) != NULL; }
const char *cli_text(const cli *c, const char *name) { return value_of(c, name); }

double cli_number(const cli *c, const char *name) {
    const char *text = value_of(c, name);
    return text ? strtod(text, NULL) : 0;
}

int64_t cli_int(const cli *c, const char *name) {
    const char *text = value_of(c, name);
    int64_t     x = 0;
    return text && read_int(text, &x) ? x : 0;
}

/* Which of the words "a|b|c" the text is, -1: none. */
static int word_index(const char *words, const char *text) {
    size_t n = strlen(text);
    for (int i = 0; words; i++) {
        if (strcspn(words, "|") == n && !memcmp(words, text, n)) return i;
        words = strchr(words, '|');
        if (words) words++;
    }
    return -1;
}

int cli_choice(const cli *c, const char *name) {
    int i = option_index(c->verb, name, strlen(name), 0);
    return word_index(cli_option_at(c->verb, i)->value, value_of(c, name));
}

const char *cli_argument(const cli *c, int index) {
    return index < c->argument_count ? c->arguments[index] : NULL;
}

const char **cli_list(const cli *c, const char *name, int *count) {
    /* entries of one option stand together once parsing has sorted them */
    int first = -1, option = option_index(c->verb, name, strlen(name), 0);
    *count = 0;
    for (int i = 0; i < c->list_count; i++)
        if (c->list_option[i] == option) {
            if (first < 0) first = i;
            ++*count;
        }
    return first < 0 ? NULL : &c->list[first];
}

static void add_to_list(cli *c, int option, const char *text) {
    int at = c->list_count++;
    while (at > 0 && c->list_option[at - 1] > option) {
        c->list_option[at] = c->list_option[at - 1];
        c->list[at] = c->list[at - 1];
        at--;
    }
    c->list_option[at] = option;
    c->list[at] = text;
}

/* ---- The command as given ------------------------------------------------------------------------------ */

static void put_word(qpi_buffer *b, const char *word) {
    bool plain =
        word[0] &&
        !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=,+%@-")];
    qpi_put_text(b, plain ? " " : " '");
    for (; *word; word++)
        if (*word == '\'') qpi_put_text(b, "'\\''");
        else qpi_buffer_put(b, word, 1);
    if (!plain) qpi_put_text(b, "'");
}

char *cli_command(const cli *c) {
    qpi_buffer        b = {0};
    const cli_option *o;
    int               n;
    qpi_put_text(&b, "quipu");
    put_word(&b, c->verb->name);
    for (int i = 0; (o = cli_option_at(c->verb, i)); i++) {
        if (!cli_given(c, o->name)) continue;
        qpi_put_text(&b, " --");
        qpi_put_text(&b, o->name);
        const char **list = cli_list(c, o->name, &n);
        for (int k = 0; k < n; k++) put_word(&b, list[k]);
        if (!n && o->kind != CLI_FLAG) put_word(&b, c->given[i]);
    }
    for (int i = 0; i < c->argument_count; i++) put_word(&b, c->arguments[i]);
    qpi_buffer_put(&b, "", 1);
    if (!b.failed) return b.data;
    qpi_buffer_free(&b);
    return NULL;
}

/* ---- Messages --------------------------------------------------------------------------------------- */

/* Texts from outside may stand in a message: it stays one line and sends no control bytes to
 * the terminal. */
static void message(const char *format, va_list args, const char *behind) {
    char text[4096];
    vsnprintf(text, sizeof text, format, args);
    fprintf(stderr, "quipu: %s%s\n", cli_shown(text), behind);
}

char *cli_shown(char *text) {
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    return text;
}

int cli_error(const char *format, ...) {
    va_list args;
    va_start(args, format);
    message(format, args, "");
    va_end(args);
    return 1;
}

int cli_usage(const cli *c, const char *format, ...) {
    char    behind[64];
    va_list args;
    snprintf(behind, sizeof behind, " (see `quipu %s%s--help`)", c ? c->verb->name : "", c ? " " : "");
    va_start(args, format);
    message(format, args, behind);
    va_end(args);
    return 2;
}

void cli_remark(const cli *c, const char *format, ...) {
    va_list args;
    if (cli_flag(c, "quiet") || !isatty(2)) return;
    va_start(args, format);
    message(format, args, "");
    va_end(args);
}

int cli_failed(qp_ctx *ctx) {
    if (qp_error_code(ctx) == QP_ERR_CANCELLED) {
        cli_error("interrupted");
        return 130;
    }
    return cli_error("%s", qp_error(ctx));
}

/* ---- Parsing ------------------------------------------------------------------------------------------ */

static int check_number(const cli *c, const cli_option *o, const char *text) {
    char   *end;
    double  x = strtod(text, &end);
    int64_t whole;
    bool    is_number = end != text && !*end && isfinite(x) && !text[strspn(text, "0123456789+-.eE")];
    if (!is_number || (o->kind == CLI_INT && !read_int(text, &whole)))
        return cli_usage(c, "--%s is \"%s\", expected a %snumber", o->name, text,
                         o->kind == CLI_INT ? "whole " : "");
    if ((o->low != 0 || o->high != 0) && (x < o->low || x > o->high))
        return cli_usage(c, "--%s is %s, expected a number from %.15g to %.15g", o->name, text, o->low,
                         o->high);
    return 0;
}

static int take_value(cli *c, int index, const char *text) {
    const cli_option *o = cli_option_at(c->verb, index);
    if (o->kind == CLI_INT || o->kind == CLI_NUMBER) {
        int status = check_number(c, o, text);
        if (status) return status;
    }
    if (o->kind == CLI_CHOICE && word_index(o->value, text) < 0)
        return cli_usage(c, "--%s is \"%s\", expected one of %s", o->name, text, o->value);
    if (o->kind == CLI_LIST) add_to_list(c, index, text);
    else c->given[index] = text;
    return 0;
}

/* One option with its value or values: --name value, --name=value, -n value or -nvalue; *i
 * moves on. */
static int take_option(cli *c, int argc, char **argv, int *i) {
    const char *word = argv[*i], *joined = NULL;
    int         index;
    if (word[1] == '-') {
        const char *equals = strchr(word, '=');
        index = option_index(c->verb, word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2), 0);
        if (equals) joined = equals + 1;
    } else {
        index = option_index(c->verb, NULL, 0, word[1]);
        if (word[2]) joined = word + 2;
    }
    if (index < 0) return cli_usage(c, "%s: unknown option %s", c->verb->name, word);
    const cli_option *o = cli_option_at(c->verb, index);
    if (o->kind == CLI_FLAG) {
        if (joined) return cli_usage(c, "--%s takes no value", o->name);
        c->given[index] = "1";
        return 0;
    }
    if (joined) return take_value(c, index, joined);
    if (*i + 1 >= argc) return cli_usage(c, "%s needs a value", word);
    int status = take_value(c, index, argv[++*i]);
    while (!status && o->kind == CLI_LIST && *i + 1 < argc && argv[*i + 1][0] != '-')
        status = take_value(c, index, argv[++*i]);
    return status;
}

static int parse(cli *c, int argc, char **argv) {
    bool words_only = false;
    for (int i = 0; i < argc; i++) {
        if (!words_only && !strcmp(argv[i], "--")) {
            words_only = true;
        } else if (!words_only && argv[i][0] == '-' && argv[i][1]) {
            int status = take_option(c, argc, argv, &i);
            if (status) return status;
        } else {
            c->arguments[c->argument_count++] = argv[i];
        }
    }
    if (cli_flag(c, "help")) return 0;
    const cli_option *o;
    for (int i = 0; (o = cli_option_at(c->verb, i)); i++)
        if (o->required && !cli_given(c, o->name))
            return cli_usage(c, "%s: --%s is missing", c->verb->name, o->name);
    if (c->argument_count < c->verb->min_arguments)
        return cli_usage(c, "%s: expected %s", c->verb->name, c->verb->arguments);
    if (c->argument_count > c->verb->max_arguments)
        return cli_usage(c, "%s: unexpected argument \"%s\"", c->verb->name,
                         c->arguments[c->verb->max_arguments]);
    return 0;
}

/* ---- Help ------------------------------------------------------------------------------------------------ */

static void print_option(const cli_option *o) {
    char left[64];
    snprintf(left, sizeof left, "%s%c%s --%s%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
             o->letter ? "," : " ", o->name, o->value ? " " : "", o->value ? o->value : "",
             o->kind == CLI_LIST ? "..." : "");
    if (strlen(left) > 28) printf("  %s\n%31s%s", left, "", o->help);
    else printf("  %-28s %s", left, o->help);
    if (o->required) printf(" (required)");
    else if (o->fallback && o->fallback[0]) printf(" [%s]", o->fallback);
    printf("\n");
}

static void print_verb_help(const cli_verb *v) {
    const cli_option *o;
    printf("quipu %s: %s\n\nusage: quipu %s%s%s [options]\n\n", v->name, v->summary, v->name,
           v->arguments[0] ? " " : "", v->arguments);
    for (int i = 0; (o = cli_option_at(v, i)); i++) print_option(o);
    if (v->examples) printf("\nexamples:\n%s", v->examples);
}

static void print_help(FILE *out) {
    fprintf(out, "quipu %s: train, run and compare sequence models\n\nusage: quipu VERB [options]\n\n",
            qp_version());
    for (int i = 0; cli_verbs[i]; i++) fprintf(out, "  %-10s %s\n", cli_verbs[i]->name, cli_verbs[i]->summary);
    fprintf(out, "\n`quipu VERB --help` shows the options of a verb and examples.\n");
}

/* ---- Context and signals ------------------------------------------------------------------------------------
 */

static qp_ctx *volatile signalled_ctx;
static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
    if (signalled_ctx) qp_cancel(signalled_ctx);
}

bool cli_interrupted(void) { return interrupted; }

qp_ctx *cli_open(cli *c) {
    /* beyond the machine's memory an error is better than being killed, or others */
    long   pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t cap = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
    c->ctx = qp_open((qp_options){
        .threads = (int)cli_int(c, "threads"), .seed = (uint64_t)cli_int(c, "seed"), .memory_cap = cap});
    if (!c->ctx) {
        cli_error("out of memory");
        return NULL;
    }
    signalled_ctx = c->ctx;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return c->ctx;
}

static const cli_verb *find_verb(const char *name) {
    for (int i = 0; cli_verbs[i]; i++)
        if (!strcmp(cli_verbs[i]->name, name)) return cli_verbs[i];
    return NULL;
}

/* The status once all of stdout has arrived. */
static int flushed(int status) {
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0)
        return cli_error("cannot write to stdout: %s", errno ? strerror(errno) : "an earlier write failed");
    return status;
}

static int run_verb(cli *c, int argc, char **argv) {
    int status = parse(c, argc, argv);
    if (status) return status;
    if (cli_flag(c, "help")) {
        print_verb_help(c->verb);
        return 0;
    }
    status = c->verb->run(c);
    signalled_ctx = NULL;
    qp_close(c->ctx);
    return status;
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(word, "--version")) {
        printf("quipu %s\n", qp_version());
        return flushed(0);
    }
    bool help = !strcmp(word, "help");
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || (help && argc == 2)) {
        print_help(stdout);
        return flushed(0);
    }
    if (help) word = argv[2]; /* quipu help VERB */
    cli c = {.verb = find_verb(word)};
    if (!c.verb) return cli_usage(NULL, "no verb \"%s\"", word);
    int options = 0;
    while (cli_option_at(c.verb, options)) options++;
    c.given = calloc((size_t)options, sizeof *c.given);
    c.list = calloc((size_t)argc, sizeof *c.list);
    c.list_option = calloc((size_t)argc, sizeof *c.list_option);
    c.arguments = calloc((size_t)argc, sizeof *c.arguments);
    int status = 1;
    if (!c.given || !c.list || !c.list_option || !c.arguments) cli_error("out of memory");
    else status = help ? run_verb(&c, 1, (char *[]){"--help"}) : run_verb(&c, argc - 2, argv + 2);
    free(c.given);
    free(c.list);
    free(c.list_option);
    free(c.arguments);
    return flushed(status);
}
