/* Reading GGUF: a header of counts, key-value pairs, descriptions of tensors, and their data. Every
 * count and length is compared with the bytes that are left before anything is made of it. */
#include "format/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define VERSION 3
#define LONGEST_NAME 65535 /* bytes of a key or name */

/* ---- Types ---------------------------------------------------------------------------------------- */

static const qpi_gguf_type types[] = {
    {0, "F32", 1, 4, QP_F32},        {1, "F16", 1, 2, QP_F16},        {30, "BF16", 1, 2, QP_BF16},
    {28, "F64", 1, 8, QP_F64},       {24, "I8", 1, 1, QP_I8},         {26, "I32", 1, 4, QP_I32},
    {27, "I64", 1, 8, QP_I64},       {8, "Q8_0", 32, 34, QP_Q8_0},    {2, "Q4_0", 32, 18, QP_Q4_0},
    {3, "Q4_1", 32, 20, QP_Q4_1},    {6, "Q5_0", 32, 22, QP_Q5_0},    {7, "Q5_1", 32, 24, QP_Q5_1},
    {10, "Q2_K", 256, 84, QP_Q2_K},  {11, "Q3_K", 256, 110, QP_Q3_K}, {12, "Q4_K", 256, 144, QP_Q4_K},
    {13, "Q5_K", 256, 176, QP_Q5_K}, {14, "Q6_K", 256, 210, QP_Q6_K}, {20, "IQ4_NL", 32, 18, QP_IQ4_NL},
    {25, "I16", 1, 2, -1},           {9, "Q8_1", 32, 36, -1},         {15, "Q8_K", 256, 292, -1},
    {16, "IQ2_XXS", 256, 66, -1},    {17, "IQ2_XS", 256, 74, -1},     {18, "IQ3_XXS", 256, 98, -1},
    {19, "IQ1_S", 256, 50, -1},      {21, "IQ3_S", 256, 110, -1},     {22, "IQ2_S", 256, 82, -1},
    {23, "IQ4_XS", 256, 136, -1},    {29, "IQ1_M", 256, 56, -1},      {34, "TQ1_0", 256, 54, -1},
    {35, "TQ2_0", 256, 66, -1},      {39, "MXFP4", 32, 17, -1}};
#define TYPES (sizeof types / sizeof *types)

