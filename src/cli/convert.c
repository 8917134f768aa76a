/* quipu convert: a model between a Hugging Face folder and a GGUF file, both ways. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "cli/gguf_target.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/writer.h"
#include "models/model.h"

/* ---- To a GGUF file: matrices in one type, or as they are ------------------------------------------------ */

static int64_t file_type_of(qp_dtype t) { return t == QP_F16 ? 1 : t == QP_BF16 ? 32 : 0; }

/* What of a folder is not in the file. */
static void remark_lost(cli *c, qp_model *m, const char *folder) {
    qp_embed_options options = {0};
    if (!gguf_has_vocabulary(qp_model_ctx(m), folder))
        cli_remark(c, "without a tokenizer: the folder has none");
    if (!qp_model_info_of(m).causal && qp_embed_options_load(m, folder, &options) == QP_OK &&
        (options.normalize || options.max_tokens))
        cli_remark(c,
                   "GGUF has no place for where texts are cut and whether vectors are divided by their length");
}

static bool to_file(cli *c, qp_ctx *ctx, const char *model, const char *out, int type) {
    gguf_target t;
    int64_t     file_type = 0;
    if (!gguf_check_out(ctx, out)) return false;
    bool         ok = gguf_target_open(&t, ctx, model);
    cli_progress progress = cli_progress_start(c, ok ? t.count : 0);
    t.progress = &progress;
    if (ok && t.file) qpi_gguf_integer(qpi_gguf_find(t.file, "general.file_type"), 0, &file_type);
    for (int64_t i = 0; ok && i < t.count; i++) {
        gguf_item *item = &t.items[i];
        bool       matrix = gguf_is_matrix(item);
        if (matrix && type >= 0) item->as.dtype = (qp_dtype)type;
        if (matrix && (type >= 0 || !t.file)) file_type = file_type_of(item->as.dtype);
    }
    ok = ok && gguf_target_save(&t, out, file_type);
    cli_progress_end(&progress);
    if (ok && t.model) remark_lost(c, t.model, model);
    gguf_target_close(&t);
    return ok;
}

/* ---- To a folder ------------------------------------------------------------------------------------------ */

static bool copy_file(qp_ctx *ctx, const char *from, const char *to, const char *name) {
    char      *source = qpi_path_join(from, name, &ctx->error), *target = qpi_path_join(to, name, &ctx->error);
    qpi_bytes *bytes = source && qpi_path_exists(source) ? qpi_bytes_open(source, QPI_MAP, &ctx->error) : NULL;
    bool       ok = target && (!bytes || qpi_write_file(target, bytes->data, (size_t)bytes->size, &ctx->error));
    qpi_bytes_release(bytes);
    free(source);
    free(target);
    return ok && !qp_failed(ctx);
}

static bool make_folder(qp_ctx *ctx, const char *to, const char *name) {
    char *folder = qpi_path_join(to, name, &ctx->error);
    bool  ok = folder && mkdir(folder, 0777) == 0;
    if (folder && !ok) qp_fail(ctx, QP_ERR_IO, "%s: cannot make the folder: %s", folder, strerror(errno));
    free(folder);
    return ok;
}

/* Of a module that stands in a folder of its own, as a sentence encoder's pooling: its config. */
static bool copy_module(qp_ctx *ctx, const char *from, const char *to, const char *module) {
    char name[300];
    if (!qpi_name_is_plain(module) || strlen(module) >= 256)
        return qp_fail(ctx, QP_ERR_FORMAT, "%s/modules.json: \"%.60s\" is no folder's name", from, module) ==
               QP_OK;
    snprintf(name, sizeof name, "%.255s/config.json", module);
    return make_folder(ctx, to, module) && copy_file(ctx, from, to, name);
}

static bool copy_modules(qp_ctx *ctx, const char *from, const char *to) {
    json_t *modules = qpi_json_load_in(from, "modules.json", &ctx->error);
    bool    ok = !qp_failed(ctx);
    for (size_t i = 0; ok && i < json_array_size(modules); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(modules, i), "path"));
        ok = !name || !*name || copy_module(ctx, from, to, name);
    }
    json_decref(modules);
    return ok;
}

/* What goes with the weights of a folder. */
static bool copy_rest(qp_ctx *ctx, const char *from, const char *to) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "modules.json",
                                        "sentence_bert_config.json",
                                        "config_sentence_transformers.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!copy_file(ctx, from, to, names[i])) return false;
    return copy_modules(ctx, from, to);
}

/* Takes over json. */
static bool write_json(qp_ctx *ctx, const char *to, const char *name, json_t *json) {
    char *path = qpi_path_join(to, name, &ctx->error);
    bool  ok = path && qpi_json_save(path, json, 2, &ctx->error);
    free(path);
    json_decref(json);
    return ok;
}

