/* Vectors of texts. */
#include "quipu/embed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/os.h"
#include "models/model.h"

#define BATCH_TOKENS 4096 /* of a batch, padding included: its activations stay near the caches */
#define BATCH_ROWS 64

/* ---- What a folder says ------------------------------------------------------------------------ */

/* "1_Pooling/config.json": of the ways to pool, exactly one is to be on. */
static void read_pooling(qp_ctx *ctx, const char *folder, const char *path, qp_embed_options *out) {
    static const struct {
        const char *key;
        qp_pooling  pooling;
    } known[] = {{"pooling_mode_mean_tokens", QP_POOL_MEAN},
                 {"pooling_mode_cls_token", QP_POOL_CLS},
                 {"pooling_mode_lasttoken", QP_POOL_LAST}};
    char name[300];
    snprintf(name, sizeof name, "%.200s/config.json", path);
    json_t     *json = strstr(path, "..") ? NULL : qpi_json_load_in(folder, name, &ctx->error), *value;
    qpi_json    root = qpi_json_root(name, json, &ctx->error);
    const char *key;
    int         on = 0, done = 0;
    if (!json && !qp_failed(ctx))
        qp_fail(ctx, QP_ERR_FORMAT, "%s: no %s, which modules.json names", folder, name);
    json_object_foreach(json, key, value) {
        if (strncmp(key, "pooling_mode_", 13) || !json_is_true(value)) continue;
        on++;
        for (int i = 0; i < 3; i++) {
            if (strcmp(key, known[i].key)) continue;
            out->pooling = known[i].pooling;
            done++;
        }
    }
    if (json && (on != 1 || done != 1))
        qpi_json_fail(&root, QP_ERR_UNSUPPORTED, "expected one of mean, cls and last token");
    json_decref(json);
}

/* modules.json: a transformer, its pooling and, perhaps, the division by the length. */
static void read_modules(qp_ctx *ctx, const char *folder, json_t *modules, qp_embed_options *out) {
    qpi_json root = qpi_json_root("modules.json", modules, &ctx->error);
    for (size_t i = 0; i < json_array_size(modules) && !qp_failed(ctx); i++) {
        qpi_json    at = qpi_json_item(&root, i);
        const char *type = NULL, *path = NULL;
        if (!qpi_json_string(&at, "type", QPI_REQUIRED, &type) ||
            !qpi_json_string(&at, "path", QPI_REQUIRED, &path))
            return;
        const char *last = strrchr(type, '.') ? strrchr(type, '.') + 1 : type;
        if (!strcmp(last, "Pooling")) read_pooling(ctx, folder, path, out);
        else if (!strcmp(last, "Normalize")) out->normalize = true;
        else if (strcmp(last, "Transformer"))
            qpi_json_fail(&at, QP_ERR_UNSUPPORTED,
                          "found \"%.60s\", expected Transformer, Pooling or Normalize", type);
    }
}

/* ARCHITECTURE.pooling_type of a GGUF file; 0 stands for none. */
static qp_status read_pooling_type(qp_ctx *ctx, const char *path, qp_embed_options *out) {
    static const qp_pooling kinds[] = {[1] = QP_POOL_MEAN, [2] = QP_POOL_CLS, [3] = QP_POOL_LAST};
    qp_file                *f = qp_file_open(ctx, path, (qp_file_options){0});
    const char             *architecture = f ? qp_file_meta(f, "general.architecture") : NULL;
    char                    key[96];
    int64_t                 kind = 0;
    snprintf(key, sizeof key, "%.64s.pooling_type", architecture ? architecture : "");
    if (qpi_gguf_integer(qpi_gguf_find(f, key), 0, &kind) && kind >= 1 && kind <= 3) out->pooling = kinds[kind];
    else if (kind)
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: %s: expected mean, cls or last token (1 to 3)", path, key);
    qp_file_close(f);
    return qp_error_code(ctx);
}

qp_status qp_embed_options_load(qp_model *m, const char *folder, qp_embed_options *out) {
    qp_ctx *ctx = qp_model_ctx(m);
    *out = (qp_embed_options){.pooling = qp_model_info_of(m).causal ? QP_POOL_LAST : QP_POOL_MEAN};
    if (!qp_failed(ctx) && qpi_path_is_gguf(folder)) return read_pooling_type(ctx, folder, out);
    if (qp_failed(ctx) || !qpi_path_is_folder(folder)) return qp_error_code(ctx);
    json_t *modules = qpi_json_load_in(folder, "modules.json", &ctx->error),
           *limits = qpi_json_load_in(folder, "sentence_bert_config.json", &ctx->error);
    qpi_json root = qpi_json_root("sentence_bert_config.json", limits, &ctx->error);
    if (modules) read_modules(ctx, folder, modules, out);
    if (limits) qpi_json_integer(&root, "max_seq_length", QPI_OPTIONAL, 1, INT32_MAX, &out->max_tokens);
    json_decref(modules);
    json_decref(limits);
    return qp_error_code(ctx);
}

