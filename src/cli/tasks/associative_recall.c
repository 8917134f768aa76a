/* Associative recall with several queries (Arora et al. 2023, arXiv:2312.04927; with one: Ba et al. 2016,
 * arXiv:1610.06258): first P pairs of a key and a value, then each key once more, at places that are mostly
 * near (the chance of a gap falls as 1 / gap), where its value is to be said. Between stands what means
 * nothing. */
#include <math.h>

#include "cli/task.h"

#define MAX_PAIRS 256

typedef struct {
    int64_t pairs, keys, values;
} recall;

static const qp_option options[] = {{.name = "pairs",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 8,
                                     .low = 1,
                                     .high = MAX_PAIRS,
                                     .help = "P, pairs to remember"},
                                    {.name = "keys",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 64,
                                     .low = 1,
                                     .high = 65536,
                                     .help = "keys that there are"},
                                    {.name = "values",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 64,
                                     .low = 1,
                                     .high = 65536,
                                     .help = "values that there are"},
                                    {0}};

static bool open(void *self, task_build *b) {
    recall *c = self;
    c->pairs = qp_setting_int(&b->build, "pairs");
    c->keys = qp_setting_int(&b->build, "keys");
    c->values = qp_setting_int(&b->build, "values");
    b->vocabulary = 1 + c->keys + c->values;
    if (c->keys >= c->pairs) return true;
    return !qp_fail(b->build.ctx, QP_ERR_ARGUMENT, "task associative_recall: %lld pairs of %lld keys",
                    (long long)c->pairs, (long long)c->keys);
}

static const char *refuses(const void *self, int64_t length) {
    return length < 3 * ((const recall *)self)->pairs ? "shorter than the pairs and their queries" : NULL;
}

/* One that is not among the first n. */
static int64_t draw_new(task_random *r, int64_t below, const int64_t *taken, int64_t n) {
    int64_t x = task_draw(r, (uint32_t)below), i;
    do {
        for (i = 0; i < n && taken[i] != x; i++) {
        }
        if (i < n) x = (x + 1) % below;
    } while (i < n);
    return x;
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    const recall *c = self;
    int64_t       keys[MAX_PAIRS], first = 2 * c->pairs, places = length - first;
    (void)split, (void)index;
    for (int64_t i = 0; i < length; i++) ids[i] = 0;
    for (int64_t i = 0; i < c->pairs; i++) {
        keys[i] = draw_new(r, c->keys, keys, i);
        ids[2 * i] = 1 + keys[i];
        ids[2 * i + 1] = 1 + c->keys + task_draw(r, (uint32_t)c->values);
    }
    for (int64_t i = 0; i < c->pairs; i++) {
        int64_t at = (int64_t)exp(task_uniform(r) * log((double)places + 1)) - 1; /* 0 .. places - 1 */
        while (ids[first + at]) at = (at + 1) % places;
        ids[first + at] = ids[2 * i];
        labels[first + at] = ids[2 * i + 1];
    }
}

QP_TASK(associative_recall) = {.part = {.name = "associative_recall",
                                        .source = "arXiv:2312.04927",
                                        .help = "pairs of keys and values, then keys whose value is to be said",
                                        .options = options,
                                        .bytes = sizeof(recall)},
                               .length = 128,
                               .open = open,
                               .refuses = refuses,
                               .fill = fill};
