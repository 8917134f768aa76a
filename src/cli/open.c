#include "cli/open.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/reader.h"

const char *cli_model_path(const char *path, char buffer[4096]) {
    if (!qpi_path_is_folder(path) || snprintf(buffer, 4096, "%s/config.json", path) >= 4096 ||
        qpi_path_exists(buffer))
        return path;
    if (snprintf(buffer, 4096, "%s/latest/config.json", path) >= 4096 || !qpi_path_exists(buffer)) return path;
    snprintf(buffer, 4096, "%s/latest", path);
    return buffer;
}

/* ---- Tokenizers ------------------------------------------------------------------------------- */

static qp_tokenizer *bytes_tokenizer(qp_ctx *ctx, int64_t vocabulary) {
    qp_tokenizer *t = qp_tokenizer_bytes(ctx);
    if (t && vocabulary == 256) qp_tokenizer_set_end(t, -1);
    return t;
}

qp_tokenizer *cli_tokenizer_open(qp_ctx *ctx, const char *path) {
    char buffer[4096];
    path = cli_model_path(path, buffer);
    if (!qpi_path_is_folder(path)) return qp_tokenizer_load(ctx, path);
    bool there = false;
    for (int i = 0; i < 2; i++) {
        char *file = qpi_path_join(path, i ? "tokenizer.model" : "tokenizer.json", &ctx->error);
        there |= file && qpi_path_exists(file);
        free(file);
    }
    if (there) return qp_tokenizer_load(ctx, path);
    json_t *config = qpi_json_load_in(path, "config.json", &ctx->error);
    int64_t vocabulary = json_integer_value(json_object_get(config, "vocab_size"));
    json_decref(config);
    if (qp_failed(ctx)) return NULL;
    if (vocabulary == 256 || vocabulary == 257) return bytes_tokenizer(ctx, vocabulary);
    if (vocabulary)
        qp_fail(ctx, QP_ERR_FORMAT,
                "%s: no tokenizer.json, and a vocabulary of %lld is not that of bytes (257)", path,
                (long long)vocabulary);
    else qp_fail(ctx, QP_ERR_FORMAT, "%s: no tokenizer.json", path);
    return NULL;
}

/* ---- Models ------------------------------------------------------------------------------------- */

static void add_end(cli_model *m, const qpi_json *at) {
    if (!json_is_integer(at->value))
        qpi_json_fail(at, QP_ERR_FORMAT, "expected a whole number or a list of them, found %s",
                      qpi_json_kind(at->value));
    else if (m->end_count == CLI_MAX_ENDS)
        qpi_json_fail(at, QP_ERR_UNSUPPORTED, "more than %d tokens", CLI_MAX_ENDS);
    else if (json_integer_value(at->value) >= 0 && json_integer_value(at->value) <= INT32_MAX)
        m->ends[m->end_count++] = (int32_t)json_integer_value(at->value);
}

/* Takes over config. */
static void read_ends(qp_ctx *ctx, json_t *config, const char *name, cli_model *m) {
    if (!json_is_object(config)) {
        json_decref(config);
        return;
    }
    qpi_json root = qpi_json_root(name, config, &ctx->error), ends = qpi_json_member(&root, "eos_token_id");
    int64_t  begin = -1;
    if (!m->end_count && json_is_array(ends.value))
        for (size_t i = 0; i < json_array_size(ends.value); i++) {
            qpi_json at = qpi_json_item(&ends, i);
            add_end(m, &at);
        }
    else if (!m->end_count && ends.value && !json_is_null(ends.value)) add_end(m, &ends);
    qpi_json_integer(&root, "bos_token_id", QPI_OPTIONAL, -1, INT32_MAX, &begin);
    if (m->begin < 0) m->begin = (int32_t)begin;
    json_decref(config);
}

static void read_folder_ends(qp_ctx *ctx, const char *folder, const char *name, cli_model *m) {
    char *path = qpi_path_join(folder, name, &ctx->error);
    if (path) read_ends(ctx, qpi_json_load_in(folder, name, &ctx->error), path, m);
    free(path);
}

static void add_ends(cli_model *m, const int32_t *ends, int n) {
    for (int i = 0; i < n && m->end_count < CLI_MAX_ENDS; i++) {
        bool there = false;
        for (int k = 0; k < m->end_count; k++) there |= m->ends[k] == ends[i];
        if (!there) m->ends[m->end_count++] = ends[i];
    }
}

