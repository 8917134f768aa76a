/* Being told when the mixers and feed-forwards of a model run. */
#ifndef QUIPU_CLI_WATCH_H
#define QUIPU_CLI_WATCH_H

#include "cli/cli.h"

typedef struct {
    /* x: what goes in; y: what comes out, without the residual. Either may be NULL. */
    void (*before)(void *user, int64_t layer, bool ffn, qp_tensor x);
    void (*after)(void *user, int64_t layer, bool ffn, qp_tensor y);
    void *user;
} cli_watcher;

typedef struct cli_watch cli_watch;

/* Until cli_unwatch the model must run whole sequences only. The watcher must live as long. NULL after storing
 * an error. */
cli_watch *cli_watch_model(qp_model *m, const cli_watcher *w);
void cli_unwatch(cli_watch *w); /* NULL is allowed */

#endif
