/* Opening files of tensors, finding and loading what is in them. */
#define _POSIX_C_SOURCE 200809L
#include "format/file.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "format/os.h"

static const qpi_file_format *const formats[] = {&qpi_safetensors, &qpi_gguf};
#define FORMATS (sizeof formats / sizeof *formats)

/* ---- Building ------------------------------------------------------------------------- */

qpi_entry *qpi_file_add(qp_file *f, qpi_error *e) {
    qpi_entry *p = qpi_grown(f->entries, &f->entry_capacity, f->entry_count + 1, sizeof *p);
    if (!p) {
        qpi_fail_memory(e, "list of tensors");
        return NULL;
    }
    f->entries = p;
    p += f->entry_count++;
    *p = (qpi_entry){0};
    return p;
}

bool qpi_file_add_meta(qp_file *f, const char *key, const char *value, qpi_error *e) {
    qp_meta *p = qpi_grown(f->meta, &f->meta_capacity, f->meta_count + 1, sizeof *p);
    if (p) f->meta = p;
    char *k = p ? qpi_arena_text(&f->arena, key, strlen(key)) : NULL;
    char *v = k ? qpi_arena_text(&f->arena, value, strlen(value)) : NULL;
    if (!v) return qpi_fail_memory(e, "metadata") == QP_OK;
    f->meta[f->meta_count++] = (qp_meta){k, v};
    return true;
}

bool qpi_file_add_part(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e) {
    qpi_bytes **p = qpi_grown(f->parts, &f->part_capacity, f->part_count + 1, sizeof *p);
    if (!p) return qpi_fail_memory(e, path) == QP_OK;
    f->parts = p;
    qpi_bytes *bytes = qpi_bytes_open(path, mode, e);
    if (!bytes) return false;
    f->parts[f->part_count++] = bytes;
    for (size_t i = 0; i < FORMATS; i++)
        if (formats[i]->matches(bytes)) return formats[i]->parse(f, (uint32_t)f->part_count - 1, e);
    qpi_fail(e, QP_ERR_FORMAT, "%s: offset 0: expected a safetensors file or GGUF, found something else", path);
    return false;
}

/* The file that a folder stands for, malloc'ed. */
static char *in_folder(const char *folder, qpi_error *e) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        char *path = qpi_path_join(folder, names[i], e);
        if (!path || qpi_path_exists(path)) return path;
        free(path);
    }
    qpi_fail(e, QP_ERR_IO, "%s: holds neither model.safetensors nor model.safetensors.index.json", folder);
    return NULL;
}

bool qpi_file_index(qp_file *f, qpi_error *e) {
    char shown[QPI_SHOWN];
    for (size_t i = 0; i < f->entry_count; i++) {
        const char *name = f->entries[i].name;
        uint32_t    before;
        if (!qpi_names_add(&f->names, name, strlen(name), (uint32_t)i, &before))
            return qpi_fail_memory(e, "list of tensors") == QP_OK;
        if (before == QPI_NO_NAME) continue;
        qpi_fail(e, QP_ERR_FORMAT, "%s: expected each tensor once, found \"%s\" twice", f->parts[0]->path,
                 qpi_shown(shown, name, strlen(name)));
        return false;
    }
    return true;
}

qp_file *qpi_file_open(const char *path, qpi_open_mode mode, qpi_error *e) {
    qp_file *f = calloc(1, sizeof *f);
    if (!f) {
        qpi_fail_memory(e, path);
        return NULL;
    }
    char *actual = qpi_path_is_folder(path) ? in_folder(path, e) : strdup(path);
    if (!actual) qpi_fail_memory(e, path);
    bool ok = actual && (qpi_ends_in(actual, ".index.json")
                             ? qpi_index_open(f, actual, mode, e)
                             : qpi_file_add_part(f, actual, mode, e) &&
                                   qpi_gguf_open_parts(f, actual, mode, e) && qpi_file_index(f, e));
    free(actual);
    if (ok) return f;
    qp_file_close(f);
    return NULL;
}

