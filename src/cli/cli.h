/* The command: a verb is one file with one descriptor. Help, parsing and checking of options
 * derive from its table. */
#ifndef QUIPU_CLI_CLI_H
#define QUIPU_CLI_CLI_H

#include <stdio.h>

#include "quipu/quipu.h"

typedef enum {
    CLI_FLAG,
    CLI_INT,
    CLI_NUMBER,
    CLI_TEXT,
    CLI_CHOICE, /* one of the words of `value`: "fp32|bf16" */
    CLI_LIST    /* one or more texts, repeatable */
} cli_kind;

typedef struct {
    const char *name;   /* "steps" for --steps */
    char        letter; /* 'n' for -n, 0: none */
    cli_kind    kind;
    const char *value;    /* what help calls it: "N" */
    const char *fallback; /* text of the value when not given; NULL: none */
    const char *help;
    double      low, high; /* of numbers; both 0: any */
    bool        required;
} cli_option;

typedef struct cli cli;

typedef struct {
    const char       *name, *summary;
    const char       *arguments; /* "FILE [FILE]..." in usage, "" for none */
    int               min_arguments, max_arguments;
    const cli_option *options;  /* ends with {0}; those of every verb are added */
    const char       *examples; /* lines */
    int (*run)(cli *c);         /* the exit status */
} cli_verb;

#define QP_VERB(name) \
    extern const cli_verb cli_verb_##name; \
    const cli_verb        cli_verb_##name
extern const cli_verb *const cli_verbs[];

extern const cli_option cli_common[]; /* the options of every verb */
/* The verb's options, then the common ones; NULL past the end. */
const cli_option *cli_option_at(const cli_verb *v, int i);

/* Values: as given, or the fallback. */
bool cli_flag(const cli *c, const char *name);
bool cli_given(const cli *c, const char *name);
int64_t cli_int(const cli *c, const char *name);
double cli_number(const cli *c, const char *name);
const char *cli_text(const cli *c, const char *name);
int cli_choice(const cli *c, const char *name); /* which of the words, from 0 */
const char **cli_list(const cli *c, const char *name, int *count);
char *cli_command(const cli *c); /* the options as given, for a shell; malloc'ed, NULL: no memory */
const char *cli_argument(const cli *c, int index);

/* A context with the options of the command (threads, seed). It is closed by main; Ctrl-C and
 * SIGTERM cancel it. NULL after an error message. */
qp_ctx *cli_open(cli *c);
bool cli_interrupted(void);

/* "quipu: ..." on stderr; returns 1, or 2 for wrong usage. cli_failed reports the context's
 * failure (130 when it was an interruption). */
int cli_error(const char *format, ...) QP_PRINTF(1, 2);
int cli_usage(const cli *c, const char *format, ...) QP_PRINTF(2, 3);
int cli_failed(qp_ctx *ctx);
/* A remark on stderr, where progress would be shown too. */
void cli_remark(const cli *c, const char *format, ...) QP_PRINTF(2, 3);
char *cli_shown(char *text); /* its control bytes become '?'; for texts from files */

/* Progress on stderr: one line, redrawn, only on a terminal and not with --quiet. */
typedef struct {
    bool    on;
    double  started, shown;
    int64_t total;
} cli_progress;
cli_progress cli_progress_start(const cli *c, int64_t total);
/* text: what stands behind the bar. */
void cli_progress_show(cli_progress *p, int64_t done, const char *format, ...) QP_PRINTF(3, 4);
void cli_progress_end(cli_progress *p);
double cli_now(void); /* seconds */

/* "1h 02m", "3m 20s", "12s"; "1.5 GiB". The text is the caller's buffer. */
const char *cli_duration(double seconds, char out[32]);
const char *cli_bytes(double bytes, char out[32]);

#endif