static const char *token_at(qp_file *f, const char *key, size_t *n) {
    int64_t        id;
    const char    *text = NULL;
    qpi_gguf_texts t = qpi_gguf_texts_of(qpi_gguf_find(f, "tokenizer.ggml.tokens"));
    if (!qpi_gguf_integer(qpi_gguf_find(f, key), 0, &id) || id < 0) return NULL;
    for (; id >= 0 && qpi_gguf_text(&t, &text, n); id--) continue;
    return id < 0 ? text : NULL;
}

/* tokenizer.json from the file's vocabulary, its template and its special tokens. */
static bool write_tokenizer(cli *c, qp_ctx *ctx, const char *model, qp_file *f, const char *to) {
    static const char *const ids[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                         {"tokenizer.ggml.eos_token_id", "eos_token"},
                                         {"tokenizer.ggml.padding_token_id", "pad_token"}};
    const char              *template = qp_file_meta(f, "tokenizer.chat_template"), *text;
    json_t                  *settings = json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast");
    size_t                   n;
    for (int i = 0; i < 3; i++)
        if ((text = token_at(f, ids[i][0], &n)))
            json_object_set_new(settings, ids[i][1], cli_json_text(text, n));
    if (template) json_object_set_new(settings, "chat_template", cli_json_name(template));
    bool          ok = write_json(ctx, to, "tokenizer_config.json", settings);
    char         *path = qpi_path_join(to, "tokenizer.json", &ctx->error);
    qp_tokenizer *t = ok && path && !qp_failed(ctx) ? qp_tokenizer_load(ctx, model) : NULL;
    if (t) {
        ok = qp_tokenizer_save(ctx, t, path) == QP_OK;
    } else if (ok) {
        cli_remark(c, "without a tokenizer: %s", qp_error(ctx));
        qp_clear(ctx);
    }
    free(path);
    return ok;
}

/* How an encoder's file says that vectors are made, as a folder says it; the mean needs no word. */
static bool write_pooling(qp_ctx *ctx, qp_model *m, const char *model, const char *to) {
    qp_embed_options options = {.pooling = QP_POOL_MEAN};
    if (!qp_model_info_of(m).causal && qp_embed_options_load(m, model, &options) != QP_OK) return false;
    if (options.pooling == QP_POOL_MEAN) return true;
    const char *mode = options.pooling == QP_POOL_CLS ? "pooling_mode_cls_token" : "pooling_mode_lasttoken";
    return make_folder(ctx, to, "1_Pooling") &&
           write_json(ctx, to, "1_Pooling/config.json",
                      json_pack("{s:I, s:b, s:b}", "word_embedding_dimension",
                                (json_int_t)qp_model_info_of(m).width, "pooling_mode_mean_tokens", 0, mode,
                                1)) &&
           write_json(ctx, to, "modules.json",
                      json_pack("[{s:i, s:s, s:s, s:s}, {s:i, s:s, s:s, s:s}]", "idx", 0, "name", "0", "path",
                                "", "type", "sentence_transformers.models.Transformer", "idx", 1, "name", "1",
                                "path", "1_Pooling", "type", "sentence_transformers.models.Pooling"));
}

static const char *dtype_text(qp_dtype t) {
    return t == QP_F16 ? "float16" : t == QP_BF16 ? "bfloat16" : "float32";
}

static bool grow(qp_ctx *ctx, qp_named **named, int64_t *room) {
    int64_t   wanted = *room ? 2 * *room : 256;
    qp_named *grown = realloc(*named, (size_t)wanted * sizeof *grown);
    if (!grown) return qp_fail(ctx, QP_ERR_MEMORY, "out of memory: names of weights") == QP_OK;
    *named = grown;
    *room = wanted;
    return true;
}

/* The type of a weight where the model came from. In memory matrices alone have it. */
static qp_dtype stored_type(const qp_model *m, const qp_file *f, const char *name, qp_tensor t) {
    int64_t  at = qp_file_find(f, name);
    size_t   n = strlen(m->preset->prefix);
    qp_dtype type = qp_dtype_of(t);
    if (at < 0 && n && !strncmp(name, m->preset->prefix, n)) at = qp_file_find(f, name + n);
    if (at >= 0) type = qp_file_at(f, at).dtype;
    return type == QP_F16 || type == QP_BF16 ? type : QP_F32;
}

/* Weights and config; each weight in its own type, or all of them in the one that is asked for. The config
 * says that of all, or f32, which loses nothing. */