/* ---- Public --------------------------------------------------------------------------- */

qp_file *qp_file_open(qp_ctx *ctx, const char *path, qp_file_options options) {
    qpi_error e = {0};
    qp_file  *f = qpi_file_open(path, options.in_memory ? QPI_READ : QPI_MAP, &e);
    if (!f) qp_fail(ctx, e.code, "%s", e.text);
    return f;
}

void qp_file_close(qp_file *f) {
    if (!f) return;
    for (size_t i = 0; i < f->part_count; i++) qpi_bytes_release(f->parts[i]);
    free(f->parts);
    free(f->entries);
    free(f->meta);
    qpi_gguf_values_free(&f->values);
    qpi_names_free(&f->names);
    qpi_arena_free(&f->arena);
    free(f);
}

int64_t qp_file_count(const qp_file *f) { return f ? (int64_t)f->entry_count : 0; }

qp_file_entry qp_file_at(const qp_file *f, int64_t index) {
    if (index < 0 || index >= qp_file_count(f)) return (qp_file_entry){0};
    const qpi_entry *x = &f->entries[index];
    bool             loadable = x->dtype >= 0 && x->ndim <= QP_MAX_DIMS;
    return (qp_file_entry){x->name, x->type_name, loadable, loadable ? (qp_dtype)x->dtype : 0,
                           x->ndim, x->shape,     x->bytes};
}

int64_t qp_file_find(const qp_file *f, const char *name) {
    uint32_t i = f ? qpi_names_find(&f->names, name, strlen(name)) : QPI_NO_NAME;
    return i == QPI_NO_NAME ? -1 : (int64_t)i;
}

bool qp_file_meta_at(const qp_file *f, int64_t index, const char **key, const char **value) {
    if (!f || index < 0 || (size_t)index >= f->meta_count) return false;
    *key = f->meta[index].key;
    *value = f->meta[index].value;
    return true;
}

const char *qp_file_meta(const qp_file *f, const char *wanted) {
    const char *key, *value;
    for (int64_t i = 0; qp_file_meta_at(f, i, &key, &value); i++)
        if (strcmp(key, wanted) == 0) return value;
    return NULL;
}

static qp_tensor load(qp_ctx *ctx, const qpi_entry *x, qpi_bytes *bytes, bool copy) {
    const uint8_t *data = bytes->data + x->begin;
    qp_dtype       dtype = (qp_dtype)x->dtype;
    /* A mapping's last page is touched only where data lie, so an empty tensor is copied. */
    size_t alignment = qp_dtype_block(dtype) > 1 ? 2 : qp_dtype_bytes(dtype);
    if (copy || x->bytes == 0 || (uintptr_t)data % alignment)
        return qp_from(ctx, dtype, x->ndim, x->shape, data);
    return qp_attach(ctx, dtype, x->ndim, x->shape, (void *)data, true, qpi_bytes_release,
                     qpi_bytes_retain(bytes));
}

qp_tensor qp_file_load(qp_ctx *ctx, const qp_file *f, const char *name, bool copy) {
    char    shown[QPI_SHOWN];
    int64_t i = qp_file_find(f, name);
    if (i < 0) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "%s: no tensor \"%s\"",
                f && f->part_count ? f->parts[0]->path : "no file", qpi_shown(shown, name, strlen(name)));
        return qpi_poison(ctx);
    }
    const qpi_entry *x = &f->entries[i];
    qpi_bytes       *bytes = f->parts[x->part];
    if (x->dtype < 0 || x->ndim > QP_MAX_DIMS) {
        char type[QPI_SHOWN];
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: tensor \"%s\": dtype %s with %d axes is not supported",
                bytes->path, qpi_shown(shown, name, strlen(name)),
                qpi_shown(type, x->type_name, strlen(x->type_name)), x->ndim);
        return qpi_poison(ctx);
    }
    return load(ctx, x, bytes, copy);
}