/* ---- Ids to vectors ------------------------------------------------------------------------------- */

/* One row's positions [n, D] to [1, D]. */
static qp_tensor pool(qp_tensor x, int64_t n, qp_pooling how) {
    if (how == QP_POOL_MEAN) return qp_mean(qp_slice(x, 0, 0, n, 1), 1, (int[]){0}, true);
    int64_t at = how == QP_POOL_CLS ? 0 : n - 1;
    return qp_slice(x, 0, at, at + 1, 1);
}

static qp_tensor pool_rows(qp_tensor hidden, const int64_t *lengths, qp_pooling how) {
    int64_t    B = qp_size(hidden, 0), T = qp_size(hidden, 1), D = qp_size(hidden, 2);
    qp_tensor *rows = calloc((size_t)B + 1, sizeof *rows), y;
    if (!rows) {
        qp_fail(hidden.ctx, QP_ERR_MEMORY, "out of memory: embed");
        return qpi_poison(hidden.ctx);
    }
    for (int64_t b = 0; b < B; b++) {
        qp_tensor row = qp_reshape(qp_slice(hidden, 0, b, b + 1, 1), 2, (int64_t[]){T, D});
        rows[b] = pool(row, lengths ? lengths[b] : T, how);
    }
    y = B > 1 ? qp_concat((int)B, rows, 0) : rows[0];
    free(rows);
    return y;
}

static bool check(qp_model *m, qp_tensor ids, const int64_t *lengths) {
    qp_ctx *ctx = qp_model_ctx(m);
    if (qp_failed(ctx)) return false;
    if (qp_ndim(ids) != 2 || qp_size(ids, 0) < 1 || qp_size(ids, 1) < 1)
        return !qp_fail(ctx, QP_ERR_SHAPE, "embed: expected ids [B, T], B and T at least 1");
    for (int64_t b = 0; lengths && b < qp_size(ids, 0); b++)
        if (lengths[b] < 1 || lengths[b] > qp_size(ids, 1))
            return !qp_fail(ctx, QP_ERR_ARGUMENT, "embed: row %lld has %lld tokens, expected 1 to %lld",
                            (long long)b, (long long)lengths[b], (long long)qp_size(ids, 1));
    return true;
}

qp_tensor qp_embed_ids(qp_model *m, qp_tensor ids, const int64_t *lengths, qp_embed_options options) {
    qp_ctx *ctx = qp_model_ctx(m);
    if (!check(m, ids, lengths)) return qpi_poison(ctx);
    qp_scope  scope = qp_enter(ctx);
    qp_record in = {0};
    int64_t   B = qp_size(ids, 0);
    qp_record_set(&in, "input_ids", ids);
    if (lengths) qp_record_set(&in, "lengths", qp_from(ctx, QP_I64, 1, &B, lengths));
    qp_tensor y = pool_rows(qpi_model_hidden(m, &in), lengths, options.pooling);
    if (options.normalize) {
        qp_tensor size = qp_sqrt(qp_sum(qp_square(y), 1, (int[]){1}, true));
        y = qp_div(y, qp_maximum(size, qp_full(ctx, QP_F32, 0, NULL, 1e-12)));
    }
    return qp_return(scope, y);
}

/* ---- Texts ----------------------------------------------------------------------------------------- */

typedef struct {
    int64_t begin, count, text; /* its ids; which text it is */
} item;

typedef struct {
    qp_model           *m;
    qp_ctx             *ctx;
    const qp_tokenizer *tokenizer;
    qp_embed_options    options;
    qp_ids              ids, bare; /* of all texts, one after another; of one, without what stands around it */
    int64_t             around;    /* how many tokens are put around a text */
    item               *items;
    int32_t            *rows; /* of a batch */
    float              *out;
    int64_t             width;
} job;

/* How many of the tokens around a text stand before it. */
static int64_t before(const job *j, const int32_t *wrapped) {
    for (int64_t p = 0; p < j->around; p++)
        if (!memcmp(wrapped + p, j->bare.data, (size_t)j->bare.count * sizeof *wrapped)) return p;
    return j->around;
}

