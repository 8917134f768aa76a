/* quipu inspect: what a file or a model's folder holds. Everything is gathered as JSON, which
 * --json prints as it is. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/activations.h"
#include "cli/config.h"
#include "cli/json.h"
#include "cli/open.h"
#include "core/core.h"
#include "data/tokenizer.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/os.h"
#include "models/model.h"

#define COUNT_CAP ((size_t)2 << 30) /* bytes that counting a config's parameters may take */

/* ---- Tensors ------------------------------------------------------------------------------------ */

static json_t *shape_of(const qp_file_entry *e) {
    json_t *shape = json_array();
    for (int i = 0; i < e->ndim; i++) json_array_append_new(shape, json_integer((json_int_t)e->shape[i]));
    return shape;
}

/* Lists of a GGUF file, by their lengths. */
static void add_arrays(const qp_file *file, json_t *metadata) {
    const qpi_gguf_value *v;
    char                  text[64];
    for (size_t i = 0; (v = qpi_gguf_at(file, i)); i++) {
        if (!v->array) continue;
        snprintf(text, sizeof text, "[%" PRIu64 " %s]", v->count, qpi_gguf_kind_name(v->kind));
        json_object_set_new_nocheck(metadata, v->key, json_string(text));
    }
}

static json_t *gather_tensors(const qp_file *file, const char *path) {
    json_t    *tensors = json_array(), *metadata = json_object();
    json_int_t elements = 0, bytes = 0;
    for (int64_t i = 0; i < qp_file_count(file); i++) {
        qp_file_entry e = qp_file_at(file, i);
        json_int_t    count = 1;
        for (int k = 0; k < e.ndim; k++) count *= (json_int_t)e.shape[k];
        elements += count;
        bytes += (json_int_t)e.bytes;
        json_array_append_new(tensors, json_pack("{s:o, s:o, s:o, s:I}", "name", cli_json_name(e.name), "dtype",
                                                 cli_json_name(e.type_name), "shape", shape_of(&e), "bytes",
                                                 (json_int_t)e.bytes));
    }
    const char *key, *value;
    for (int64_t i = 0; qp_file_meta_at(file, i, &key, &value); i++)
        json_object_set_new_nocheck(metadata, key, cli_json_name(value));
    add_arrays(file, metadata);
    return json_pack("{s:s, s:o, s:I, s:I, s:I, s:o, s:o}", "kind", "tensors", "path", cli_json_name(path),
                     "count", (json_int_t)qp_file_count(file), "parameters", elements, "bytes", bytes,
                     "metadata", metadata, "tensors", tensors);
}

static json_t *inspect_tensors(qp_ctx *ctx, const char *path) {
    qp_file *file = qp_file_open(ctx, path, (qp_file_options){0});
    json_t  *all = file ? gather_tensors(file, path) : NULL;
    qp_file_close(file);
    return all;
}

/* ---- Tokenizers ----------------------------------------------------------------------------------- */

/* The names of a tokenizer's parts, in the order in which they work. */
static json_t *components_of(const qp_tokenizer *t) {
    static const qpi_part parts[] = {QPI_PART_NORMALIZER, QPI_PART_PRETOKENIZER, QPI_PART_POST,
                                     QPI_PART_DECODER};
    json_t               *all = json_object();
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        qpi_buffer names = {0};
        if (t->parts[parts[i]] && qpi_part_names(t, parts[i], &names))
            json_object_set_new(all, qpi_part_keys[parts[i]], cli_json_text(names.data, names.count));
        qpi_buffer_free(&names);
    }
    return all;
}

static json_t *gather_tokenizer(const qp_tokenizer *t, const char *path) {
    json_t *special = json_array();
    for (int32_t i = 0; i < qp_tokenizer_size(t); i++)
        if (qp_tokenizer_is_special(t, i) && qp_tokenizer_token(t, i))
            json_array_append_new(special, json_pack("{s:i, s:o}", "id", (int)i, "token",
                                                     cli_json_name(qp_tokenizer_token(t, i))));
    return json_pack("{s:s, s:o, s:s, s:I, s:i, s:i, s:o, s:o}", "kind", "tokenizer", "path",
                     cli_json_name(path), "type", qp_tokenizer_kind(t), "size",
                     (json_int_t)qp_tokenizer_size(t), "begin", (int)qp_tokenizer_begin(t), "end",
                     (int)qp_tokenizer_end(t), "components", components_of(t), "special", special);
}

