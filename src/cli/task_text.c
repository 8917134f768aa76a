#include "cli/task_text.h"

#include "cli/open.h"
#include "format/checksum.h"

bool task_text_open(task_text *t, task_build *b) {
    qp_ctx *ctx = b->build.ctx;
    for (int i = 0; i < b->file_count && !qp_failed(ctx); i++) {
        qp_text text = {0};
        bool    ok = cli_read_text(ctx, b->files[i], &text);
        if (ok && qp_encode(ctx, b->tokenizer, text.data, text.count, (qp_encode_options){.literal = true},
                            &t->ids) != QP_OK)
            ok = false;
        qp_text_free(&text);
        if (!ok) return false;
    }
    t->split = t->ids.count - t->ids.count / 10;
    b->vocabulary = qp_tokenizer_size(b->tokenizer);
    b->fingerprint = qpi_checksum_of(0, t->ids.data, (size_t)t->ids.count * sizeof *t->ids.data);
    qp_text text = {0}; /* of the tests */
    int64_t n = t->ids.count - t->split;
    if (n > 0 && qp_decode(ctx, b->tokenizer, t->ids.data + t->split, n, true, &text) == QP_OK)
        b->bytes_per_token = (double)text.count / (double)n;
    qp_text_free(&text);
    return !qp_failed(ctx);
}

static int64_t places(const task_text *t, task_split split) {
    return split == TASK_TEST ? t->ids.count - t->split : t->split;
}

int64_t task_text_samples(const task_text *t, task_split split, int64_t length) {
    return (places(t, split) - 1) / length;
}

const int32_t *task_text_window(const task_text *t, task_random *r, task_split split, int64_t index,
                                int64_t length) {
    if (split == TASK_TEST) return t->ids.data + t->split + index * length;
    return t->ids.data + task_draw(r, (uint32_t)(t->split - length));
}
