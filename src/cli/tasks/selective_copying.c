/* Selective copying (Gu & Dao 2023, arXiv:2312.00752, section 4.1.1; the plain task: Arjovsky et al. 2016,
 * arXiv:1511.06464): M tokens stand at random places among noise; behind them come M marks, at each of which
 * one of the tokens is to be said, in order. Where their places are always the same (selective=false), a
 * convolution can learn it; otherwise a layer has to choose by content what it keeps. */
#include "cli/task.h"

enum { NOISE, MARK, FIRST };

typedef struct {
    int64_t tokens, kinds;
    bool    selective;
} copying;

static const qp_option options[] = {{.name = "tokens",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 16,
                                     .low = 1,
                                     .high = 4096,
                                     .help = "M, tokens to copy"},
                                    {.name = "vocab",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 16,
                                     .low = 3,
                                     .high = 65536,
                                     .help = "kinds of tokens, noise and mark among them"},
                                    {.name = "selective",
                                     .kind = QP_OPTION_BOOL,
                                     .fallback = 1,
                                     .high = 1,
                                     .help = "places are random; otherwise the first M"},
                                    {0}};

static bool open(void *self, task_build *b) {
    copying *c = self;
    c->tokens = qp_setting_int(&b->build, "tokens");
    b->vocabulary = qp_setting_int(&b->build, "vocab");
    c->kinds = b->vocabulary - FIRST;
    c->selective = qp_setting(&b->build, "selective") != 0;
    return true;
}

static const char *refuses(const void *self, int64_t length) {
    return length < 2 * ((const copying *)self)->tokens ? "shorter than the tokens and their copies" : NULL;
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    const copying *c = self;
    int64_t        places = length - c->tokens, put = 0;
    (void)split, (void)index;
    for (int64_t i = 0; i < places; i++) {
        bool here =
            c->selective ? task_draw(r, (uint32_t)(places - i)) < (uint32_t)(c->tokens - put) : put < c->tokens;
        ids[i] = NOISE;
        if (!here) continue;
        ids[i] = labels[places + put++] = FIRST + task_draw(r, (uint32_t)c->kinds);
    }
    for (int64_t i = places; i < length; i++) ids[i] = MARK;
}

QP_TASK(selective_copying) = {.part = {.name = "selective_copying",
                                       .source = "arXiv:2312.00752, arXiv:1511.06464",
                                       .help = "tokens among noise, to be said in order behind it",
                                       .options = options,
                                       .bytes = sizeof(copying)},
                              .length = 128,
                              .open = open,
                              .refuses = refuses,
                              .fill = fill};
