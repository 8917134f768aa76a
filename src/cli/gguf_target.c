#include "cli/gguf_target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "format/json.h"
#include "models/model.h"

/* ---- From a GGUF file: pairs and tensors as they are ------------------------------------------------- */

static bool is_stale(const char *key) {
    static const char *const keys[] = {"general.file_type", "general.quantization_version",
                                       "general.alignment", "split.no",
                                       "split.count",       "split.tensors.count"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return true;
    return false;
}

static int64_t number_of(const qp_file *f, const char *key) {
    const char *architecture = qp_file_meta(f, "general.architecture");
    char        full[160];
    int64_t     x = 0;
    snprintf(full, sizeof full, "%s.%s", architecture ? architecture : "", key);
    qpi_gguf_integer(qpi_gguf_find(f, full), 0, &x);
    return x;
}

static bool make_items(gguf_target *t, int64_t room) {
    t->items = calloc((size_t)room + 1, sizeof *t->items);
    if (!t->items) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: tensors");
    return t->items;
}

static bool add_item(gguf_target *t, const char *name, qp_tensor source) {
    gguf_item      *item = &t->items[t->count];
    const qpi_slot *s = qp_failed(t->ctx) ? NULL : qpi_resolve(source, name);
    if (!s) return false;
    *item = (gguf_item){.source = qp_keep(source), .error = NAN};
    item->as =
        (qpi_gguf_tensor){.name = strdup(name), .dtype = s->value.view.dtype, .ndim = s->value.view.ndim};
    memcpy(item->as.shape, s->value.view.shape, sizeof item->as.shape);
    t->count++;
    if (!item->as.name) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: tensors");
    return item->as.name;
}

static bool open_file(gguf_target *t) {
    const qpi_gguf_value *v;
    t->file = qp_file_open(t->ctx, t->path, (qp_file_options){0});
    if (!t->file) return false;
    for (size_t i = 0; (v = qpi_gguf_at(t->file, i)); i++)
        if (!is_stale(v->key)) qpi_gguf_put_value(&t->pairs, v);
    if (!make_items(t, qp_file_count(t->file))) return false;
    for (int64_t i = 0; i < qp_file_count(t->file); i++)
        if (!add_item(t, qp_file_at(t->file, i).name,
                      qp_file_load(t->ctx, t->file, qp_file_at(t->file, i).name, false)))
            return false;
    t->layers = number_of(t->file, "block_count");
    t->heads = number_of(t->file, "attention.head_count");
    t->kv_heads = number_of(t->file, "attention.head_count_kv");
    return true;
}

/* ---- From a folder -------------------------------------------------------------------------------------- */

/* "org/name/" -> "name" */
static void put_name(gguf_target *t) {
    const char *name = t->path;
    for (const char *at = strchr(name, '/'); at; at = strchr(at + 1, '/'))
        if (at[1] && at[1] != '/') name = at + 1;
    qpi_gguf_put_text(&t->pairs, "general.name", name, strcspn(name, "/"));
}

static int64_t config_number(const qp_model *m, const char *key, const char *other) {
    const json_t *x = json_object_get(m->config, key);
    return json_integer_value(qpi_json_is(x, JSON_INTEGER) ? x : json_object_get(m->config, other));
}

/* Of encoders, and of what was made of one to give vectors. */
static bool put_pooling(gguf_target *t) {
    static const int kinds[] = {[QP_POOL_MEAN] = 1, [QP_POOL_CLS] = 2, [QP_POOL_LAST] = 3};
    qp_embed_options options;
    char             key[64];
    if (qp_model_info_of(t->model).causal) return true;
    if (qp_embed_options_load(t->model, t->path, &options) != QP_OK) return false;
    snprintf(key, sizeof key, "%.40s.pooling_type", t->model->preset->gguf->architecture);
    qpi_gguf_put_integer(&t->pairs, key, QPI_GGUF_U32, kinds[options.pooling]);
    return true;
}

static bool open_folder(gguf_target *t) {
    const char *name;
    qp_tensor   tensor;
    t->model = qp_model_load(t->ctx, t->path, (qp_model_options){.as_stored = true});
    if (!t->model || !qpi_gguf_describe(t->model, &t->pairs)) return false;
    put_name(t);
    if (!put_pooling(t)) return false;
    if (!gguf_put_vocabulary(t->ctx, t->path, t->model->vocabulary, &t->pairs)) return false;
    if (!make_items(t, qp_module_state(t->model->module).count + 1))
        return false; /* and the divisors of a rotation */
    for (int64_t i = 0; qpi_gguf_weight(t->model, i, &name, &tensor); i++) {
        if (!add_item(t, name, tensor)) return false;
        gguf_item *item = &t->items[t->count - 1];
        if (!gguf_is_matrix(item)) item->as.dtype = QP_F32;
    }
    t->layers = t->model->layers;
    t->heads = config_number(t->model, "num_attention_heads", "n_head");
    t->kv_heads = config_number(t->model, "num_key_value_heads", "n_head");
    return !qp_failed(t->ctx);
}

bool gguf_is_matrix(const gguf_item *item) {
    return item->as.ndim >= 2 && strncmp(item->as.name, "position_embd", 13) &&
           !strstr(item->as.name, "ffn_gate_inp.");
}

bool gguf_target_open(gguf_target *t, qp_ctx *ctx, const char *path) {
    *t = (gguf_target){.ctx = ctx, .path = path, .tied = true};
    if (!(qpi_path_is_folder(path) ? open_folder(t) : open_file(t))) return false;
    for (int64_t i = 0; i < t->count; i++) t->tied &= strcmp(t->items[i].as.name, "output.weight") != 0;
    return true;
}

/* ---- Writing ------------------------------------------------------------------------------------------------ */

static double root_mean_square(qp_tensor x) {
    int64_t n = qp_count(x);
    return n ? sqrt(qp_item(qp_sum(qp_square(qp_reshape(x, 1, &n)), 1, (int[]){0}, false)) / (double)n) : 0;
}

/* How much rounding changed. */
static void measure(gguf_item *item, qp_tensor exact, qp_tensor rounded) {
    qp_tensor d = qp_sub(qp_cast(rounded, QP_F32), exact);
    int64_t   n = qp_count(d);
    double    scale = root_mean_square(exact);
    item->error = scale > 0 ? root_mean_square(d) / scale : 0;
    item->largest = n ? qp_item(qp_max(qp_abs(qp_reshape(d, 1, &n)), 0, false)) : 0;
}

int64_t gguf_count_odd(qp_tensor x) {
    int64_t n = qp_count(x), odd = 0;
    for (int64_t at = 0, step; at < n && !qp_failed(x.ctx); at += step) {
        step = (int64_t)fmin((double)(n - at), 1 << 22);
        qp_scope     s = qp_enter(x.ctx);
        qp_tensor    part = qp_slice(qp_reshape(x, 1, &n), 0, at, at + step, 1);
        const float *p = qp_data_of(qp_contiguous(qp_cast(part, QP_F32)));
        for (int64_t i = 0; p && i < step; i++) odd += !isfinite(p[i]);
        qp_leave(s);
    }
    return odd;
}

qp_tensor gguf_round(const char *path, const char *name, qp_tensor x, qp_dtype type) {
    qp_tensor rounded = qp_cast(x, type);
    if (type == QP_F32 || type == qp_dtype_of(x)) return rounded;
    int64_t odd = gguf_count_odd(x), beyond = odd ? 0 : gguf_count_odd(rounded);
    if (odd)
        qp_fail(x.ctx, QP_ERR_FORMAT, "%s: %s: %lld of its elements are no finite numbers", path, name,
                (long long)odd);
    else if (beyond)
        qp_fail(x.ctx, QP_ERR_FORMAT, "%s: %s: %lld of its elements are beyond what %s holds", path, name,
                (long long)beyond, qp_dtype_name(type));
    return rounded;
}

static const void *data_of(void *user, int64_t i) {
    gguf_target *t = user;
    gguf_item   *item = &t->items[i];
    if (cli_interrupted()) qp_fail(t->ctx, QP_ERR_CANCELLED, "cancelled");
    if (t->progress) cli_progress_show(t->progress, i, "%.60s", item->as.name);
    qp_drop(t->held);
    t->held = QP_NONE;
    qp_scope  s = qp_enter(t->ctx);
    qp_tensor y = item->source;
    if (qp_dtype_of(y) != item->as.dtype) {
        qp_tensor exact = qp_contiguous(qp_cast(y, QP_F32));
        y = gguf_round(t->path, item->as.name, exact, item->as.dtype);
        if (item->as.dtype != QP_F32) measure(item, exact, y);
    }
    t->held = qp_keep(qp_contiguous(y));
    qp_leave(s);
    return qp_failed(t->ctx) ? NULL : qp_data_of(t->held);
}

bool gguf_check_out(qp_ctx *ctx, const char *path) {
    char *folder = qpi_path_folder(path, &ctx->error);
    bool  ok = folder && *path && path[strlen(path) - 1] != '/' && !qpi_path_is_folder(path);
    if (folder && !ok) qp_fail(ctx, QP_ERR_ARGUMENT, "--out \"%s\": expected a file's name", path);
    else if (folder && !qpi_path_is_folder(folder))
        ok = qp_fail(ctx, QP_ERR_IO, "%s: there is no folder %s to write it to", path, folder) == QP_OK;
    free(folder);
    return ok;
}

bool gguf_target_save(gguf_target *t, const char *path, int64_t file_type) {
    qpi_gguf_tensor *tensors = calloc((size_t)t->count + 1, sizeof *tensors);
    if (!tensors) return qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: tensors") == QP_OK;
    for (int64_t i = 0; i < t->count; i++) tensors[i] = t->items[i].as;
    qpi_gguf_put_integer(&t->pairs, "general.file_type", QPI_GGUF_U32, file_type);
    qpi_gguf_put_integer(&t->pairs, "general.quantization_version", QPI_GGUF_U32, 2);
    bool before = qp_no_grad(t->ctx, true);
    bool ok = qpi_gguf_save(path, &t->pairs, t->count, tensors, data_of, t, &t->ctx->error);
    qp_no_grad(t->ctx, before);
    free(tensors);
    return ok;
}

void gguf_target_close(gguf_target *t) {
    qp_drop(t->held);
    for (int64_t i = 0; i < t->count; i++) {
        qp_drop(t->items[i].source);
        free((void *)t->items[i].as.name);
    }
    free(t->items);
    qpi_gguf_pairs_free(&t->pairs);
    qp_model_close(t->model);
    qp_file_close(t->file);
}
