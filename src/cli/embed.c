/* quipu embed: a vector for each line or JSON line. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/open.h"
#include "core/core.h"
#include "data/documents.h"
#include "format/buffer.h"
#include "format/os.h"
#include "format/writer.h"

typedef struct {
    cli             *c;
    qp_ctx          *ctx;
    cli_model        m;
    qp_embed_options options;
    qp_text          text;  /* all of them, one after another */
    size_t          *begin; /* where each begins; [count]: where the last ends */
    size_t           count, room;
    const char      *path;        /* of the file at hand, */
    size_t           first;       /* its first text */
    bool             takes_empty; /* a text without a character has tokens all the same */
    float           *vectors;     /* [count, D] */
    int64_t          tokens;
    double           seconds;
} job;

/* ---- Texts ---------------------------------------------------------------------------------- */

/* Does the tokenizer put something around a text? */
static bool ask_for_empty(job *j) {
    qp_ids ids = {0};
    bool   ok = qp_encode(j->ctx, j->m.tokenizer, "", 0, (qp_encode_options){.wrap = true}, &ids) == QP_OK;
    j->takes_empty = ids.count > 0;
    qp_ids_free(&ids);
    return ok;
}

static bool add_text(job *j, const void *text, size_t n) {
    if (!n && !j->takes_empty)
        return !qp_fail(j->ctx, QP_ERR_ARGUMENT, "%s: text %zu is empty, and the model has no token for that",
                        strcmp(j->path, "-") ? j->path : "stdin", j->count - j->first + 1);
    size_t *grown = qpi_grown(j->begin, &j->room, j->count + 2, sizeof *grown);
    if (!grown) return !qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: texts");
    j->begin = grown;
    if (!j->count) j->begin[0] = 0;
    if (!cli_append(j->ctx, &j->text, text, n)) return false;
    j->begin[++j->count] = j->text.count;
    return true;
}

static bool add_documents(void *user, const qpi_document *documents, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!add_text(user, documents[i].text, documents[i].size)) return false;
    return true;
}

static bool add_lines(job *j, const char *path) {
    qp_text all = {0};
    bool    ok = cli_read_text(j->ctx, path, &all);
    for (size_t at = 0, n; ok && at < all.count; at += n + 1) {
        const char *line = all.data + at, *end = memchr(line, '\n', all.count - at);
        n = end ? (size_t)(end - line) : all.count - at;
        ok = add_text(j, line, n && line[n - 1] == '\r' ? n - 1 : n);
    }
    qp_text_free(&all);
    return ok;
}

static bool read_texts(job *j) {
    static const char *const standard[] = {"-"};
    int                      n;
    const char *const       *files = (const char *const *)cli_list(j->c, "data", &n);
    if (!n) files = standard;
    for (int i = 0; i < (n ? n : 1); i++) {
        j->path = files[i];
        j->first = j->count;
        bool lines = !qpi_ends_in(files[i], ".jsonl") && !qpi_ends_in(files[i], ".ndjson");
        if (lines ? !add_lines(j, files[i])
                  : !qpi_documents_read(files[i], cli_text(j->c, "field"), NULL, NULL, add_documents, j,
                                        &j->ctx->error))
            return false;
    }
    return true;
}

/* ---- Vectors ----------------------------------------------------------------------------------- */

static bool compute(job *j) {
    const char **texts = calloc(j->count + 1, sizeof *texts);
    size_t      *bytes = calloc(j->count + 1, sizeof *bytes);
    j->vectors = calloc(j->count + 1, (size_t)j->m.info.width * sizeof *j->vectors);
    bool ok = texts && bytes && j->vectors;
    if (!ok) qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: vectors");
    for (size_t i = 0; i < j->count && ok; i++) {
        texts[i] = j->text.data + j->begin[i];
        bytes[i] = j->begin[i + 1] - j->begin[i];
    }
    double start = cli_now();
    ok = ok && qp_embed(j->m.model, j->m.tokenizer, (int64_t)j->count, texts, bytes, j->options, j->vectors,
                        &j->tokens) == QP_OK;
    j->seconds = cli_now() - start;
    free(texts);
    free(bytes);
    return ok;
}

static bool choose(job *j, const char *folder) {
    static const char *const names[] = {"mean", "cls", "last"};
    const char              *pool = cli_text(j->c, "pool");
    char                     buffer[4096];
    if (qp_embed_options_load(j->m.model, cli_model_path(folder, buffer), &j->options) != QP_OK) return false;
    if (cli_flag(j->c, "normalize")) j->options.normalize = true;
    if (cli_given(j->c, "max-tokens")) j->options.max_tokens = cli_int(j->c, "max-tokens");
    for (int i = 0; pool && i < 3; i++)
        if (!strcmp(pool, names[i])) j->options.pooling = (qp_pooling)i;
    return true;
}

/* ---- Out ---------------------------------------------------------------------------------------- */