/* A text that is too long loses its end, but not what stands behind it. */
static bool cut(job *j, item *it, const char *text, size_t bytes) {
    int32_t *ids = j->ids.data + it->begin;
    int64_t  limit = j->options.max_tokens, behind = 0;
    if (!limit || it->count <= limit) return true;
    j->bare.count = 0;
    if (qp_encode(j->ctx, j->tokenizer, text, bytes, (qp_encode_options){.literal = true}, &j->bare) != QP_OK)
        return false;
    if (j->bare.count + j->around == it->count) behind = j->around - before(j, ids);
    if (behind > limit) behind = limit;
    memmove(ids + limit - behind, ids + it->count - behind, (size_t)behind * sizeof *ids);
    it->count = limit;
    j->ids.count = it->begin + limit;
    return true;
}

static bool encode(job *j, int64_t n, const char *const *texts, const size_t *bytes) {
    qp_encode_options options = {.wrap = true, .literal = true};
    if (qp_encode(j->ctx, j->tokenizer, "", 0, options, &j->ids) != QP_OK) return false;
    j->around = j->ids.count;
    j->ids.count = 0;
    for (int64_t i = 0; i < n; i++) {
        item *it = &j->items[i];
        *it = (item){.begin = j->ids.count, .text = i};
        if (qp_encode(j->ctx, j->tokenizer, texts[i], bytes[i], options, &j->ids) != QP_OK) return false;
        it->count = j->ids.count - it->begin;
        if (!it->count)
            return !qp_fail(j->ctx, QP_ERR_ARGUMENT, "embed: text %lld has no tokens", (long long)i);
        if (!cut(j, it, texts[i], bytes[i])) return false;
    }
    return true;
}

static int longer_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return x->text < y->text ? -1 : x->text > y->text;
}

/* Rows for items of which the first is the longest. */
static int64_t batch_rows(const item *items, int64_t left) {
    int64_t rows = BATCH_TOKENS / items[0].count;
    if (rows > BATCH_ROWS) rows = BATCH_ROWS;
    if (rows < 1) rows = 1;
    return rows < left ? rows : left;
}

static bool run_batch(job *j, const item *items, int64_t n) {
    int64_t T = items[0].count, lengths[BATCH_ROWS];
    for (int64_t b = 0; b < n; b++) {
        int32_t *row = j->rows + b * T;
        lengths[b] = items[b].count;
        memcpy(row, j->ids.data + items[b].begin, (size_t)lengths[b] * sizeof *row);
        memset(row + lengths[b], 0, (size_t)(T - lengths[b]) * sizeof *row);
    }
    qp_scope  scope = qp_enter(j->ctx);
    qp_tensor ids = qp_from(j->ctx, QP_I32, 2, (int64_t[]){n, T}, j->rows);
    qp_tensor y = qp_contiguous(qp_embed_ids(j->m, ids, items[n - 1].count < T ? lengths : NULL, j->options));
    for (int64_t b = 0; b < n; b++)
        if (qp_read(qp_slice(y, 0, b, b + 1, 1), QP_F32, j->out + items[b].text * j->width, j->width) != QP_OK)
            break;
    qp_leave(scope);
    return !qp_failed(j->ctx);
}

static bool run(job *j, int64_t n, const char *const *texts, const size_t *bytes) {
    if (!encode(j, n, texts, bytes)) return false;
    qsort(j->items, (size_t)n, sizeof *j->items, longer_first);
    int64_t longest = n ? j->items[0].count : 0;
    j->rows = malloc((size_t)(longest > BATCH_TOKENS ? longest : BATCH_TOKENS) * sizeof *j->rows);
    if (!j->rows) return !qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: embed");
    for (int64_t i = 0, rows; i < n; i += rows) {
        rows = batch_rows(&j->items[i], n - i);
        if (!run_batch(j, &j->items[i], rows)) return false;
    }
    return true;
}

qp_status qp_embed(qp_model *m, const qp_tokenizer *t, int64_t n, const char *const *texts, const size_t *bytes,
                   qp_embed_options options, float *vectors, int64_t *tokens) {
    qp_ctx       *ctx = qp_model_ctx(m);
    qp_model_info info = qp_model_info_of(m);
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (options.max_tokens < 0)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "embed: max_tokens is %lld, expected 0 or more",
                       (long long)options.max_tokens);
    if (!options.max_tokens || (info.positions && options.max_tokens > info.positions))
        options.max_tokens = info.positions;
    job j = {.m = m, .ctx = ctx, .tokenizer = t, .options = options, .out = vectors, .width = info.width};
    j.items = calloc((size_t)n + 1, sizeof *j.items);
    bool no_grad = qp_no_grad(ctx, true);
    if (!j.items) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: embed");
    else run(&j, n, texts, bytes);
    qp_no_grad(ctx, no_grad);
    if (tokens) *tokens = j.ids.count;
    free(j.items);
    free(j.rows);
    qp_ids_free(&j.ids);
    qp_ids_free(&j.bare);
    return qp_error_code(ctx);
}
