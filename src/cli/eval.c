/* quipu eval: how well a model predicts texts.
 *
 * A text's tokens are taken in windows of `length` tokens that move on by `stride`, as in transformers'
 * documentation ("Perplexity of fixed-length models"): a window counts the tokens that no window before
 * it held, each predicted from those before it in the window, of which there are at least
 * length - stride. With a stride of the length the first token of each window is not predicted. Texts
 * are never joined. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/open.h"
#include "core/core.h"
#include "data/documents.h"
#include "format/reader.h"
#include "models/model.h"

#define LONGEST 4096 /* window where none was asked for */

typedef struct {
    cli         *c;
    qp_ctx      *ctx;
    cli_model    m;
    bool         special; /* texts begin behind a token that starts them */
    int64_t      length, stride, batch;
    qp_ids       ids;    /* of one text */
    int32_t     *inputs; /* [batch, length], rows so far: `rows`, the longest has `widest` */
    int64_t     *targets;
    int64_t      rows, widest, counted;
    qp_session  *session; /* of --kv: windows go through its rows; NULL: as whole sequences */
    double       loss;    /* sum over targets, in nats */
    int64_t      tokens, targeted, bytes, documents, windows; /* targeted: tokens that could be predicted */
    cli_progress progress;
    int64_t      done; /* bytes of texts */
} evaluation;

/* ---- Windows ------------------------------------------------------------------------------------ */

/* The mean loss of windows read as a session reads them. */
static qp_tensor session_loss(evaluation *e, qp_tensor ids, qp_tensor targets) {
    int64_t rows[65536];
    for (int64_t r = 0; r < e->rows; r++) {
        rows[r] = r;
        if (qp_session_truncate(e->session, r, 0) != QP_OK) break;
    }
    qp_tensor hidden = qp_session_hidden(e->session, ids, (qp_feed){.rows = rows});
    return qpi_output_loss(&e->m.model->output, hidden, targets, NULL);
}

/* The rows gathered so far through the model. */
static bool run_batch(evaluation *e) {
    if (cli_interrupted()) qp_fail(e->ctx, QP_ERR_CANCELLED, "cancelled");
    if (!e->rows || qp_failed(e->ctx)) return !qp_failed(e->ctx);
    int64_t shape[2] = {e->rows, e->widest};
    for (int64_t r = 1; r < e->rows; r++) { /* rows move together */
        memmove(e->inputs + r * e->widest, e->inputs + r * e->length, (size_t)e->widest * sizeof *e->inputs);
        memmove(e->targets + r * e->widest, e->targets + r * e->length, (size_t)e->widest * sizeof *e->targets);
    }
    qp_scope  s = qp_enter(e->ctx);
    bool      before = qp_no_grad(e->ctx, true);
    qp_tensor ids = qp_from(e->ctx, QP_I32, 2, shape, e->inputs),
              targets = qp_from(e->ctx, QP_I64, 2, shape, e->targets);
    qp_tensor loss = e->session ? session_loss(e, ids, targets) : qp_model_loss(e->m.model, ids, targets);
    e->loss += qp_item(loss) * (double)e->counted;
    qp_no_grad(e->ctx, before);
    qp_leave(s);
    e->tokens += e->counted;
    e->windows += e->rows;
    e->rows = e->widest = e->counted = 0;
    cli_progress_show(&e->progress, e->done >> 10, "KiB, perplexity %.4g, %.0f tokens/s",
                      exp(e->loss / (double)e->tokens), (double)e->tokens / (cli_now() - e->progress.started));
    return !qp_failed(e->ctx);
}

/* Tokens begin..end-1, of which those from `from` on count. */
static bool add_window(evaluation *e, int64_t begin, int64_t from, int64_t end) {
    int64_t        n = end - 1 - begin;
    const int32_t *ids = e->ids.data + begin;
    int32_t       *inputs = e->inputs + e->rows * e->length;
    int64_t       *targets = e->targets + e->rows * e->length;
    for (int64_t i = 0; i < e->length; i++) { /* what is behind a text's end is seen by nothing that counts */
        inputs[i] = i < n ? ids[i] : 0;
        targets[i] = i < n && begin + i + 1 >= from ? ids[i + 1] : -100;
    }
    e->counted += end - from;
    if (n > e->widest) e->widest = n;
    return ++e->rows < e->batch || run_batch(e);
}

