#ifndef QUIPU_CLI_LINT_H
#define QUIPU_CLI_LINT_H

#include "cli/open.h"

/* Looks through the files of a model, a folder or a GGUF file: do they fit each other, is every element a
 * number, are the tokens there? Prints what it finds; the exit status. */
int cli_lint(cli *c, qp_ctx *ctx, const char *path);

#endif
