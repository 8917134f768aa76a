/* Masked language modelling (BERT: Devlin et al. 2018, arXiv:1810.04805, section 3.1): of a text's tokens a
 * share is to be said; of these 8 in 10 are masked, 1 in 10 is another token, 1 in 10 stays. */
#include "cli/task_text.h"

typedef struct {
    task_text text;
    int64_t   vocabulary, mask;
    double    share;
} mlm;

static const qp_option options[] = {{.name = "share",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0.15,
                                     .low = 0.01,
                                     .high = 0.9,
                                     .help = "of the tokens that are to be said"},
                                    {0}};

static bool open(void *self, task_build *b) {
    mlm *m = self;
    if (!task_text_open(&m->text, b)) return false;
    m->share = qp_setting(&b->build, "share");
    m->vocabulary = b->vocabulary;
    m->mask = b->vocabulary++;
    return true;
}

static void close(void *self) { qp_ids_free(&((mlm *)self)->text.ids); }

static int64_t samples(const void *self, task_split split, int64_t length) {
    return task_text_samples(&((const mlm *)self)->text, split, length);
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    const mlm     *m = self;
    const int32_t *window = task_text_window(&m->text, r, split, index, length);
    int64_t        always = task_draw(r, (uint32_t)length); /* one at least */
    for (int64_t i = 0; i < length; i++) {
        double how = task_uniform(r);
        bool   said = task_uniform(r) < m->share || i == always;
        ids[i] = window[i];
        if (!said) continue;
        labels[i] = window[i];
        if (how < 0.8) ids[i] = m->mask;
        else if (how < 0.9) ids[i] = task_draw(r, (uint32_t)m->vocabulary);
    }
}

QP_TASK(mlm) = {.part = {.name = "mlm",
                         .source = "arXiv:1810.04805",
                         .help = "masked tokens of a text (--data)",
                         .options = options,
                         .bytes = sizeof(mlm)},
                .files = true,
                .both_sides = true,
                .length = 256,
                .open = open,
                .close = close,
                .samples = samples,
                .fill = fill};