/* ---- Texts ---------------------------------------------------------------------------------------- */

/* The token that a text begins behind; -1: it has none, or the tokenizer adds its own. */
static int32_t first_token(const evaluation *e) {
    int32_t id = e->m.begin >= 0 ? e->m.begin : e->m.end_count ? e->m.ends[0] : -1;
    return e->special && id < e->m.info.vocabulary ? id : -1;
}

/* Bytes of the first token, which is not a target. */
static int64_t first_bytes(evaluation *e) {
    qp_text text = {0};
    bool    ok = qp_decode(e->ctx, e->m.tokenizer, e->ids.data, 1, false, &text) == QP_OK;
    int64_t n = ok ? (int64_t)text.count : 0;
    qp_text_free(&text);
    return n;
}

static bool encode(evaluation *e, const qpi_document *d) {
    qp_encode_options options = {.wrap = e->special, .literal = true};
    int32_t           first = first_token(e);
    e->ids.count = 0;
    if (options.wrap && qp_encode(e->ctx, e->m.tokenizer, "", 0, options, &e->ids) != QP_OK) return false;
    bool own = e->ids.count > 0;
    e->ids.count = 0;
    if (!own && first >= 0 && !cli_append_id(e->ctx, &e->ids, first)) return false;
    if (qp_encode(e->ctx, e->m.tokenizer, (const char *)d->text, d->size, options, &e->ids) != QP_OK)
        return false;
    e->bytes += (int64_t)d->size - (!own && first < 0 && e->ids.count ? first_bytes(e) : 0);
    return true;
}

static bool add_documents(void *user, const qpi_document *documents, size_t n) {
    evaluation *e = user;
    for (size_t i = 0; i < n; i++) {
        int64_t before = e->done;
        if (documents[i].size == 0) continue;
        if (!encode(e, &documents[i])) return false;
        e->documents++;
        int64_t count = e->ids.count, seen = 1; /* nothing predicts the first */
        e->targeted += count > 1 ? count - 1 : 0;
        for (int64_t begin = 0; seen < count; begin += e->stride) {
            int64_t end = begin + e->length < count ? begin + e->length : count,
                    from = seen > begin ? seen : begin + 1;
            e->done = before + (int64_t)((double)documents[i].size * (double)end / (double)count);
            if (from < end && !add_window(e, begin, from, end)) return false;
            seen = end;
        }
    }
    return true;
}

/* ---- The verb --------------------------------------------------------------------------------------- */

static bool prepare(evaluation *e, const char *const *files, int n) {
    cli *c = e->c;
    if (!cli_model_open(e->ctx, cli_text(c, "model"), true, &e->m)) return false;
    if (!e->m.info.causal)
        return qp_fail(e->ctx, QP_ERR_UNSUPPORTED,
                       "%s sees the tokens that it would have to predict: it is not causal",
                       e->m.info.model_type) == QP_OK;
    int64_t most = e->m.info.positions < LONGEST ? e->m.info.positions : LONGEST;
    e->length = cli_given(c, "length") ? cli_int(c, "length") : most;
    e->stride = cli_given(c, "stride") ? cli_int(c, "stride") : (e->length + 1) / 2;
    e->batch = cli_int(c, "batch");
    if (e->stride > e->length) {
        qp_fail(e->ctx, QP_ERR_ARGUMENT, "--stride is %" PRId64 ", expected at most the length, %" PRId64,
                e->stride, e->length);
        return false;
    }
    if (cli_given(c, "kv") && !(e->session = cli_session(e->m.model, e->batch, e->length, cli_text(c, "kv"))))
        return false;
    e->inputs = calloc((size_t)(e->batch * e->length), sizeof *e->inputs);
    e->targets = calloc((size_t)(e->batch * e->length), sizeof *e->targets);
    if (!e->inputs || !e->targets) {
        qp_fail(e->ctx, QP_ERR_MEMORY,
                "out of memory: %" PRId64 " windows (--batch) of %" PRId64 " tokens (--length)", e->batch,
                e->length);
        return false;
    }
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        qpi_bytes *bytes = qpi_bytes_open(files[i], QPI_MAP, &e->ctx->error);
        if (!bytes) return false;
        total += (int64_t)bytes->size;
        qpi_bytes_release(bytes);
    }
    e->progress = cli_progress_start(c, total >> 10);
    return true;
}

