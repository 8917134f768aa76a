/* quipu quantize: a model's weights in fewer bits, as a GGUF file. Which tensor gets which type follows
 * llama.cpp, so that a type's name means the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/gguf_target.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/os.h"
#include "format/reader.h"

/* ---- Recipes ---------------------------------------------------------------------------------------- */

typedef enum { PLAIN, Q2, Q3_S, Q3_M, Q3_L, Q4_S, Q4_M, Q5_M, IQ4 } recipe;

static const struct {
    const char *name;
    int         file_type; /* general.file_type */
    qp_dtype    base;
    recipe      recipe;
} types[] = {{"F32", 0, QP_F32, PLAIN},     {"F16", 1, QP_F16, PLAIN},     {"BF16", 32, QP_BF16, PLAIN},
             {"Q8_0", 7, QP_Q8_0, PLAIN},   {"Q4_0", 2, QP_Q4_0, PLAIN},   {"Q4_1", 3, QP_Q4_1, PLAIN},
             {"Q5_0", 8, QP_Q5_0, PLAIN},   {"Q5_1", 9, QP_Q5_1, PLAIN},   {"Q2_K", 10, QP_Q2_K, Q2},
             {"Q3_K_S", 11, QP_Q3_K, Q3_S}, {"Q3_K_M", 12, QP_Q3_K, Q3_M}, {"Q3_K_L", 13, QP_Q3_K, Q3_L},
             {"Q4_K_S", 14, QP_Q4_K, Q4_S}, {"Q4_K_M", 15, QP_Q4_K, Q4_M}, {"Q5_K_S", 16, QP_Q5_K, PLAIN},
             {"Q5_K_M", 17, QP_Q5_K, Q5_M}, {"Q6_K", 18, QP_Q6_K, PLAIN},  {"IQ4_NL", 25, QP_IQ4_NL, IQ4}};
#define TYPES (int)(sizeof types / sizeof *types)

/* Norms, biases, places and whatever is no matrix stay as they are. */
static bool takes_bits(const gguf_item *i) {
    return gguf_is_matrix(i) && qpi_ends_in(i->as.name, "weight") && !qpi_ends_in(i->as.name, "_norm.weight") &&
           strncmp(i->as.name, "token_types", 11) &&
           (qp_dtype_is_float(i->as.dtype) || qp_dtype_block(i->as.dtype) > 1);
}

