/* quipu tokenize: text to ids and back, line by line; learning a tokenizer from text. */
#define _GNU_SOURCE /* getline */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/open.h"

typedef struct {
    cli          *c;
    qp_ctx       *ctx;
    qp_tokenizer *tokenizer;
    bool          special; /* what the tokenizer puts around a text is added, and taken off again */
    qp_ids        around;  /* that is: what an empty text becomes */
    qp_ids        ids;
    qp_text       text;
    json_t       *lines; /* NULL: plain output */
    int64_t       line, tokens;
} job;

/* ---- One line ----------------------------------------------------------------------------------- */

static void encode_line(job *j, const char *line, size_t n) {
    j->ids.count = 0;
    if (qp_encode(j->ctx, j->tokenizer, line, n, (qp_encode_options){.wrap = j->special}, &j->ids) != QP_OK)
        return;
    j->tokens += j->ids.count;
    json_t *list = j->lines ? json_array() : NULL;
    for (int64_t i = 0; i < j->ids.count; i++)
        if (list) json_array_append_new(list, json_integer(j->ids.data[i]));
        else printf(i ? " %" PRId32 : "%" PRId32, j->ids.data[i]);
    if (list) json_array_append_new(j->lines, list);
    else putchar('\n');
}

static bool starts_with(const qp_ids *ids, int64_t at, const int32_t *data, int64_t n) {
    return at >= 0 && at + n <= ids->count &&
           (n == 0 || !memcmp(ids->data + at, data, (size_t)n * sizeof *data));
}

/* The range without what stands around a text; all of it where that is not there whole. */
static void take_off(const job *j, int64_t *from, int64_t *count) {
    const qp_ids *around = &j->around, *ids = &j->ids;
    *from = 0;
    *count = ids->count;
    if (ids->count < around->count) return;
    for (int64_t before = around->count; before >= 0; before--) {
        int64_t after = around->count - before;
        if (!starts_with(ids, 0, around->data, before) ||
            !starts_with(ids, ids->count - after, around->data + before, after))
            continue;
        *from = before;
        *count = ids->count - around->count;
        return;
    }
}

static void decode_line(job *j, char *line) {
    int64_t from, count;
    char    where[40];
    snprintf(where, sizeof where, "stdin: line %" PRId64, j->line);
    j->ids.count = 0;
    if (!cli_parse_ids(j->ctx, line, qp_tokenizer_size(j->tokenizer), where, &j->ids)) return;
    take_off(j, &from, &count);
    j->text.count = 0;
    if (count && qp_decode(j->ctx, j->tokenizer, j->ids.data + from, count, false, &j->text) != QP_OK) return;
    j->tokens += j->ids.count;
    if (j->lines) {
        json_array_append_new(j->lines, cli_json_text(j->text.data, j->text.count));
    } else {
        if (j->text.count) fwrite(j->text.data, 1, j->text.count, stdout);
        putchar('\n');
    }
}

/* ---- All lines ------------------------------------------------------------------------------------ */

static void each_line(job *j, bool decode) {
    char   *line = NULL;
    size_t  size = 0;
    ssize_t n;
    while (!qp_failed(j->ctx) && !cli_interrupted() && (n = getline(&line, &size, stdin)) >= 0) {
        j->line++;
        if (n && line[n - 1] == '\n') line[--n] = 0;
        if (!decode) encode_line(j, line, (size_t)n);
        else if (strlen(line) != (size_t)n)
            qp_fail(j->ctx, QP_ERR_FORMAT, "stdin: line %" PRId64 ": a zero byte among ids", j->line);
        else decode_line(j, line);
    }
    if (cli_interrupted()) qp_fail(j->ctx, QP_ERR_CANCELLED, "cancelled");
    else if (ferror(stdin)) qp_fail(j->ctx, QP_ERR_IO, "stdin: cannot read: %s", strerror(errno));
    free(line);
}

static int convert(cli *c, qp_ctx *ctx) {
    bool decode = cli_flag(c, "decode");
    job  j = {.c = c, .ctx = ctx, .special = !cli_flag(c, "no-special")};
    j.tokenizer = cli_tokenizer_open(ctx, cli_text(c, "model"));
    if (!j.tokenizer) return cli_failed(ctx);
    if (cli_flag(c, "json")) j.lines = json_array();
    if (!decode || !j.special ||
        qp_encode(ctx, j.tokenizer, "", 0, (qp_encode_options){.wrap = true}, &j.around) == QP_OK)
        each_line(&j, decode);
    int status = qp_failed(ctx) ? cli_failed(ctx) : 0;
    if (!status && j.lines)
        status = cli_json_print(
            json_pack("{s:O, s:I}", decode ? "texts" : "ids", j.lines, "tokens", (json_int_t)j.tokens));
    json_decref(j.lines);
    qp_ids_free(&j.around);
    qp_ids_free(&j.ids);
    qp_text_free(&j.text);
    return status;
}