bool cli_model_open(qp_ctx *ctx, const char *folder, bool with_tokenizer, cli_model *out) {
    char buffer[4096];
    *out = (cli_model){.begin = -1};
    folder = cli_model_path(folder, buffer);
    if (!qpi_path_is_folder(folder) && !qpi_path_is_gguf(folder)) {
        qp_fail(ctx, QP_ERR_IO, "%s: %s", folder,
                qpi_path_exists(folder) ? "expected a model's folder or a GGUF file"
                                        : "no such folder or file");
        return false;
    }
    /* first, because a missing tokenizer is known at once and weights take a while */
    if (with_tokenizer && !(out->tokenizer = cli_tokenizer_open(ctx, folder))) return false;
    if (qpi_path_is_folder(folder)) {
        read_folder_ends(ctx, folder, "generation_config.json", out);
        read_folder_ends(ctx, folder, "config.json", out);
    }
    if (qp_failed(ctx) || !(out->model = qp_model_load(ctx, folder, (qp_model_options){.as_stored = true})))
        return false;
    if (!qpi_path_is_folder(folder)) {
        const char *config = qp_model_config(out->model);
        read_ends(ctx, qpi_json_parse(folder, config, strlen(config), &ctx->error), folder, out);
    }
    /* A folder's configs say it all; GGUF names one end, and its vocabulary the others. */
    const int32_t *ends = NULL;
    int            end_count = out->tokenizer ? qp_tokenizer_ends(out->tokenizer, &ends) : 0;
    if (!out->end_count || !qpi_path_is_folder(folder)) add_ends(out, ends, end_count);
    out->info = qp_model_info_of(out->model);
    qp_set_training(qp_model_module(out->model), false);
    return true;
}

void cli_round_products(qp_ctx *ctx, qp_model *m) {
    qp_state_dict dict = qp_module_state(qp_model_module(m));
    int           matrices = 0, halves = 0;
    for (int i = 0; i < dict.count; i++) {
        matrices += qp_ndim(dict.entries[i].tensor) == 2;
        halves += qp_ndim(dict.entries[i].tensor) == 2 && qp_dtype_of(dict.entries[i].tensor) == QP_BF16;
    }
    if (matrices && halves == matrices) qp_autocast(ctx, QP_BF16);
}

/* ---- Texts ---------------------------------------------------------------------------------------- */

bool cli_append(qp_ctx *ctx, qp_text *text, const void *data, size_t n) {
    if (!n) return true;
    char *grown = qpi_grown(text->data, &text->capacity, text->count + n, 1);
    if (!grown) return qp_fail(ctx, QP_ERR_MEMORY, "out of memory: text") == QP_OK;
    text->data = grown;
    memcpy(grown + text->count, data, n);
    text->count += n;
    return true;
}

bool cli_read_text(qp_ctx *ctx, const char *path, qp_text *text) {
    if (strcmp(path, "-")) {
        qpi_bytes *bytes = qpi_bytes_open(path, QPI_READ, &ctx->error);
        bool       ok = bytes && cli_append(ctx, text, bytes->data, bytes->size);
        qpi_bytes_release(bytes);
        return ok;
    }
    char   block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stdin)) > 0 && !cli_interrupted())
        if (!cli_append(ctx, text, block, n)) return false;
    if (cli_interrupted()) qp_fail(ctx, QP_ERR_CANCELLED, "cancelled");
    else if (ferror(stdin)) qp_fail(ctx, QP_ERR_IO, "stdin: cannot read: %s", strerror(errno));
    return !qp_failed(ctx);
}

/* ---- Ids ------------------------------------------------------------------------------------------ */

bool cli_kv_type(qp_ctx *ctx, const char *name, qp_session_options *options) {
    static const qp_dtype types[] = {QP_F32, QP_BF16, QP_F16, QP_Q8_0};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        options->kv = types[i];
        if (!strcmp(name, qp_dtype_name(types[i]))) return true;
    }
    return !qp_fail(ctx, QP_ERR_ARGUMENT, "--kv %.40s: expected f32, bf16, f16 or q8_0", name);
}

qp_session *cli_session(qp_model *m, int64_t rows, int64_t positions, const char *kv) {
    qp_session_options options;
    char               why[300];
    qp_ctx            *ctx = qp_model_ctx(m);
    if (!cli_kv_type(ctx, kv, &options)) return NULL;
    qp_session *s = qp_session_new(m, rows, positions, options);
    int64_t     block = qp_dtype_block(options.kv);
    if (s || block == 1 || qp_error_code(ctx) != QP_ERR_ARGUMENT) return s;
    snprintf(why, sizeof why, "%s", qp_error(ctx));
    qp_clear(ctx);
    qp_fail(ctx, QP_ERR_ARGUMENT, "--kv %s needs heads whose width is a multiple of %lld: %s", kv,
            (long long)block, why);
    return NULL;
}

bool cli_append_id(qp_ctx *ctx, qp_ids *ids, int32_t id) {
    size_t   capacity = (size_t)ids->capacity;
    int32_t *grown = qpi_grown(ids->data, &capacity, (size_t)ids->count + 1, sizeof *grown);
    if (!grown) return qp_fail(ctx, QP_ERR_MEMORY, "out of memory: ids") == QP_OK;
    ids->data = grown;
    ids->capacity = (int64_t)capacity;
    ids->data[ids->count++] = id;
    return true;
}

bool cli_parse_ids(qp_ctx *ctx, char *text, int64_t limit, const char *where, qp_ids *out) {
    static const char blanks[] = " \t\r\n";
    for (char *word = strtok(text, blanks); word; word = strtok(NULL, blanks)) {
        char *end;
        errno = 0;
        long long id = strtoll(word, &end, 10);
        if (*end || errno || id < 0 || id >= limit) {
            qp_fail(ctx, QP_ERR_FORMAT, "%s: \"%.40s\" is not a token's id below %lld", where, word,
                    (long long)limit);
            return false;
        }
        if (!cli_append_id(ctx, out, (int32_t)id)) return false;
    }
    return true;
}
