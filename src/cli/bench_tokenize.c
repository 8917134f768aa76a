/* Text to ids and back, and learning a tokenizer, on the texts of --data. */
#include "cli/bench.h"
#include "cli/open.h"

typedef struct {
    bench        *b;
    qp_tokenizer *tokenizer;
    qp_text       text, back;
    qp_ids        ids;
} work;

static void encode(void *arg) {
    work *w = arg;
    w->ids.count = 0;
    if (qp_encode(w->b->ctx, w->tokenizer, w->text.data, w->text.count, (qp_encode_options){.literal = true},
                  &w->ids))
        return; /* the failure is stored */
}

static void decode(void *arg) {
    work *w = arg;
    w->back.count = 0;
    if (qp_decode(w->b->ctx, w->tokenizer, w->ids.data, w->ids.count, false, &w->back)) return;
}

/* A row of its own: mega the bytes of text, in millions. */
static void row(work *w, const char *what, double seconds, double mega) {
    bench_row(w->b,
              json_pack("{s:s, s:o, s:f, s:o, s:I}", "what", what, "seconds", cli_json_number(seconds),
                        "mbytes", mega, "mbytes_per_second", cli_json_number(mega / seconds), "tokens",
                        (json_int_t)w->ids.count),
              "%-7s %8.3f s  %8.1f MB/s", what, seconds, mega / seconds);
}

static void learn(work *w, int n, const char *const *files, int64_t size, double mega) {
    double        start = cli_now();
    qp_tokenizer *t = qp_tokenizer_train(w->b->ctx, n, files, (qp_bpe_options){.size = size});
    if (t) row(w, "learn", cli_now() - start, mega);
    if (!w->tokenizer) w->tokenizer = t;
}

static void run(bench *b) {
    work         w = {.b = b};
    int          n;
    const char **files = cli_list(b->c, "data", &n), *model = cli_text(b->c, "model");
    if (!n) qp_fail(b->ctx, QP_ERR_ARGUMENT, "bench tokenize: --data FILE is missing");
    for (int i = 0; i < n && !qp_failed(b->ctx); i++)
        if (!cli_read_text(b->ctx, files[i], &w.text)) break;
    double mega = (double)w.text.count * 1e-6;
    if (model && !qp_failed(b->ctx)) w.tokenizer = cli_tokenizer_open(b->ctx, model);
    if (!qp_failed(b->ctx)) bench_title(b, "%d threads, %.1f MB of text", qp_stats_of(b->ctx).threads, mega);
    if (!qp_failed(b->ctx) && (!model || cli_given(b->c, "size")))
        learn(&w, n, files, cli_int(b->c, "size"), mega);
    if (!qp_failed(b->ctx)) row(&w, "encode", bench_seconds(b, encode, &w), mega);
    if (!qp_failed(b->ctx)) row(&w, "decode", bench_seconds(b, decode, &w), mega);
    qp_text_free(&w.text);
    qp_text_free(&w.back);
    qp_ids_free(&w.ids);
}

const bench_kind bench_tokenize = {"tokenize", run};
