/* Prompt look-up (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): where the last n tokens
 * stood before, most recently, what followed them there. Longer n-grams first. */
#include "infer/drafter.h"

#define DEPTH 8
#define NGRAM 3

/* Token i of the row's text, the pending one behind it. */
static int32_t at(const qpi_tree *t, const int32_t *text, int64_t length, int64_t i) {
    return i < length ? text[i] : t->ids[0];
}

/* Where the n tokens at the end stood before: the place behind them, -1 if nowhere. */
static int64_t find(const qpi_tree *t, const int32_t *text, int64_t length, int64_t n) {
    int64_t end = length + 1;
    for (int64_t stop = end - 1; stop >= n; stop--) {
        int64_t k = 1;
        while (k <= n && at(t, text, length, stop - k) == at(t, text, length, end - k)) k++;
        if (k > n) return stop;
    }
    return -1;
}

static void guess(const qp_drafter *d, qpi_tree *t) {
    const int32_t *text = qpi_row_tokens(d->target, t->row);
    int64_t        length = d->target->row[t->row].length, place = -1;
    int64_t        depth = d->options.depth ? d->options.depth : DEPTH;
    for (int64_t n = d->options.ngram ? d->options.ngram : NGRAM; n > 0 && place < 0; n--)
        if (n <= length) place = find(t, text, length, n);
    for (int64_t i = 0; i < depth && place >= 0 && place + i <= length; i++)
        if (!qpi_tree_add(t, at(t, text, length, place + i), t->count - 1)) return;
}

static void draft(qp_drafter *d, int n, qpi_tree *const *trees) {
    for (int i = 0; i < n; i++) guess(d, trees[i]);
}

static const qpi_drafter_type type = {.name = "lookup", .draft = draft};

qp_drafter *qp_drafter_lookup(qp_session *target, qp_drafter_options options) {
    return qpi_drafter_new(&type, sizeof(qp_drafter), target, options);
}