static json_t *inspect_tokenizer(qp_ctx *ctx, const char *path) {
    qp_tokenizer *t = cli_tokenizer_open(ctx, path);
    return t ? gather_tokenizer(t, path) : NULL;
}

/* ---- Configs ---------------------------------------------------------------------------------------- */

/* Parameters of the model that a config makes, -1 where making it takes too much memory. */
static json_int_t count_parameters(const char *path) {
    qp_ctx    *ctx = qp_open((qp_options){.threads = 1, .memory_cap = COUNT_CAP});
    qp_model  *m = ctx ? qp_model_load(ctx, path, (qp_model_options){.empty = true}) : NULL;
    json_int_t count = m ? (json_int_t)qp_model_info_of(m).parameters : -1;
    qp_close(ctx);
    return count;
}

static json_t *gather_config(qp_ctx *ctx, const char *path, bool count) {
    json_t *config = qpi_json_load(path, &ctx->error);
    if (!config) return NULL;
    json_t *all = json_pack("{s:s, s:o, s:O}", "kind", "config", "path", cli_json_name(path), "config", config);
    json_t *stack = cli_config_stack(ctx, path, config);
    json_decref(config);
    json_object_set_new(all, "runs", json_boolean(stack != NULL));
    if (stack) {
        json_int_t parameters = count ? count_parameters(path) : -1;
        json_object_set_new(all, "stack", stack);
        if (parameters >= 0) json_object_set_new(all, "parameters", json_integer(parameters));
    } else {
        json_object_set_new(all, "why", cli_json_name(qp_error(ctx)));
        qp_clear(ctx);
    }
    return all;
}

/* ---- Folders ------------------------------------------------------------------------------------------ */

static bool holds(qp_ctx *ctx, const char *folder, const char *name) {
    char *path = qpi_path_join(folder, name, &ctx->error);
    bool  there = path && qpi_path_exists(path);
    free(path);
    return there;
}

static json_t *inspect_folder(qp_ctx *ctx, const char *folder) {
    bool config = holds(ctx, folder, "config.json"), tokenizer = holds(ctx, folder, "tokenizer.json");
    bool weights =
        holds(ctx, folder, "model.safetensors") || holds(ctx, folder, "model.safetensors.index.json");
    if (!config && !tokenizer && !weights) {
        qp_fail(ctx, QP_ERR_FORMAT, "%s: a folder without config.json, model.safetensors and tokenizer.json",
                folder);
        return NULL;
    }
    json_t *all = NULL;
    if (config) {
        char *path = qpi_path_join(folder, "config.json", &ctx->error);
        all = path ? gather_config(ctx, path, !weights) : NULL;
        free(path);
    }
    if (!all) all = json_object();
    json_object_set_new(all, "kind", json_string("model"));
    json_object_set_new(all, "path", cli_json_name(folder));
    if (weights && !qp_failed(ctx)) {
        json_t *file = inspect_tensors(ctx, folder);
        json_object_set(all, "parameters", json_object_get(file, "parameters"));
        json_object_set_new(all, "weights", file ? file : json_null());
    }
    if ((tokenizer || config) && !qp_failed(ctx)) {
        json_t *t = inspect_tokenizer(ctx, folder);
        if (!t && !tokenizer) qp_clear(ctx); /* it has none */
        json_object_set_new(all, "tokenizer", t ? t : json_null());
    }
    if (!qp_failed(ctx)) return all;
    json_decref(all);
    return NULL;
}

/* ---- Which of them ------------------------------------------------------------------------------------- */

