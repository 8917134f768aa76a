/* out/report.html: what a training did, in one file that needs no other. */
#ifndef QUIPU_CLI_REPORT_H
#define QUIPU_CLI_REPORT_H

#include "cli/cli.h"

typedef struct {
    int64_t step;
    char   *text;
} report_sample;

/* From out/log.jsonl, the model and samples of text. False after storing an error in its context. */
bool report_write(qp_model *m, const char *out, int sample_count, const report_sample *samples);

#endif
