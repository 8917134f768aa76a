/* Text for tasks: the ids of files, of which the last tenth is for tests. */
#ifndef QUIPU_CLI_TASK_TEXT_H
#define QUIPU_CLI_TASK_TEXT_H

#include "cli/task.h"

typedef struct {
    qp_ids  ids;
    int64_t split; /* where tests begin */
} task_text;

bool task_text_open(task_text *t, task_build *b);
/* Windows of T ids and one more. */
int64_t task_text_samples(const task_text *t, task_split split, int64_t length);
/* The first id of a window: any place of the training part, or the index-th window of the tests. */
const int32_t *task_text_window(const task_text *t, task_random *r, task_split split, int64_t index,
                                int64_t length);

#endif