/* The first and last eighth of the layers, and each third between. */
static bool is_sensitive(int64_t layer, int64_t layers) {
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

static qp_dtype type_of_values(recipe r, qp_dtype base, int64_t layer, int64_t layers, bool grouped) {
    switch (r) {
    case Q2: return grouped ? QP_Q4_K : QP_Q3_K;
    case Q3_M: return layer < 2 ? QP_Q5_K : QP_Q4_K;
    case Q3_L: return QP_Q5_K;
    case Q4_S: return layer < 4 ? QP_Q5_K : base;
    case Q4_M:
    case Q5_M: return is_sensitive(layer, layers) ? QP_Q6_K : base;
    case IQ4: return grouped ? QP_Q5_K : base;
    default: return base;
    }
}

static qp_dtype type_of_down(recipe r, qp_dtype base, int64_t layer, int64_t layers) {
    switch (r) {
    case Q2: return QP_Q3_K;
    case Q3_M: return layer < layers / 16 ? QP_Q5_K : QP_Q4_K;
    case Q3_L: return QP_Q5_K;
    case Q4_S:
    case IQ4: return layer < layers / 8 ? QP_Q5_K : base;
    case Q4_M:
    case Q5_M: return is_sensitive(layer, layers) ? QP_Q6_K : base;
    default: return base;
    }
}

static qp_dtype type_of_output(recipe r, qp_dtype base) {
    return r == Q2 ? QP_Q3_K : r == Q3_M ? QP_Q4_K : r == Q3_L ? QP_Q5_K : base;
}

/* Rows that are no whole blocks of 256 get a type of blocks of 32 about as large, or f16. */
static qp_dtype fitting(qp_dtype t, int64_t columns) {
    if (columns % qp_dtype_block(t) == 0) return t;
    t = t == QP_Q4_K                   ? QP_Q5_0
        : t == QP_Q5_K                 ? QP_Q5_1
        : t == QP_Q6_K                 ? QP_Q8_0
        : t == QP_Q2_K || t == QP_Q3_K ? QP_Q4_0
                                       : t;
    return columns % qp_dtype_block(t) == 0 ? t : QP_F16;
}

static qp_dtype type_for(const gguf_target *t, const gguf_item *item, int which) {
    const char *name = item->as.name;
    qp_dtype    base = types[which].base;
    recipe      r = types[which].recipe;
    long        layer = strncmp(name, "blk.", 4) ? 0 : strtol(name + 4, NULL, 10);
    int64_t     columns = item->as.shape[item->as.ndim - 1];
    bool        grouped = t->kv_heads && t->heads / t->kv_heads >= 4;
    if (qp_dtype_block(base) == 1) return base;
    if (!strcmp(name, "output.weight") || (t->tied && !strcmp(name, "token_embd.weight")))
        return base == QP_Q8_0 || columns % qp_dtype_block(base) ? fitting(QP_Q8_0, columns)
                                                                 : fitting(QP_Q6_K, columns);
    if (qpi_ends_in(name, "attn_v.weight") || qpi_ends_in(name, "attn_qkv.weight"))
        base = type_of_values(r, base, layer, t->layers, grouped);
    else if (qpi_ends_in(name, "ffn_down.weight") || qpi_ends_in(name, "ffn_down_exps.weight"))
        base = type_of_down(r, base, layer, t->layers);
    else if (qpi_ends_in(name, "attn_output.weight")) base = type_of_output(r, base);
    return fitting(base, columns);
}

/* ---- Perplexity ----------------------------------------------------------------------------------------- */

enum { WINDOW = 512 };

/* Of a text in windows, each by itself; NaN after storing an error. */
static double perplexity(qp_ctx *ctx, const char *model, const qp_tokenizer *tokenizer, const char *data) {
    cli_model m = {0};
    qp_ids    ids = {0};
    qp_text   text = {0};
    double    sum = 0;
    int64_t   count = 0;
    bool      ok =
        tokenizer && cli_model_open(ctx, model, false, &m) && cli_read_text(ctx, data, &text) &&
        qp_encode(ctx, tokenizer, text.data, text.count, (qp_encode_options){.literal = true}, &ids) == QP_OK;
    int64_t length = ok && m.info.positions < WINDOW ? m.info.positions : WINDOW;
    for (int64_t at = 0; ok && at + 1 < ids.count; at += length) {
        int64_t   n = ids.count - at < length ? ids.count - at : length;
        qp_scope  s = qp_enter(ctx);
        bool      before = qp_no_grad(ctx, true);
        qp_tensor all = qp_from(ctx, QP_I32, 2, (int64_t[]){1, n}, ids.data + at);
        qp_tensor next = qp_cast(qp_slice(all, 1, 1, n, 1), QP_I64);
        if (n > 1)
            sum += (double)(n - 1) * qp_item(qp_model_loss(m.model, qp_slice(all, 1, 0, n - 1, 1), next));
        count += n - 1;
        qp_no_grad(ctx, before);
        qp_leave(s);
        ok = !qp_failed(ctx) && !cli_interrupted();
    }
    qp_text_free(&text);
    qp_ids_free(&ids);
    if (!qp_failed(ctx) && !count) qp_fail(ctx, QP_ERR_ARGUMENT, "%s: no tokens to predict", data);
    if (!qp_failed(ctx) && !isfinite(sum))
        qp_fail(ctx, QP_ERR_FORMAT, "%s: its loss is no finite number (quipu verify names spoilt weights)",
                model);
    if (m.model) qp_model_close(m.model);
    return qp_failed(ctx) ? NAN : exp(sum / (double)count);
}

/* ---- Report ------------------------------------------------------------------------------------------------ */

typedef struct {
    double before, after; /* bytes */
    double ppl_before, ppl_after;
} totals;

static json_t *rows_json(const gguf_target *t) {
    json_t *rows = json_array();
    for (int64_t i = 0; i < t->count; i++) {
        const gguf_item *item = &t->items[i];
        json_array_append_new(
            rows, json_pack("{s:o, s:s, s:s, s:o, s:o}", "name", cli_json_name(item->as.name), "from",
                            qp_dtype_name(qp_dtype_of(item->source)), "to", qp_dtype_name(item->as.dtype),
                            "error", cli_json_number(item->error), "largest",
                            cli_json_number(item->error == item->error ? item->largest : NAN)));
    }
    return rows;
}

static int report(cli *c, const gguf_target *t, const totals *sum) {
    if (cli_flag(c, "json"))
        return cli_json_print(json_pack(
            "{s:o, s:f, s:f, s:o, s:o, s:o}", "out", cli_json_name(cli_text(c, "out")), "bytes_before",
            sum->before, "bytes", sum->after, "perplexity_before", cli_json_number(sum->ppl_before),
            "perplexity", cli_json_number(sum->ppl_after), "tensors", rows_json(t)));
    char before[32], after[32], name[128];
    for (int64_t i = 0; i < t->count; i++) {
        const gguf_item *item = &t->items[i];
        if (item->error != item->error) continue;
        snprintf(name, sizeof name, "%.100s", item->as.name);
        printf("%-7s -> %-7s relative error %.2e, largest %.2e  %s\n", qp_dtype_name(qp_dtype_of(item->source)),
               qp_dtype_name(item->as.dtype), item->error, item->largest, cli_shown(name));
    }
    printf("%s -> %s\n", cli_bytes(sum->before, before), cli_bytes(sum->after, after));
    if (sum->ppl_after == sum->ppl_after)
        printf("perplexity %.4f -> %.4f (%+.2f%%)\n", sum->ppl_before, sum->ppl_after,
               100 * (sum->ppl_after / sum->ppl_before - 1));
    return 0;
}

/* ---- The verb ---------------------------------------------------------------------------------------------- */

static int find_type(const char *name) {
    static const char *const middle[][2] = {{"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}};
    for (int i = 0; i < 3; i++)
        if (!strcasecmp(name, middle[i][0])) name = middle[i][1];
    for (int i = 0; i < TYPES; i++)
        if (!strcasecmp(name, types[i].name)) return i;
    return -1;
}

static double bytes_of(const gguf_target *t, bool written) {
    double sum = 0;
    for (int64_t i = 0; i < t->count; i++)
        sum += (double)qp_dtype_size(written ? t->items[i].as.dtype : qp_dtype_of(t->items[i].source),
                                     qp_count(t->items[i].source));
    return sum;
}

static int run(cli *c) {
    int     which = find_type(cli_text(c, "type"));
    qp_ctx *ctx = which < 0 ? NULL : cli_open(c);
    if (which < 0)
        return cli_usage(c, "--type %s is none of F32, F16, BF16, Q8_0, Q4_0, .. (see --help)",
                         cli_text(c, "type"));
    if (!ctx) return 1;
    gguf_target t;
    char        buffer[4096];
    totals      sum = {.ppl_before = NAN, .ppl_after = NAN};
    const char *model = cli_model_path(cli_argument(c, 0), buffer), *out = cli_text(c, "out"),
               *data = cli_text(c, "data");
    const qp_tokenizer *tokenizer = gguf_check_out(ctx, out) && data ? cli_tokenizer_open(ctx, model) : NULL;
    if (tokenizer) sum.ppl_before = perplexity(ctx, model, tokenizer, data);
    bool opened = !qp_failed(ctx), ok = opened && gguf_target_open(&t, ctx, model);
    if (ok) {
        cli_progress progress = cli_progress_start(c, t.count);
        for (int64_t i = 0; i < t.count; i++)
            if (takes_bits(&t.items[i])) t.items[i].as.dtype = type_for(&t, &t.items[i], which);
        t.progress = &progress;
        sum.before = bytes_of(&t, false);
        sum.after = bytes_of(&t, true);
        ok = gguf_target_save(&t, out, types[which].file_type);
        cli_progress_end(&progress);
        if (ok && t.model && !gguf_has_vocabulary(ctx, model))
            cli_remark(c, "without a tokenizer: the folder has none");
        if (ok && data) sum.ppl_after = perplexity(ctx, out, tokenizer, data);
    }
    int status = qp_failed(ctx) || !ok ? cli_failed(ctx) : report(c, &t, &sum);
    if (opened) gguf_target_close(&t);
    return status;
}

static const cli_option options[] = {
    {"type", 0, CLI_TEXT, "TYPE", NULL,
     "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL",
     0, 0, true},
    {"out", 'o', CLI_TEXT, "FILE", NULL, "GGUF file to write", 0, 0, true},
    {"data", 0, CLI_TEXT, "FILE", NULL, "a text: perplexity before and after, in windows of 512 tokens", 0, 0,
     false},
    {0}};

QP_VERB(quantize) = {
    .name = "quantize",
    .summary = "a model's weights in fewer bits, as a GGUF file",
    .arguments = "MODEL",
    .min_arguments = 1,
    .max_arguments = 1,
    .options = options,
    .examples = "  quipu quantize my-model --type Q4_K_M --out my-model.Q4_K_M.gguf\n"
                "  quipu quantize my-model.gguf --type Q8_0 --out small.gguf --data test.txt\n",
    .run = run};
