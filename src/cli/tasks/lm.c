/* The next token of a text (Shannon 1951, doi:10.1002/j.1538-7305.1951.tb01366.x). */
#include "cli/task_text.h"

static bool open(void *self, task_build *b) { return task_text_open(self, b); }
static void close(void *self) { qp_ids_free(&((task_text *)self)->ids); }

static int64_t samples(const void *self, task_split split, int64_t length) {
    return task_text_samples(self, split, length);
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    const int32_t *window = task_text_window(self, r, split, index, length);
    for (int64_t i = 0; i < length; i++) {
        ids[i] = window[i];
        labels[i] = window[i + 1];
    }
}

QP_TASK(lm) = {.part = {.name = "lm",
                        .source = "doi:10.1002/j.1538-7305.1951.tb01366.x",
                        .help = "the next token of a text (--data)",
                        .bytes = sizeof(task_text)},
               .files = true,
               .reveals = true,
               .length = 256,
               .open = open,
               .close = close,
               .samples = samples,
               .fill = fill};