const qpi_gguf_type *qpi_gguf_type_find(uint32_t id) {
    for (size_t i = 0; i < TYPES; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

const qpi_gguf_type *qpi_gguf_type_of(qp_dtype dtype) {
    for (size_t i = 0; i < TYPES; i++)
        if (types[i].dtype == (int)dtype) return &types[i];
    return NULL;
}

/* ---- Values ----------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int         bytes;
} kinds[QPI_GGUF_KINDS] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},  {"u32", 4},
                           {"i32", 4}, {"f32", 4}, {"bool", 1}, {"text", 0}, {"array", 0},
                           {"u64", 8}, {"i64", 8}, {"f64", 8}};

const char *qpi_gguf_kind_name(qpi_gguf_kind kind) { return kind < QPI_GGUF_KINDS ? kinds[kind].name : "?"; }

int qpi_gguf_kind_bytes(qpi_gguf_kind kind) { return kind < QPI_GGUF_KINDS ? kinds[kind].bytes : 0; }

static uint64_t little(const uint8_t *p, int bytes) {
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++) x |= (uint64_t)p[i] << 8 * i;
    return x;
}

bool qpi_gguf_integer(const qpi_gguf_value *v, uint64_t i, int64_t *out) {
    if (!v || i >= v->count) return false;
    int      bytes = kinds[v->kind].bytes;
    uint64_t x = bytes ? little(v->data + i * (uint64_t)bytes, bytes) : 0;
    switch (v->kind) {
    case QPI_GGUF_U8:
    case QPI_GGUF_U16:
    case QPI_GGUF_U32:
    case QPI_GGUF_BOOL: *out = (int64_t)x; return true;
    case QPI_GGUF_U64:
        if (x > INT64_MAX) return false;
        *out = (int64_t)x;
        return true;
    case QPI_GGUF_I8: *out = (int8_t)x; return true;
    case QPI_GGUF_I16: *out = (int16_t)x; return true;
    case QPI_GGUF_I32: *out = (int32_t)x; return true;
    case QPI_GGUF_I64: *out = (int64_t)x; return true;
    default: return false;
    }
}

bool qpi_gguf_number(const qpi_gguf_value *v, uint64_t i, double *out) {
    int64_t integer;
    float   f;
    if (!v || i >= v->count) return false;
    if (v->kind == QPI_GGUF_F32) {
        memcpy(&f, v->data + 4 * i, 4);
        *out = f;
        return true;
    }
    if (v->kind == QPI_GGUF_F64) {
        memcpy(out, v->data + 8 * i, 8);
        return true;
    }
    if (!qpi_gguf_integer(v, i, &integer)) return false;
    *out = (double)integer;
    return true;
}

qpi_gguf_texts qpi_gguf_texts_of(const qpi_gguf_value *v) {
    return v && v->kind == QPI_GGUF_TEXT ? (qpi_gguf_texts){v->data, v->count} : (qpi_gguf_texts){0};
}

bool qpi_gguf_text(qpi_gguf_texts *t, const char **text, size_t *n) {
    if (!t->left) return false;
    *n = (size_t)little(t->at, 8);
    *text = (const char *)t->at + 8;
    t->at += 8 + *n;
    t->left--;
    return true;
}

bool qpi_file_is_gguf(const qp_file *f) { return f->is_gguf; }

const qpi_gguf_value *qpi_gguf_at(const qp_file *f, size_t index) {
    return f && index < f->values.count ? &f->values.all[index] : NULL;
}

const qpi_gguf_value *qpi_gguf_find_in(const qpi_gguf_values *v, const char *key) {
    uint32_t i = qpi_names_find(&v->names, key, strlen(key));
    return i == QPI_NO_NAME ? NULL : &v->all[i];
}

const qpi_gguf_value *qpi_gguf_find(const qp_file *f, const char *key) {
    return f ? qpi_gguf_find_in(&f->values, key) : NULL;
}

/* ---- Reading names and values ------------------------------------------------------------------------- */

static bool is_name(const uint8_t *text, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (text[i] < 0x20 || text[i] == 0x7f) return false;
    return n > 0;
}

/* Length and text. */
static char *read_name(qp_file *f, qpi_reader *r, const char *what) {
    uint64_t       at = r->at, n = qpi_read_u64(r, what);
    const uint8_t *text = r->failed || n > LONGEST_NAME ? NULL : qpi_read_span(r, n, what);
    if (!r->failed && (!text || !is_name(text, n)))
        qpi_read_fail(r, at, "expected %s of 1 to %d bytes, no control bytes, found %" PRIu64 " bytes", what,
                      LONGEST_NAME, n);
    if (r->failed) return NULL;
    char *copy = qpi_arena_text(&f->arena, (const char *)text, (size_t)n);
    if (!copy) r->failed = qpi_fail_memory(r->error, r->name) != QP_OK;
    return copy;
}

static uint32_t read_kind(qpi_reader *r, const char *what) {
    uint64_t at = r->at;
    uint32_t kind = qpi_read_u32(r, what);
    if (!r->failed && kind >= QPI_GGUF_KINDS)
        qpi_read_fail(r, at, "expected %s of 0 to %d, found %" PRIu32, what, QPI_GGUF_KINDS - 1, kind);
    return r->failed ? 0 : kind;
}

/* The elements of v, whose kind and count are set. */
static void read_elements(qpi_reader *r, qpi_gguf_value *v) {
    uint64_t at = r->at, bytes = (uint64_t)(v->kind == QPI_GGUF_TEXT ? 8 : kinds[v->kind].bytes);
    if (v->count > qpi_reader_left(r) / bytes) {
        qpi_read_fail(r, at, "expected %" PRIu64 " elements of %s, found %" PRIu64 " bytes to the end",
                      v->count, kinds[v->kind].name, qpi_reader_left(r));
        return;
    }
    v->data = r->data + r->at;
    if (v->kind != QPI_GGUF_TEXT) {
        qpi_read_span(r, v->count * bytes, "values");
        for (uint64_t i = 0; v->kind == QPI_GGUF_BOOL && i < v->count && !r->failed; i++)
            if (v->data[i] > 1) qpi_read_fail(r, at + i, "expected 0 or 1 (bool), found %d", v->data[i]);
        return;
    }
    for (uint64_t i = 0; i < v->count && !r->failed; i++) {
        uint64_t n = qpi_read_u64(r, "length of a text");
        qpi_read_span(r, n, "text");
    }
}

static void read_value(qpi_reader *r, qpi_gguf_value *v) {
    uint64_t at = r->at;
    v->kind = (qpi_gguf_kind)read_kind(r, "a kind of value");
    v->count = 1;
    v->array = v->kind == QPI_GGUF_ARRAY;
    if (v->array) {
        v->kind = (qpi_gguf_kind)read_kind(r, "a kind of elements");
        v->count = qpi_read_u64(r, "length of an array");
    }
    if (r->failed) return;
    if (v->kind != QPI_GGUF_ARRAY) {
        read_elements(r, v);
        return;
    }
    qpi_fail(r->error, QP_ERR_UNSUPPORTED, "%s: offset %" PRIu64 ": \"%.60s\" is an array of arrays", r->name,
             at, v->key);
    r->failed = true;
}

/* Single values are metadata of the file as text, too; but texts with a NUL. */
static bool add_text(qp_file *f, const qpi_gguf_value *v, qpi_error *e) {
    char           number[40];
    const char    *text = number;
    size_t         n;
    int64_t        i = 0;
    double         x = 0;
    qpi_gguf_texts t = qpi_gguf_texts_of(v);
    if (v->array) return true;
    if (qpi_gguf_text(&t, &text, &n)) {
        if (memchr(text, 0, n)) return true;
        text = qpi_arena_text(&f->arena, text, n);
        return text ? qpi_file_add_meta(f, v->key, text, e) : qpi_fail_memory(e, "metadata") == QP_OK;
    }
    if (v->kind == QPI_GGUF_BOOL) text = v->data[0] ? "true" : "false";
    else if (qpi_gguf_integer(v, 0, &i)) snprintf(number, sizeof number, "%" PRId64, i);
    else if (qpi_gguf_number(v, 0, &x))
        snprintf(number, sizeof number, v->kind == QPI_GGUF_F32 ? "%.9g" : "%.17g", x);
    else snprintf(number, sizeof number, "%" PRIu64, little(v->data, 8));
    return qpi_file_add_meta(f, v->key, text, e);
}

static bool read_pair(qp_file *f, qpi_reader *r) {
    uint64_t        at = r->at;
    uint32_t        before;
    qpi_gguf_value *p = qpi_grown(f->values.all, &f->values.capacity, f->values.count + 1, sizeof *p);
    if (!p) return qpi_fail_memory(r->error, r->name) == QP_OK;
    f->values.all = p;
    p += f->values.count;
    *p = (qpi_gguf_value){.key = read_name(f, r, "a key")};
    if (r->failed) return false;
    if (!qpi_names_add(&f->values.names, p->key, strlen(p->key), (uint32_t)f->values.count, &before))
        return qpi_fail_memory(r->error, r->name) == QP_OK;
    f->values.count++;
    if (before != QPI_NO_NAME) qpi_read_fail(r, at, "expected each key once, found \"%.60s\" twice", p->key);
    if (!r->failed) read_value(r, p);
    return !r->failed && add_text(f, p, r->error);
}

/* ---- Tensors -------------------------------------------------------------------------------------------- */

/* Sizes are stored innermost first. Bytes are checked where the type is known. */
static bool read_shape(qp_file *f, qpi_reader *r, qpi_entry *x) {
    uint64_t at = r->at, count = 1;
    uint32_t ndim = qpi_read_u32(r, "number of axes");
    if (!r->failed && ndim > QP_MAX_DIMS)
        qpi_read_fail(r, at, "expected at most %d axes of \"%.60s\", found %" PRIu32, QP_MAX_DIMS, x->name,
                      ndim);
    if (r->failed) return false;
    int64_t *shape = qpi_arena_take(&f->arena, (ndim + 1) * sizeof *shape);
    if (!shape) return qpi_fail_memory(r->error, r->name) == QP_OK;
    for (uint32_t i = 0; i < ndim && !r->failed; i++) {
        uint64_t size = qpi_read_u64(r, "size of an axis");
        shape[ndim - 1 - i] = (int64_t)size;
        /* zero sizes must not hide an overflow of the others */
        if (!r->failed && (size > INT64_MAX || __builtin_mul_overflow(count, size ? size : 1, &count) ||
                           count > INT64_MAX / 16))
            qpi_read_fail(r, at, "sizes of \"%.60s\" are negative or too large", x->name);
    }
    x->ndim = (int)ndim;
    x->shape = shape;
    return !r->failed;
}

static bool read_type(qpi_reader *r, qpi_entry *x, qp_file *f) {
    char                 unknown[24];
    uint64_t             at = r->at, count = 1;
    uint32_t             id = qpi_read_u32(r, "type of a tensor");
    const qpi_gguf_type *type = qpi_gguf_type_find(id);
    int64_t              last = x->ndim ? x->shape[x->ndim - 1] : 1;
    if (r->failed) return false;
    x->dtype = type ? type->dtype : -1;
    snprintf(unknown, sizeof unknown, "%" PRIu32, id);
    x->type_name = type ? type->name : qpi_arena_text(&f->arena, unknown, strlen(unknown));
    if (!x->type_name) return qpi_fail_memory(r->error, r->name) == QP_OK;
    if (!type) return true; /* of no concern until somebody wants this tensor */
    for (int i = 0; i < x->ndim; i++) count *= (uint64_t)x->shape[i];
    if (last % type->block)
        qpi_read_fail(r, at, "\"%.60s\" has rows of %" PRId64 " elements, blocks of %s have %d", x->name, last,
                      type->name, type->block);
    x->bytes = count / (uint64_t)type->block * (uint64_t)type->bytes;
    return !r->failed;
}

static bool read_tensor(qp_file *f, uint32_t part, qpi_reader *r, uint64_t alignment) {
    qpi_entry *x = qpi_file_add(f, r->error);
    if (!x) return false;
    x->part = part;
    x->name = read_name(f, r, "the name of a tensor");
    if (!x->name || !read_shape(f, r, x) || !read_type(r, x, f)) return false;
    uint64_t at = r->at;
    x->begin = qpi_read_u64(r, "offset of a tensor");
    if (!r->failed && x->begin % alignment)
        qpi_read_fail(r, at, "expected the offset of \"%.60s\" at a multiple of %" PRIu64 ", found %" PRIu64,
                      x->name, alignment, x->begin);
    return !r->failed;
}

static int by_place(const void *a, const void *b) {
    const qpi_entry *x = *(const qpi_entry *const *)a, *y = *(const qpi_entry *const *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Data lie within the file and are no other tensor's; begins become offsets in the file. */
static bool place_tensors(qpi_reader *r, qpi_entry *entries, size_t n, uint64_t alignment) {
    uint64_t          start = r->at + (alignment - r->at % alignment) % alignment, end = 0;
    const qpi_entry **order = malloc(n * sizeof *order);
    if (!order) return qpi_fail_memory(r->error, r->name) == QP_OK;
    for (size_t i = 0; i < n; i++) order[i] = &entries[i];
    qsort(order, n, sizeof *order, by_place);
    for (size_t i = 0; i < n && !r->failed; i++) {
        const qpi_entry *x = order[i];
        uint64_t         room = start > r->size || x->begin > r->size - start ? 0 : r->size - start - x->begin;
        if (x->bytes > room)
            qpi_read_fail(r, r->at,
                          "expected %" PRIu64 " bytes of \"%.60s\" at %" PRIu64 " of the data, found %" PRIu64,
                          x->bytes, x->name, x->begin, room);
        else if (x->bytes && x->begin < end)
            qpi_read_fail(r, r->at, "\"%.60s\" and \"%.60s\" lie at the same place", order[i - 1]->name,
                          x->name);
        if (x->bytes) end = x->begin + x->bytes;
    }
    free(order);
    for (size_t i = 0; i < n && !r->failed; i++)
        entries[i].begin = entries[i].bytes ? entries[i].begin + start : 0;
    return !r->failed;
}

/* ---- The file -------------------------------------------------------------------------------------------- */

static bool matches(const qpi_bytes *bytes) { return bytes->size >= 4 && memcmp(bytes->data, "GGUF", 4) == 0; }

bool qpi_path_is_gguf(const char *path) {
    struct stat st;
    char        magic[4] = {0};
    FILE       *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    bool        yes = f && fread(magic, 1, 4, f) == 4 && !memcmp(magic, "GGUF", 4);
    if (f) fclose(f);
    return yes;
}

static bool read_version(qpi_reader *r) {
    uint32_t version;
    qpi_read_u32(r, "magic");
    version = qpi_read_u32(r, "version");
    if (r->failed) return false;
    if (version == 2 || version == VERSION) return true;
    qpi_fail(r->error, QP_ERR_UNSUPPORTED, "%s: offset 4: GGUF version %" PRIu32 "%s, expected 2 or 3", r->name,
             version, version && !(version & 0xffffff) ? " (big-endian)" : "");
    return false;
}

/* A count of things of at least `bytes` bytes each. */
static uint64_t read_count(qpi_reader *r, const char *what, uint64_t bytes) {
    uint64_t at = r->at, n = qpi_read_u64(r, what);
    if (!r->failed && n > r->size / bytes)
        qpi_read_fail(r, at, "%" PRIu64 " %s do not fit into %" PRIu64 " bytes", n, what, r->size);
    return r->failed ? 0 : n;
}

static bool alignment_of(const qp_file *f, qpi_reader *r, uint64_t *alignment) {
    const qpi_gguf_value *v = qpi_gguf_find(f, "general.alignment");
    int64_t               x = QPI_GGUF_ALIGNMENT;
    if (v && (v->array || !qpi_gguf_integer(v, 0, &x) || x < 1 || x > 1 << 30 || (x & (x - 1))))
        qpi_read_fail(r, r->at, "expected general.alignment to be a power of 2 up to 2^30");
    *alignment = (uint64_t)x;
    return !r->failed;
}

static bool parse_one(qp_file *f, uint32_t part, qpi_error *e) {
    const qpi_bytes *bytes = f->parts[part];
    qpi_reader       r = qpi_reader_over(bytes->path, bytes->data, bytes->size, e);
    size_t           first = f->entry_count;
    uint64_t         tensors, pairs, alignment;
    f->is_gguf = true;
    if (!read_version(&r)) return false;
    tensors = read_count(&r, "tensors", 24);
    pairs = read_count(&r, "metadata entries", 13);
    if (r.failed) return false;
    for (uint64_t i = 0; i < pairs; i++)
        if (!read_pair(f, &r)) return false;
    if (!alignment_of(f, &r, &alignment)) return false;
    for (uint64_t i = 0; i < tensors; i++)
        if (!read_tensor(f, part, &r, alignment)) return false;
    if (!tensors) return true;
    return place_tensors(&r, f->entries + first, f->entry_count - first, alignment);
}

/* Of later parts only the tensors stay. */
static bool parse(qp_file *f, uint32_t part, qpi_error *e) {
    qpi_gguf_values first = f->values;
    size_t          meta = f->meta_count;
    if (part == 0) return parse_one(f, part, e);
    if (!qpi_gguf_find(f, "split.count")) {
        qpi_fail(e, QP_ERR_FORMAT, "%s: a GGUF file cannot be a part of a checkpoint in safetensors files",
                 f->parts[part]->path);
        return false;
    }
    f->values = (qpi_gguf_values){0};
    bool ok = parse_one(f, part, e) && qpi_gguf_part_fits(f, &first, part, e);
    qpi_gguf_values_free(&f->values);
    f->values = first;
    f->meta_count = meta;
    return ok;
}

const qpi_file_format qpi_gguf = {"GGUF", matches, parse};