/* NumPy's format 1.0: a header of a multiple of 64 bytes, then the numbers. */
static bool write_npy(const job *j, const char *path) {
    qpi_writer w;
    char       dict[128], header[128];
    int        n =
        snprintf(dict, sizeof dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %" PRId64 "), }",
                 j->count, j->m.info.width);
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(header + 10, dict, (size_t)n);
    header[sizeof header - 1] = '\n';
    if (!qpi_writer_open(&w, path, &j->ctx->error)) return false;
    bool ok = qpi_write(&w, header, sizeof header) &&
              qpi_write(&w, j->vectors, j->count * (size_t)j->m.info.width * sizeof *j->vectors) &&
              qpi_writer_finish(&w);
    qpi_writer_abort(&w);
    return ok;
}

static bool write_safetensors(const job *j, const char *path) {
    int64_t  shape[] = {(int64_t)j->count, j->m.info.width};
    qp_named named = {"embeddings", qp_from(j->ctx, QP_F32, 2, shape, j->vectors)};
    return qp_file_save(j->ctx, path, 1, &named, (qp_save_options){0}) == QP_OK;
}

static void print_lines(const job *j) {
    for (size_t i = 0; i < j->count; i++)
        for (int64_t k = 0; k < j->m.info.width; k++)
            printf("%.9g%c", j->vectors[i * (size_t)j->m.info.width + (size_t)k],
                   k + 1 < j->m.info.width ? ' ' : '\n');
}

static int print_json(const job *j, const char *out) {
    json_t *all =
        json_pack("{s:I, s:I, s:I, s:f}", "texts", (json_int_t)j->count, "dimensions",
                  (json_int_t)j->m.info.width, "tokens", (json_int_t)j->tokens, "seconds", j->seconds);
    if (out) json_object_set_new(all, "out", cli_json_name(out));
    json_t *rows = out ? NULL : json_array();
    for (size_t i = 0; i < j->count && rows; i++) {
        json_t *row = json_array();
        for (int64_t k = 0; k < j->m.info.width; k++)
            json_array_append_new(row, cli_json_number(j->vectors[i * (size_t)j->m.info.width + (size_t)k]));
        json_array_append_new(rows, row);
    }
    if (rows) json_object_set_new(all, "embeddings", rows);
    return cli_json_print(all);
}

static int report(job *j) {
    const char *out = cli_text(j->c, "out");
    if (out && !(qpi_ends_in(out, ".npy") ? write_npy(j, out) : write_safetensors(j, out)))
        return cli_failed(j->ctx);
    cli_remark(j->c, "%zu texts, %" PRId64 " tokens, %.0f texts/s", j->count, j->tokens,
               (double)j->count / j->seconds);
    if (cli_flag(j->c, "json")) return print_json(j, out);
    if (!out) print_lines(j);
    return 0;
}

static int run(cli *c) {
    const char *out = cli_text(c, "out"), *pool = cli_text(c, "pool");
    if (out && !qpi_ends_in(out, ".npy") && !qpi_ends_in(out, ".safetensors"))
        return cli_usage(c, "embed: --out %s: expected a name that ends in .npy or .safetensors", out);
    if (pool && strcmp(pool, "mean") && strcmp(pool, "cls") && strcmp(pool, "last"))
        return cli_usage(c, "embed: --pool %s: expected mean, cls or last", pool);
    job j = {.c = c, .ctx = cli_open(c)};
    if (!j.ctx) return 1;
    const char *folder = cli_text(c, "model");
    bool        ok = cli_model_open(j.ctx, folder, true, &j.m) && choose(&j, folder) && ask_for_empty(&j) &&
                     read_texts(&j) && compute(&j);
    int         status = ok ? report(&j) : cli_failed(j.ctx);
    free(j.vectors);
    free(j.begin);
    qp_text_free(&j.text);
    return status;
}

static const cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model folder or GGUF file", 0, 0, true},
    {"data", 0, CLI_LIST, "FILE", NULL, "a text in each line, or .jsonl [stdin]", 0, 0, false},
    {"pool", 0, CLI_TEXT, "HOW", NULL, "mean, cls or last position [what the folder says]", 0, 0, false},
    {"normalize", 0, CLI_FLAG, NULL, NULL, "vectors of length 1, also where the folder does not say so", 0, 0,
     false},
    {"max-tokens", 0, CLI_INT, "N", NULL, "longer texts are cut [what the folder says]", 1, 1e9, false},
    {"out", 'o', CLI_TEXT, "FILE", NULL, "write FILE.npy or FILE.safetensors instead of lines of numbers", 0, 0,
     false},
    {"field", 0, CLI_TEXT, "KEY", "text", "of JSON lines", 0, 0, false},
    {0}};

QP_VERB(embed) = {.name = "embed",
                  .summary = "vectors of texts",
                  .arguments = "",
                  .options = options,
                  .examples = "  echo \"How are you?\" | quipu embed -m all-MiniLM-L6-v2 --json\n"
                              "  quipu embed -m all-MiniLM-L6-v2 --data lines.txt --out vectors.npy\n",
                  .run = run};
