/* out/report.html: what a training did, in one file that needs no other. */
#ifndef QUIPU_CLI_REPORT_H
#define QUIPU_CLI_REPORT_H

#include <jansson.h>

#include "cli/cli.h"

/* From out/log.jsonl of --out, the model, the command and samples of text (cli_samples). False after
 * storing an error in the model's context. */
bool report_write(qp_model *m, const cli *c, const json_t *samples);

#endif
