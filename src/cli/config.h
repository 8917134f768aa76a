/* Configs as verbs take them: --preset or --config, keys changed by --set. */
#ifndef QUIPU_CLI_CONFIG_H
#define QUIPU_CLI_CONFIG_H

#include <jansson.h>

#include "cli/cli.h"

/* The preset or file with the keys of --set. NULL after a message. */
json_t *cli_config_read(const cli *c);
/* The KEY=VALUE of --set: VALUE is JSON, or else a string; dots go into objects. False after a message. */
bool cli_config_set(const cli *c, json_t *config);

#endif
