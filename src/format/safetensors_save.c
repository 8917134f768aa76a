/* Writing safetensors files, cut into shards where asked for. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "format/json.h"
#include "format/names.h"
#include "format/os.h"
#include "format/safetensors.h"
#include "format/utf8.h"
#include "format/writer.h"
#include "quipu/format.h"

typedef struct {
    const char *name;
    qp_tensor   tensor;
    qpi_value   value; /* the tensor's */
    uint64_t    bytes;
    int64_t     shard;
} record;

typedef struct {
    qp_ctx         *ctx;
    qp_save_options options;
    record         *records;
    int64_t         count, shards;
    uint64_t        total;
    const char     *path;
    char           *stem; /* path without .safetensors */
    qpi_error      *error;
} job;

static const char *type_name(qp_dtype t) {
    static const char *const names[] = {
#define X(name, text, type, bytes, st, is_float) st,
        QP_DTYPES(X)
#undef X
    };
    return names[t];
}

/* ---- Preparing ------------------------------------------------------------------------ */

static bool take_tensor(job *j, qpi_names *seen, const qp_named *given, int64_t i) {
    const char *name = given->name;
    uint32_t    before = QPI_NO_NAME;
    char        shown[QPI_SHOWN];
    if (!name || !name[0] || strcmp(name, "__metadata__") == 0 || !qpi_utf8_text(name))
        return !qpi_fail(j->error, QP_ERR_ARGUMENT, "%s: tensor %" PRId64 " has no proper name", j->path, i);
    if (!qpi_names_add(seen, name, strlen(name), 0, &before)) return !qpi_fail_memory(j->error, j->path);
    qpi_shown(shown, name, strlen(name));
    if (before != QPI_NO_NAME)
        return !qpi_fail(j->error, QP_ERR_ARGUMENT, "%s: the name \"%s\" occurs twice", j->path, shown);
    const qpi_slot *slot = qpi_resolve(given->tensor, name);
    if (!slot) return !qpi_fail(j->error, QP_ERR_STATE, "%s: %s is no tensor that is there", j->path, shown);
    if (!slot->value.storage)
        return !qpi_fail(j->error, QP_ERR_STATE, "%s: %s has no elements yet", j->path, shown);
    qp_dtype dtype = slot->value.view.dtype;
    if (qp_dtype_block(dtype) > 1)
        return !qpi_fail(j->error, QP_ERR_TYPE, "%s: %s is %s: safetensors has no block types", j->path, shown,
                         qp_dtype_name(dtype));
    uint64_t bytes = qp_dtype_size(dtype, qp_count(given->tensor));
    j->records[i] = (record){.name = name, .tensor = given->tensor, .value = slot->value, .bytes = bytes};
    j->total += bytes;
    return true;
}

static bool take_tensors(job *j, const qp_named *tensors) {
    qpi_names seen = {0};
    int64_t   i = 0;
    while (i < j->count && take_tensor(j, &seen, &tensors[i], i)) i++;
    qpi_names_free(&seen);
    return i == j->count;
}

/* Fills one file after the other in the order given. */
static void cut_shards(job *j) {
    uint64_t limit = j->options.shard_bytes, filled = 0;
    j->shards = 1;
    for (int64_t i = 0; i < j->count; i++) {
        uint64_t bytes = j->records[i].bytes;
        if (limit && filled && (bytes > limit || filled > limit - bytes)) {
            j->shards++;
            filled = 0;
        }
        filled += bytes;
        j->records[i].shard = j->shards - 1;
    }
}

/* Wide types first, so that each tensor lies aligned behind the last. */
static int by_layout(const void *a, const void *b) {
    const record *x = a, *y = b;
    int           by_shard = (x->shard > y->shard) - (x->shard < y->shard);
    if (by_shard) return by_shard;
    size_t p = qp_dtype_bytes(qp_dtype_of(x->tensor)), q = qp_dtype_bytes(qp_dtype_of(y->tensor));
    if (p != q) return p > q ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* ---- One file ------------------------------------------------------------------------- */

static json_t *describe(const record *r, uint64_t at) {
    json_t *shape = json_array();
    bool    ok = shape != NULL;
    for (int i = 0; ok && i < qp_ndim(r->tensor); i++)
        ok = json_array_append_new(shape, json_integer(qp_size(r->tensor, i))) == 0;
    if (!ok) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(qp_dtype_of(r->tensor)), "shape", shape,
                     "data_offsets", (json_int_t)at, (json_int_t)(at + r->bytes));
}

static json_t *describe_meta(const qp_save_options *o) {
    json_t *meta = json_object();
    bool    ok = o->meta || json_object_set_new(meta, "format", json_string("pt")) == 0;
    for (int i = 0; ok && o->meta && i < o->meta_count; i++)
        ok = json_object_set_new(meta, o->meta[i].key, json_string(o->meta[i].value)) == 0;
    if (ok) return meta;
    json_decref(meta);
    return NULL;
}

static bool check_meta(const job *j) {
    for (int i = 0; j->options.meta && i < j->options.meta_count; i++) {
        const qp_meta *m = &j->options.meta[i];
        if (!m->key || !m->value || !qpi_utf8_text(m->key) || !qpi_utf8_text(m->value))
            return qpi_fail(j->error, QP_ERR_ARGUMENT, "%s: metadata %d is no UTF-8 text", j->path, i) == QP_OK;
    }
    return true;
}

