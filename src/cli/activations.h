/* What goes through a model: means and variances of activations, of their gradients and of attention's logits.
 */
#ifndef QUIPU_CLI_ACTIVATIONS_H
#define QUIPU_CLI_ACTIVATIONS_H

#include <jansson.h>

#include "cli/cli.h"

/* `quipu inspect --activations PATH`: path is a model, a config or a preset's name. The exit status. */
int activations_run(cli *c, qp_ctx *ctx, const char *path);

#endif