static int report(const evaluation *e) {
    double mean = e->loss / (double)e->tokens,
           bits = e->bytes ? mean * (double)e->targeted / log(2) / (double)e->bytes : NAN;
    double seconds = cli_now() - e->progress.started;
    if (cli_flag(e->c, "json"))
        return cli_json_print(json_pack(
            "{s:o, s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "perplexity", cli_json_number(exp(mean)),
            "bits_per_byte", cli_json_number(bits), "tokens", (json_int_t)e->tokens, "loss",
            cli_json_number(mean), "bytes", (json_int_t)e->bytes, "documents", (json_int_t)e->documents,
            "windows", (json_int_t)e->windows, "length", (json_int_t)e->length, "stride", (json_int_t)e->stride,
            "seconds", seconds, "tokens_per_second", (double)e->tokens / seconds));
    printf(
        "perplexity     %.4f\nbits per byte  %.4f\nloss           %.4f nats per token\ntokens         %" PRId64
        " in %" PRId64 " texts, %" PRId64 " bytes\nwindows        %" PRId64 " tokens, moving by %" PRId64 "\n",
        exp(mean), bits, mean, e->tokens, e->documents, e->bytes, e->length, e->stride);
    return 0;
}

static int run(cli *c) {
    evaluation   e = {.c = c, .ctx = cli_open(c), .special = !cli_flag(c, "no-special")};
    int          n;
    const char **files = cli_list(c, "data", &n);
    if (!e.ctx) return 1;
    bool ok = prepare(&e, files, n);
    for (int i = 0; ok && i < n; i++)
        ok = qpi_documents_read(files[i], cli_text(c, "field"), NULL, NULL, add_documents, &e, &e.ctx->error);
    ok = ok && run_batch(&e);
    cli_progress_end(&e.progress);
    if (ok && !e.tokens)
        qp_fail(e.ctx, QP_ERR_ARGUMENT, "%s%s: no tokens to predict", files[0], n > 1 ? ", .." : "");
    int status = qp_failed(e.ctx) ? cli_failed(e.ctx) : report(&e);
    qp_ids_free(&e.ids);
    free(e.inputs);
    free(e.targets);
    return status;
}

static const cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model folder or GGUF file", 0, 0, true},
    {"data", 0, CLI_LIST, "FILE", NULL, "a text each, or .jsonl: a text in each line; texts are never joined",
     0, 0, true},
    {"length", 0, CLI_INT, "T", NULL, "tokens of a window [the model's positions, at most 4096]", 2, 1e9,
     false},
    {"stride", 0, CLI_INT, "N", NULL, "how far windows move; each token counts once [half the length]", 1, 1e9,
     false},
    {"batch", 'b', CLI_INT, "B", "4", "windows at a time", 1, 65536, false},
    {"kv", 0, CLI_CHOICE, "f32|bf16|f16|q8_0", NULL, "read as when writing, with keys and values kept in this",
     0, 0, false},
    {"no-special", 0, CLI_FLAG, NULL, NULL,
     "texts do not begin behind a start or end token: their first token only helps", 0, 0, false},
    {"field", 0, CLI_TEXT, "KEY", "text", "of JSON lines", 0, 0, false},
    {0}};

QP_VERB(eval) = {.name = "eval",
                 .summary = "perplexity and bits per byte of texts",
                 .arguments = "",
                 .options = options,
                 .examples = "  quipu eval -m my-model --data test.txt --json\n"
                             "  quipu eval -m my-model --data a.jsonl b.jsonl --length 512 --stride 256\n",
                 .run = run};
