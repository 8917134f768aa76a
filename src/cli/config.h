/* Configs as verbs take them: --preset or --config, keys changed by --set. */
#ifndef QUIPU_CLI_CONFIG_H
#define QUIPU_CLI_CONFIG_H

#include <jansson.h>

#include "cli/cli.h"

/* The preset or file, or the text `usual` where neither is given, with the keys of --set. NULL after a message.
 */
json_t *cli_config_read(const cli *c, const char *usual);
/* The KEY=VALUE of --set: VALUE is JSON, or else a string; dots go into objects. False after a message. */
bool cli_config_set(const cli *c, json_t *config);

/* The stack that a config means; NULL after storing an error: quipu cannot run it. */
json_t *cli_config_stack(qp_ctx *ctx, const char *name, json_t *config);

#endif
