/* ListOps (Nangia & Bowman 2018, arXiv:1804.06028; as in the Long Range Arena: Tay et al. 2020,
 * arXiv:2011.04006): nested lists of digits under MAX, MIN, MED (median, rounded down) and SM (sum mod 10); the
 * value, a digit, is to be said at the last position. Lists have a quarter of the row or more; what is left of
 * the row stands before them. */
#include <stdlib.h>

#include "cli/task.h"

enum { PAD, DIGITS, OPERATORS = DIGITS + 10, CLOSE = OPERATORS + 4, VOCABULARY };
enum { MAXIMUM, MINIMUM, MEDIAN, SUM };
enum { MAX_ARGUMENTS = 32, ATTEMPTS = 400 };

typedef struct {
    int64_t depth, arguments;
} listops;

static const qp_option options[] = {{.name = "depth",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 10,
                                     .low = 1,
                                     .high = 20,
                                     .help = "of nested lists, at most"},
                                    {.name = "arguments",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 10,
                                     .low = 2,
                                     .high = MAX_ARGUMENTS,
                                     .help = "of a list, 2 to so many"},
                                    {0}};

static bool open(void *self, task_build *b) {
    listops *l = self;
    l->depth = qp_setting_int(&b->build, "depth");
    l->arguments = qp_setting_int(&b->build, "arguments");
    b->vocabulary = VOCABULARY;
    return true;
}

static const char *refuses(const void *self, int64_t length) {
    (void)self;
    return length < 8 ? "fewer than 8" : NULL;
}

typedef struct {
    const listops *l;
    task_random   *r;
    int64_t       *ids, count, room;
} writing;

static int by_value(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static int value_of(int operator, int *x, int n) {
    int sum = 0;
    qsort(x, (size_t)n, sizeof *x, by_value);
    for (int i = 0; i < n; i++) sum += x[i];
    switch (operator) {
    case MAXIMUM: return x[n - 1];
    case MINIMUM: return x[0];
    case MEDIAN: return (x[(n - 1) / 2] + x[n / 2]) / 2;
    default: return sum % 10;
    }
}

static void put(writing *w, int64_t id) {
    if (w->count < w->room) w->ids[w->count] = id;
    w->count++;
}

/* Writes a digit or a list, and gives its value; a quarter of what stands in a list are lists. Beyond the
 * room nothing more is nested. */
static int write_tree(writing *w, int64_t depth) {
    int x[MAX_ARGUMENTS];
    if (depth > w->l->depth || w->count > w->room || (depth > 1 && task_uniform(w->r) >= 0.25)) {
        int digit = (int)task_draw(w->r, 10);
        put(w, DIGITS + digit);
        return digit;
    }
    int operator = (int)task_draw(w->r, 4), n = 2 + (int)task_draw(w->r, (uint32_t)w->l->arguments - 1);
    put(w, OPERATORS + operator);
    for (int i = 0; i < n; i++) x[i] = write_tree(w, depth + 1);
    put(w, CLOSE);
    return value_of(operator, x, n);
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    listops l = *(const listops *)self;
    writing w = {&l, r, ids, 0, length};
    int     value = 0;
    (void)split, (void)index;
    for (int i = 0; i < ATTEMPTS; i++) {
        if (i == ATTEMPTS - 1) l.depth = 1, l.arguments = length < 12 ? 2 : 10; /* one list, which fits */
        w.count = 0;
        value = write_tree(&w, 1);
        if (w.count <= length && w.count >= length / 4) break;
    }
    for (int64_t i = w.count - 1, to = length - 1; to >= 0; i--, to--) ids[to] = i >= 0 ? ids[i] : PAD;
    labels[length - 1] = DIGITS + value;
}

QP_TASK(listops) = {.part = {.name = "listops",
                             .source = "arXiv:1804.06028, arXiv:2011.04006",
                             .help = "the value of nested lists of digits",
                             .options = options,
                             .bytes = sizeof(listops)},
                    .length = 128,
                    .open = open,
                    .refuses = refuses,
                    .fill = fill};