static bool write_weights(qp_ctx *ctx, qp_model *m, const char *model, const qp_file *from, const char *to,
                          int type) {
    const char *name;
    qp_tensor   t;
    int64_t     n = 0, room = 0;
    qp_named   *named = NULL;
    char       *path = qpi_path_join(to, "model.safetensors", &ctx->error),
         *config = qpi_path_join(to, "config.json", &ctx->error);
    bool     ok = path && config;
    qp_dtype all = QP_F32;
    qp_scope s = qp_enter(ctx);
    for (; ok && qp_model_weight(m, n, false, &name, &t); n++) {
        if (n == room && !(ok = grow(ctx, &named, &room))) break;
        qp_dtype own = type >= 0 ? (qp_dtype)type : stored_type(m, from, name, t);
        all = n == 0 || all == own ? own : QP_F32;
        named[n] = (qp_named){name, type >= 0 ? gguf_round(model, name, t, own) : qp_cast(t, own)};
    }
    json_object_del(m->config, "torch_dtype"); /* its older name */
    if (ok) json_object_set_new(m->config, "dtype", json_string(dtype_text(all)));
    ok = ok && !qp_failed(ctx) && qpi_json_save(config, m->config, 2, &ctx->error) &&
         qp_file_save(ctx, path, n, named, (qp_save_options){.shard_bytes = UINT64_C(5000000000)}) == QP_OK;
    qp_leave(s);
    free(named);
    free(path);
    free(config);
    return ok;
}

/* Nothing is there, or an empty folder: what another model left would be taken for this one's. */
static bool is_free(qp_ctx *ctx, const char *out) {
    DIR                 *dir = opendir(out);
    const struct dirent *entry;
    bool                 other = !dir && qpi_path_exists(out);
    while (dir && (entry = readdir(dir)))
        other |= strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir) closedir(dir);
    if (other)
        qp_fail(ctx, QP_ERR_IO, "%s: exists already; expected the name of a new or an empty folder", out);
    return !other;
}

static bool fill_folder(cli *c, qp_ctx *ctx, const char *model, const char *out, int type) {
    bool      gguf = !qpi_path_is_folder(model);
    qp_model *m = qp_model_load(ctx, model, (qp_model_options){.as_stored = true});
    qp_file  *f = m ? qp_file_open(ctx, model, (qp_file_options){0}) : NULL;
    bool      ok = f && write_weights(ctx, m, model, f, out, type) &&
                   (gguf ? write_tokenizer(c, ctx, model, f, out) && write_pooling(ctx, m, model, out)
                         : copy_rest(ctx, model, out));
    qp_file_close(f);
    qp_model_close(m);
    return ok;
}

/* It appears complete or not at all. */
static bool to_folder(cli *c, qp_ctx *ctx, const char *model, const char *out, int type) {
    qpi_folder folder;
    if (!is_free(ctx, out) || !qpi_folder_open(&folder, out, &ctx->error)) return false;
    bool before = qp_no_grad(ctx, true), ok = fill_folder(c, ctx, model, folder.temporary, type);
    qp_no_grad(ctx, before);
    if (!ok) qpi_folder_abort(&folder);
    return ok && qpi_folder_finish(&folder);
}

/* ---- The verb ------------------------------------------------------------------------------------------------ */

static int find_type(const char *name) {
    static const qp_dtype types[] = {QP_F32, QP_F16, QP_BF16};
    for (int i = 0; name && i < 3; i++)
        if (!strcasecmp(name, qp_dtype_name(types[i]))) return (int)types[i];
    return name ? -2 : -1;
}

static int run(cli *c) {
    char        buffer[4096];
    const char *model = cli_model_path(cli_argument(c, 0), buffer), *out = cli_text(c, "out");
    int         type = find_type(cli_text(c, "type"));
    if (type == -2)
        return cli_usage(c, "--type %s is none of F32, F16, BF16 (quipu quantize has more)",
                         cli_text(c, "type"));
    if (!*out) return cli_usage(c, "--out: expected a name");
    qp_ctx *ctx = cli_open(c);
    if (!ctx) return 1;
    bool ok =
        qpi_ends_in(out, ".gguf") ? to_file(c, ctx, model, out, type) : to_folder(c, ctx, model, out, type);
    if (!ok || qp_failed(ctx)) return cli_failed(ctx);
    if (cli_flag(c, "json")) return cli_json_print(json_pack("{s:o}", "out", cli_json_name(out)));
    return 0;
}

static const cli_option options[] = {
    {"out", 'o', CLI_TEXT, "FILE.gguf|FOLDER", NULL,
     "what to write: a GGUF file by that name, otherwise a folder, which is new or empty", 0, 0, true},
    {"type", 0, CLI_TEXT, "TYPE", NULL,
     "F32, F16 or BF16 [each weight as it is; F32 where blocks become a folder]", 0, 0, false},
    {0}};

QP_VERB(convert) = {.name = "convert",
                    .summary = "a model between a Hugging Face folder and a GGUF file",
                    .arguments = "MODEL",
                    .min_arguments = 1,
                    .max_arguments = 1,
                    .options = options,
                    .examples = "  quipu convert my-model --out my-model.gguf --type F16\n"
                                "  quipu convert my-model.Q4_K_M.gguf --out my-model\n",
                    .run = run};