static bool build_header(job *j, const record *records, int64_t n, qpi_buffer *out) {
    json_t  *header = json_object();
    uint64_t at = 0;
    bool     ok = json_object_set_new(header, "__metadata__", describe_meta(&j->options)) == 0;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = json_object_set_new(header, records[i].name, describe(&records[i], at)) == 0;
        at += records[i].bytes;
    }
    ok = ok && qpi_json_print(out, header, 0);
    while (ok && out->count % 8) ok = qpi_buffer_put(out, " ", 1);
    json_decref(header);
    if (!ok) return qpi_fail_memory(j->error, j->path) == QP_OK;
    if (out->count <= QPI_SAFETENSORS_HEADER) return true;
    return qpi_fail(j->error, QP_ERR_ARGUMENT, "%s: the header would exceed %" PRIu64 " bytes", j->path,
                    QPI_SAFETENSORS_HEADER) == QP_OK;
}

static bool write_tensor(job *j, qpi_writer *w, const record *r) {
    const qpi_value *v = &r->value;
    if (v->storage->device->host && qpi_view_contiguous(&v->view))
        return qpi_write(w, v->view.data, (size_t)r->bytes);
    qpi_value copy = qpi_value_to(j->ctx, v, &qpi_cpu);
    bool      ok = copy.storage && qpi_write(w, copy.view.data, (size_t)r->bytes);
    qpi_value_release(j->ctx, &copy);
    return ok;
}

static bool write_one(job *j, const char *path, const record *records, int64_t n) {
    qpi_buffer header = {0};
    qpi_writer w;
    bool       ok = build_header(j, records, n, &header) && qpi_writer_open(&w, path, j->error);
    if (ok) {
        uint8_t length[8];
        for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header.count >> 8 * i);
        qpi_write(&w, length, 8);
        ok = qpi_write(&w, header.data, header.count); /* false if any write failed */
        for (int64_t i = 0; ok && i < n; i++) ok = write_tensor(j, &w, &records[i]);
        if (ok) ok = qpi_writer_finish(&w);
        else qpi_writer_abort(&w);
    }
    qpi_buffer_free(&header);
    return ok;
}

/* ---- The set -------------------------------------------------------------------------- */

static char *shard_path(const job *j, int64_t shard) {
    size_t size = strlen(j->stem) + 64;
    char  *path = malloc(size);
    if (!path) qpi_fail_memory(j->error, j->path);
    else snprintf(path, size, "%s-%05" PRId64 "-of-%05" PRId64 ".safetensors", j->stem, shard + 1, j->shards);
    return path;
}

static char *index_path(const job *j) {
    size_t size = strlen(j->path) + 16;
    char  *path = malloc(size);
    if (!path) qpi_fail_memory(j->error, j->path);
    else snprintf(path, size, "%s.index.json", j->path);
    return path;
}

static bool write_index(job *j, const char *path) {
    json_t *map = json_object();
    for (int64_t i = 0; i < j->count; i++) {
        char *shard = shard_path(j, j->records[i].shard);
        if (!shard) break;
        const char *slash = strrchr(shard, '/');
        json_object_set_new(map, j->records[i].name, json_string(slash ? slash + 1 : shard));
        free(shard);
    }
    bool    whole = (int64_t)json_object_size(map) == j->count;
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)j->total, "weight_map", map);
    bool ok = index && whole;
    if (!ok) qpi_fail_memory(j->error, j->path);
    else ok = qpi_json_save(path, index, 2, j->error);
    json_decref(index);
    return ok;
}

static bool write_shards(job *j, const char *index) {
    int64_t at = 0;
    for (int64_t s = 0; s < j->shards; s++) {
        int64_t n = 0;
        while (at + n < j->count && j->records[at + n].shard == s) n++;
        char *path = shard_path(j, s);
        bool  ok = path && write_one(j, path, j->records + at, n);
        free(path);
        if (!ok) return false;
        at += n;
    }
    if (!write_index(j, index)) return false;
    unlink(j->path); /* of an earlier save; readers look for it first */
    return true;
}

static bool write_all(job *j) {
    char *index = index_path(j);
    bool  ok = index != NULL;
    if (ok && j->shards > 1) {
        ok = write_shards(j, index);
    } else if (ok) {
        ok = write_one(j, j->path, j->records, j->count);
        if (ok) unlink(index);
    }
    free(index);
    return ok;
}

static bool save(job *j, const qp_named *tensors) {
    static const char extension[] = ".safetensors";
    size_t            n = strlen(j->path), m = sizeof extension - 1;
    if (n <= m || strcmp(j->path + n - m, extension) != 0)
        return qpi_fail(j->error, QP_ERR_ARGUMENT, "%s: the name must end in .safetensors", j->path) == QP_OK;
    j->stem = strdup(j->path);
    j->records = calloc((size_t)j->count + 1, sizeof *j->records);
    if (!j->stem || !j->records) return qpi_fail_memory(j->error, j->path) == QP_OK;
    j->stem[n - m] = 0;
    if (!check_meta(j) || !take_tensors(j, tensors)) return false;
    cut_shards(j);
    if (j->count) qsort(j->records, (size_t)j->count, sizeof *j->records, by_layout);
    return write_all(j);
}

qp_status qp_file_save(qp_ctx *ctx, const char *path, int64_t n, const qp_named *tensors,
                       qp_save_options options) {
    qpi_error e = {0};
    job       j = {.ctx = ctx, .options = options, .count = n, .path = path, .error = &e};
    if (qp_failed(ctx)) return qp_error_code(ctx); /* poison is never stored */
    bool ok = save(&j, tensors);
    free(j.stem);
    free(j.records);
    if (ok) return QP_OK;
    return e.code ? qp_fail(ctx, e.code, "%s", e.text) : qp_error_code(ctx);
}
