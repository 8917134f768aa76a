/* Reading one safetensors file. */
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/json.h"

static const qpi_safetensors_type types[] = {
#define X(name, text, type, bytes, st, is_float) {st, 8 * bytes, QP_##name},
    QP_DTYPES(X)
#undef X
        {"I16", 16, -1},
    {"U16", 16, -1},
    {"U32", 32, -1},
    {"U64", 64, -1},
    {"F8_E5M2", 8, -1},
    {"F8_E4M3", 8, -1},
    {"F8_E8M0", 8, -1},
    {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},
    {"F4", 4, -1},
    {"C64", 64, -1},
};

const qpi_safetensors_type *qpi_safetensors_type_find(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

static bool matches(const qpi_bytes *bytes) { return bytes->size >= 9 && bytes->data[8] == '{'; }

/* Product of the sizes in bits, false on overflow. */
static bool count_bits(const qpi_entry *entry, int bits, uint64_t *out) {
    uint64_t n = (uint64_t)bits;
    for (int i = 0; i < entry->ndim; i++)
        if (__builtin_mul_overflow(n, (uint64_t)entry->shape[i], &n)) return false;
    *out = n;
    return true;
}

static bool parse_shape(qp_file *f, qpi_entry *entry, const qpi_json *tensor) {
    qpi_json shape;
    if (!qpi_json_array(tensor, "shape", QPI_REQUIRED, &shape)) return false;
    size_t   n = json_array_size(shape.value);
    int64_t *sizes = qpi_arena_take(&f->arena, n * sizeof *sizes);
    if (!sizes) return qpi_fail_memory(tensor->error, "shape") == QP_OK;
    for (size_t i = 0; i < n; i++) {
        qpi_json size = qpi_json_item(&shape, i);
        if (!qpi_json_is(size.value, JSON_INTEGER) || json_integer_value(size.value) < 0) {
            qpi_json_fail(&size, QP_ERR_FORMAT, "expected a size, found %s", qpi_json_kind(size.value));
            return false;
        }
        sizes[i] = json_integer_value(size.value);
    }
    entry->ndim = (int)n;
    entry->shape = sizes;
    return true;
}

static bool parse_offsets(qpi_entry *entry, const qpi_json *tensor, uint64_t data_bytes) {
    qpi_json offsets;
    if (!qpi_json_array(tensor, "data_offsets", QPI_REQUIRED, &offsets)) return false;
    json_t *begin = json_array_get(offsets.value, 0), *end = json_array_get(offsets.value, 1);
    if (json_array_size(offsets.value) != 2 || !qpi_json_is(begin, JSON_INTEGER) ||
        !qpi_json_is(end, JSON_INTEGER)) {
        qpi_json_fail(&offsets, QP_ERR_FORMAT, "expected two integers");
        return false;
    }
    int64_t a = json_integer_value(begin), b = json_integer_value(end);
    if (a < 0 || b < a || (uint64_t)b > data_bytes) {
        qpi_json_fail(&offsets, QP_ERR_FORMAT,
                      "expected 0 <= begin <= end <= %" PRIu64 " (bytes of data), found %" PRId64 ", %" PRId64,
                      data_bytes, a, b);
        return false;
    }
    entry->begin = (uint64_t)a;
    entry->bytes = (uint64_t)(b - a);
    return true;
}

static bool parse_tensor(qp_file *f, uint32_t part, const char *name, const qpi_json *tensor,
                         uint64_t data_bytes) {
    const char *type_name;
    uint64_t    bits;
    qpi_entry  *entry = qpi_file_add(f, tensor->error);
    if (!entry) return false;
    entry->part = part;
    if (!qpi_json_is(tensor->value, JSON_OBJECT)) {
        qpi_json_fail(tensor, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(tensor->value));
        return false;
    }
    if (!qpi_json_string(tensor, "dtype", QPI_REQUIRED, &type_name) || !parse_shape(f, entry, tensor) ||
        !parse_offsets(entry, tensor, data_bytes))
        return false;
    entry->name = qpi_arena_text(&f->arena, name, strlen(name));
    entry->type_name = qpi_arena_text(&f->arena, type_name, strlen(type_name));
    if (!entry->name || !entry->type_name) return qpi_fail_memory(tensor->error, "tensor names") == QP_OK;
    const qpi_safetensors_type *type = qpi_safetensors_type_find(type_name);
    entry->dtype = type ? type->dtype : -1;
    if (!type) return true; /* of no concern until somebody wants this tensor */
    if (!count_bits(entry, type->bits, &bits) || bits % 8 || bits / 8 != entry->bytes) {
        qpi_json_fail(tensor, QP_ERR_FORMAT, "%" PRIu64 " bytes of data do not fit its shape and dtype",
                      entry->bytes);
        return false;
    }
    return true;
}

static bool parse_meta(qp_file *f, const qpi_json *meta) {
    const char *key;
    json_t     *value;
    if (!qpi_json_is(meta->value, JSON_OBJECT)) {
        qpi_json_fail(meta, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(meta->value));
        return false;
    }
    qpi_json_members(meta->value, key, value) {
        const char *text;
        if (!qpi_json_string(meta, key, QPI_REQUIRED, &text) || !qpi_file_add_meta(f, key, text, meta->error))
            return false;
    }
    return true;
}

static bool parse_header(qp_file *f, uint32_t part, const qpi_json *root, uint64_t data_bytes) {
    const char *key;
    json_t     *value;
    qpi_json_members(root->value, key, value) {
        qpi_json member = {.value = value, .parent = root, .key = key, .error = root->error};
        bool     ok = strcmp(key, "__metadata__") == 0 ? parse_meta(f, &member)
                                                       : parse_tensor(f, part, key, &member, data_bytes);
        if (!ok) return false;
    }
    return true;
}

static int by_place(const void *a, const void *b) {
    const qpi_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Sorts the part's entries by place and checks that they leave neither holes nor overlaps. */
static bool check_tiling(qpi_reader *r, qpi_entry *entries, size_t n, uint64_t start) {
    uint64_t at = 0;
    char     shown[QPI_SHOWN];
    if (n) qsort(entries, n, sizeof *entries, by_place);
    for (size_t i = 0; i < n; i++) {
        if (entries[i].begin != at) {
            qpi_read_fail(r, start + at,
                          "expected the data of \"%s\" here, its data_offsets say %" PRIu64
                          " instead of %" PRIu64,
                          qpi_shown(shown, entries[i].name, strlen(entries[i].name)), entries[i].begin, at);
            return false;
        }
        at += entries[i].bytes;
        entries[i].begin += start;
    }
    if (start + at == r->size) return true;
    qpi_read_fail(r, start + at, "expected the end, found %" PRIu64 " bytes that belong to no tensor",
                  r->size - start - at);
    return false;
}

static bool parse(qp_file *f, uint32_t part, qpi_error *e) {
    const qpi_bytes *bytes = f->parts[part];
    qpi_reader       r = qpi_reader_over(bytes->path, bytes->data, bytes->size, e);
    size_t           first = f->entry_count;
    uint64_t         length = qpi_read_u64(&r, "length of the header");
    if (length > QPI_SAFETENSORS_HEADER)
        qpi_read_fail(&r, 0, "expected a header of at most %" PRIu64 " bytes, found %" PRIu64,
                      QPI_SAFETENSORS_HEADER, length);
    const uint8_t *text = qpi_read_span(&r, length, "header");
    if (!text) return false;
    if (length < 2) {
        qpi_read_fail(&r, 8, "expected a JSON object, found something else");
        return false;
    }
    json_t *header = qpi_json_parse(bytes->path, text, (size_t)length, e);
    if (!header) return false;
    qpi_json root = qpi_json_root(bytes->path, header, e);
    bool     ok = parse_header(f, part, &root, qpi_reader_left(&r));
    json_decref(header);
    return ok && check_tiling(&r, f->entries + first, f->entry_count - first, r.at);
}

const qpi_file_format qpi_safetensors = {"safetensors", matches, parse};
