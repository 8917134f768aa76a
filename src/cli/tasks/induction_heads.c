/* Induction heads (Olsson et al. 2022, arXiv:2209.11895; as a task: Gu & Dao 2023, arXiv:2312.00752,
 * section 4.1.2): a mark stands somewhere among random tokens and once more at the end, where the token that
 * followed it the first time is to be said. Short rows to train on, long ones to test (--test-length), tell
 * whether it was understood. */
#include "cli/task.h"

typedef struct {
    int64_t kinds;
} induction;

static const qp_option options[] = {{.name = "vocab",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 16,
                                     .low = 2,
                                     .high = 65536,
                                     .help = "kinds of tokens, the mark among them"},
                                    {0}};

static bool open(void *self, task_build *b) {
    b->vocabulary = qp_setting_int(&b->build, "vocab");
    ((induction *)self)->kinds = b->vocabulary - 1;
    return true;
}

static const char *refuses(const void *self, int64_t length) {
    (void)self;
    return length < 3 ? "fewer than a mark, a token and a mark" : NULL;
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    int64_t kinds = ((const induction *)self)->kinds, mark = kinds;
    (void)split, (void)index;
    int64_t at = task_draw(r, (uint32_t)(length - 2));
    for (int64_t i = 0; i < length - 1; i++) ids[i] = i == at ? mark : task_draw(r, (uint32_t)kinds);
    ids[length - 1] = mark;
    labels[length - 1] = ids[at + 1];
}

QP_TASK(induction_heads) = {.part = {.name = "induction_heads",
                                     .source = "arXiv:2209.11895, arXiv:2312.00752",
                                     .help = "what followed a mark is to be said when it comes again",
                                     .options = options,
                                     .bytes = sizeof(induction)},
                            .length = 128,
                            .open = open,
                            .refuses = refuses,
                            .fill = fill};