/* ---- Learning --------------------------------------------------------------------------------------- */

static int train(cli *c, qp_ctx *ctx) {
    int            n;
    const char   **files = cli_list(c, "train", &n), *out = cli_text(c, "out");
    qp_bpe_options options = {.size = cli_int(c, "size"),
                              .min_count = cli_int(c, "min-count"),
                              .pattern = cli_text(c, "pattern"),
                              .field = cli_text(c, "field")};
    options.special = cli_list(c, "special", &options.special_count);
    double        start = cli_now();
    qp_tokenizer *t = qp_tokenizer_train(ctx, n, files, options);
    if (!t || qp_tokenizer_save(ctx, t, out) != QP_OK) return cli_failed(ctx);
    double seconds = cli_now() - start;
    char   duration[32];
    cli_remark(c, "%s: %" PRId64 " tokens, %s", out, qp_tokenizer_size(t), cli_duration(seconds, duration));
    if (!cli_flag(c, "json")) return 0;
    return cli_json_print(json_pack("{s:o, s:s, s:I, s:f}", "out", cli_json_name(out), "kind",
                                    qp_tokenizer_kind(t), "size", (json_int_t)qp_tokenizer_size(t), "seconds",
                                    seconds));
}

/* Any tokenizer as tokenizer.json. */
static int rewrite(cli *c, qp_ctx *ctx) {
    const char   *out = cli_text(c, "out");
    qp_tokenizer *t = cli_tokenizer_open(ctx, cli_text(c, "model"));
    if (!t || qp_tokenizer_save(ctx, t, out) != QP_OK) return cli_failed(ctx);
    cli_remark(c, "%s: %s, %" PRId64 " tokens", out, qp_tokenizer_kind(t), qp_tokenizer_size(t));
    if (!cli_flag(c, "json")) return 0;
    return cli_json_print(json_pack("{s:o, s:s, s:I}", "out", cli_json_name(out), "kind", qp_tokenizer_kind(t),
                                    "size", (json_int_t)qp_tokenizer_size(t)));
}

static int run(cli *c) {
    bool learn = cli_given(c, "train");
    if (learn == cli_given(c, "model")) return cli_usage(c, "tokenize: expected either --model or --train");
    if (learn && (!cli_given(c, "size") || !cli_given(c, "out")))
        return cli_usage(c, "tokenize: --train needs --size and --out");
    if (!learn && cli_given(c, "out") && cli_flag(c, "decode"))
        return cli_usage(c, "tokenize: --out writes the tokenizer; it takes no text");
    if (learn && cli_flag(c, "decode")) return cli_usage(c, "tokenize: --decode goes with --model");
    qp_ctx *ctx = cli_open(c);
    if (!ctx) return 1;
    return learn ? train(c, ctx) : cli_given(c, "out") ? rewrite(c, ctx) : convert(c, ctx);
}

static const cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model folder, GGUF file, tokenizer.json or tokenizer.model", 0, 0,
     false},
    {"decode", 'd', CLI_FLAG, NULL, NULL, "ids to text", 0, 0, false},
    {"no-special", 0, CLI_FLAG, NULL, NULL, "without the tokens that the tokenizer puts around a text", 0, 0,
     false},
    {"train", 0, CLI_LIST, "FILE", NULL, "learn a byte-level BPE from text files or .jsonl", 0, 0, false},
    {"size", 0, CLI_INT, "N", NULL, "tokens to learn, with the 256 bytes and the special ones", 257, 16777216,
     false},
    {"out", 'o', CLI_TEXT, "FILE", NULL, "the tokenizer.json to write: what was learnt, or what MODEL has", 0,
     0, false},
    {"min-count", 0, CLI_INT, "N", "1", "pairs that occur less often are not joined", 1, 1e15, false},
    {"pattern", 0, CLI_TEXT, "P", "gpt2",
     "how text is cut into words: gpt2, llama3, qwen2 or a regular expression", 0, 0, false},
    {"special", 0, CLI_LIST, "TEXT", NULL, "special tokens, ids from 0 [<|endoftext|>]", 0, 0, false},
    {"field", 0, CLI_TEXT, "KEY", "text", "of JSON lines", 0, 0, false},
    {0}};

QP_VERB(tokenize) = {
    .name = "tokenize",
    .summary = "text to token ids and back; learn a tokenizer",
    .arguments = "",
    .options = options,
    .examples = "  echo \"Hello world\" | quipu tokenize -m my-model\n"
                "  echo \"Hello world\" | quipu tokenize -m my-model | quipu tokenize -m my-model --decode\n"
                "  quipu tokenize -m model.gguf -o tokenizer.json\n"
                "  quipu tokenize --train book.txt --size 4096 --out tokenizer.json\n",
    .run = run};
