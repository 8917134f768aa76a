/* Lines from a person or a pipe. */
#ifndef QUIPU_CLI_LINE_H
#define QUIPU_CLI_LINE_H

#include <stdbool.h>

typedef struct cli_lines cli_lines;

/* On a terminal with editing and history (libedit, where the build has it). NULL: no memory. */
cli_lines *cli_lines_open(void);
void cli_lines_close(cli_lines *l);

typedef enum { CLI_LINE, CLI_LINE_END, CLI_LINE_INTERRUPTED } cli_line_result;

/* The next line without its end, the reader's until the next call. prompt is shown on a terminal; start
 * (NULL: none) stands on the line already, where lines can be edited. *interrupted becomes true by a
 * signal handler. */
cli_line_result cli_lines_next(cli_lines *l, const char *prompt, const char *start,
                               const volatile int *interrupted, char **line);
bool cli_lines_can_start(const cli_lines *l); /* is start shown? */

#endif
