/* out/samples.jsonl: text that a model writes while it is trained, a line {"step", "prompt", "text"}
 * for each sample. */
#ifndef QUIPU_CLI_SAMPLES_H
#define QUIPU_CLI_SAMPLES_H

#include <jansson.h>

#include "cli/cli.h"

typedef struct {
    const qp_training_set *set;
    uint64_t               seed;
    char                   path[4096];
    json_t                *lines; /* those of steps before a resume, too */
    int32_t                prompt[16];
    int                    prompt_count;
    qp_text                prompt_text;
} cli_samples;

/* Goes on behind `step` (0: anew); samples of later steps are dropped. What is continued are the first
 * tokens of the validation data, the end token where there is none. False after storing an error. */
bool cli_samples_open(cli_samples *s, const qp_training_set *set, uint64_t seed, const char *out, int64_t step);
/* Lets the model write, as if nothing had been written for the training; the new line, NULL where it
 * has no step form or after an error. */
const json_t *cli_samples_add(cli_samples *s, int64_t step);
void cli_samples_close(cli_samples *s);

#endif