static json_t *inspect(qp_ctx *ctx, const char *path) {
    char buffer[4096];
    path = cli_model_path(path, buffer);
    if (qpi_path_is_folder(path)) return inspect_folder(ctx, path);
    if (qpi_ends_in(path, "tokenizer.model")) return inspect_tokenizer(ctx, path);
    if (!qpi_ends_in(path, ".json") || qpi_ends_in(path, ".safetensors.index.json"))
        return inspect_tensors(ctx, path);
    json_t *json = qpi_json_load(path, &ctx->error);
    bool    config = json_is_string(json_object_get(json, "model_type"));
    bool    tokenizer = json_is_object(json_object_get(json, "model"));
    json_decref(json);
    if (qp_failed(ctx)) return NULL;
    if (config) return gather_config(ctx, path, true);
    if (tokenizer) return inspect_tokenizer(ctx, path);
    qp_fail(ctx, QP_ERR_UNSUPPORTED,
            "%s: neither a model's config (model_type) nor a tokenizer (model) nor an index of "
            "tensors (its name ends in .safetensors.index.json)",
            path);
    return NULL;
}

/* ---- As text --------------------------------------------------------------------------------------------- */

static json_int_t number_of(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

/* Texts of a file may hold anything. */
static void print_shown(const char *format, const char *text) {
    char *copy = malloc(strlen(text) + 1);
    if (copy) printf(format, cli_shown(strcpy(copy, text)));
    free(copy);
}

static const char *count_text(double n, char out[32]) {
    static const char units[] = " KMBT";
    int               unit = 0;
    while (n >= 999.5 && unit < 4) n /= 1000, unit++;
    snprintf(out, 32, unit ? "%.1f%c" : "%.0f", n, units[unit]);
    return out;
}

static void print_totals(const json_t *file) {
    char count[32], bytes[32];
    printf("%" JSON_INTEGER_FORMAT " tensors, %s parameters, %s", number_of(file, "count"),
           count_text((double)number_of(file, "parameters"), count),
           cli_bytes((double)number_of(file, "bytes"), bytes));
}

static void print_tensors(const json_t *file) {
    const char *key;
    json_t     *value;
    size_t      i;
    print_shown("%s: ", cli_json_text_in(file, "path"));
    print_totals(file);
    printf("\n");
    json_object_foreach(json_object_get(file, "metadata"), key, value) {
        char shown[QPI_SHOWN];
        printf("metadata %s", qpi_shown(shown, key, strlen(key)));
        printf(" = %s\n", qpi_shown(shown, json_string_value(value), json_string_length(value)));
    }
    json_array_foreach(json_object_get(file, "tensors"), i, value) {
        char    bytes[32], shape[256] = "[";
        size_t  n = 1, k;
        json_t *size;
        json_array_foreach(json_object_get(value, "shape"), k, size) if (n < sizeof shape) n +=
            (size_t)snprintf(shape + n, sizeof shape - n,
                             k ? ", %" JSON_INTEGER_FORMAT : "%" JSON_INTEGER_FORMAT, json_integer_value(size));
        print_shown("%-8s ", cli_json_text_in(value, "dtype"));
        if (n < sizeof shape - 1) memcpy(shape + n, "]", 2);
        printf("%-20s %10s  ", shape, cli_bytes((double)number_of(value, "bytes"), bytes));
        print_shown("%s\n", cli_json_text_in(value, "name"));
    }
}

static void print_tokenizer(const json_t *t) {
    size_t  i;
    json_t *one;
    printf("%s, %" JSON_INTEGER_FORMAT " tokens", cli_json_text_in(t, "type"), number_of(t, "size"));
    json_array_foreach(json_object_get(t, "special"), i, one) {
        if (i == 8) {
            printf(", ...");
            break;
        }
        printf(i ? ", %" JSON_INTEGER_FORMAT " = " : "; special: %" JSON_INTEGER_FORMAT " = ",
               number_of(one, "id"));
        print_shown("%s", cli_json_text_in(one, "token"));
    }
    printf("\n");
    const char *key;
    json_object_foreach(json_object_get(t, "components"), key, one) {
        printf("  %-22s ", key);
        print_shown("%s\n", json_string_value(one));
    }
}

/* A value of the stack: a number, or a part with its settings. */
static void print_setting(const char *key, json_t *value) {
    const char *name;
    json_t     *setting;
    int         shown = 0;
    print_shown("%-24s ", key);
    if (!json_is_object(value)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        if (text) print_shown("%s", text);
        free(text);
    } else {
        print_shown("%s", cli_json_text_in(value, "type"));
        json_object_foreach(value, name, setting) {
            char *text = json_dumps(setting, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            if (text && strcmp(name, "type")) {
                printf(shown++ ? ", " : ": ");
                print_shown("%s ", name);
                print_shown("%s", text);
            }
            free(text);
        }
    }
    printf("\n");
}

static void print_config(const json_t *all) {
    const char *key;
    json_t     *value;
    char        count[32];
    print_shown("%s\n", cli_json_text_in(all, "path"));
    print_shown("model type               %s\n",
                cli_json_text_in(json_object_get(all, "config"), "model_type"));
    if (json_is_false(json_object_get(all, "runs")))
        print_shown("quipu cannot run it:     %s\n", cli_json_text_in(all, "why"));
    json_object_foreach(json_object_get(all, "stack"), key, value) if (strcmp(key, "model_type"))
        print_setting(key, value);
    if (json_object_get(all, "parameters"))
        printf("%-24s %s (%" JSON_INTEGER_FORMAT ")\n", "parameters",
               count_text((double)number_of(all, "parameters"), count), number_of(all, "parameters"));
    const json_t *weights = json_object_get(all, "weights"), *tokenizer = json_object_get(all, "tokenizer");
    if (weights) {
        printf("%-24s ", "weights");
        print_totals(weights);
        printf("\n");
    }
    if (json_is_object(tokenizer)) {
        printf("%-24s ", "tokenizer");
        print_tokenizer(tokenizer);
    }
}

static int run(cli *c) {
    static const char *const own[] = {"text", "length", "set", "plot"};
    for (int i = 0; i < 4 && !cli_flag(c, "activations"); i++)
        if (cli_given(c, own[i])) return cli_usage(c, "--%s goes with --activations", own[i]);
    qp_ctx *ctx = cli_open(c);
    if (!ctx) return 1;
    if (cli_flag(c, "activations")) return activations_run(c, ctx, cli_argument(c, 0));
    json_t *all = inspect(ctx, cli_argument(c, 0));
    if (qp_failed(ctx)) {
        json_decref(all);
        return cli_failed(ctx);
    }
    if (cli_flag(c, "json") || !all) return cli_json_print(all);
    const char *kind = cli_json_text_in(all, "kind");
    if (!strcmp(kind, "tensors")) {
        print_tensors(all);
    } else if (!strcmp(kind, "tokenizer")) {
        print_shown("%s: ", cli_json_text_in(all, "path"));
        print_tokenizer(all);
    } else {
        print_config(all);
    }
    json_decref(all);
    return 0;
}

static const cli_option options[] = {
    {"activations", 0, CLI_FLAG, NULL, NULL,
     "of a model, a config or a preset: moments of activations, gradients and logits by layer", 0, 0, false},
    {"text", 0, CLI_TEXT, "FILE", NULL, "with --activations: what is read; tokens drawn at random without it",
     0, 0, false},
    {"length", 0, CLI_INT, "T", "128", "with --activations: positions of each of 4 rows", 2, 1e6, false},
    {"set", 0, CLI_LIST, "KEY=VALUE", NULL, "with --activations: change a key of a config", 0, 0, false},
    {"plot", 0, CLI_TEXT, "FILE.html", NULL, "with --activations: a page of curves, too", 0, 0, false},
    {0}};

QP_VERB(inspect) = {
    .name = "inspect",
    .summary = "what a file or a model's folder holds",
    .arguments = "FILE|FOLDER|PRESET",
    .min_arguments = 1,
    .max_arguments = 1,
    .options = options,
    .examples = "  quipu inspect my-model\n"
                "  quipu inspect my-model/model.safetensors\n"
                "  quipu inspect my-model.Q4_K_M.gguf\n"
                "  quipu inspect my-model/tokenizer.json --json\n"
                "  quipu inspect --activations my-model --text book.txt --plot activations.html\n"
                "  quipu inspect --activations gpt2 --set n_layer=12\n",
    .run = run};
