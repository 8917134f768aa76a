/* Writing GGUF version 3. */
#include <inttypes.h>
#include <string.h>

#include "format/gguf.h"
#include "format/writer.h"

/* ---- Pairs --------------------------------------------------------------------------------------- */

static void put(qpi_gguf_pairs *p, const void *data, size_t n) {
    p->failed |= !qpi_buffer_put(&p->bytes, data, n);
}

static void put_little(qpi_gguf_pairs *p, uint64_t x, int bytes) {
    uint8_t little[8];
    for (int i = 0; i < bytes; i++) little[i] = (uint8_t)(x >> 8 * i);
    put(p, little, (size_t)bytes);
}

static void put_text(qpi_gguf_pairs *p, const char *text, size_t n) {
    put_little(p, n, 8);
    put(p, text, n);
}

static void put_key(qpi_gguf_pairs *p, const char *key, qpi_gguf_kind kind) {
    put_text(p, key, strlen(key));
    put_little(p, kind, 4);
    p->count++;
}

void qpi_gguf_put_integer(qpi_gguf_pairs *p, const char *key, qpi_gguf_kind kind, int64_t x) {
    put_key(p, key, kind);
    put_little(p, (uint64_t)x, qpi_gguf_kind_bytes(kind));
}

void qpi_gguf_put_f32(qpi_gguf_pairs *p, const char *key, float x) {
    put_key(p, key, QPI_GGUF_F32);
    put(p, &x, sizeof x);
}

void qpi_gguf_put_text(qpi_gguf_pairs *p, const char *key, const char *text, size_t n) {
    put_key(p, key, QPI_GGUF_TEXT);
    put_text(p, text, n);
}

void qpi_gguf_put_array(qpi_gguf_pairs *p, const char *key, qpi_gguf_kind kind, uint64_t count) {
    put_key(p, key, QPI_GGUF_ARRAY);
    put_little(p, kind, 4);
    put_little(p, count, 8);
}

void qpi_gguf_add_text(qpi_gguf_pairs *p, const char *text, size_t n) { put_text(p, text, n); }
void qpi_gguf_add_bool(qpi_gguf_pairs *p, bool x) { put_little(p, x, 1); }
void qpi_gguf_add_i32(qpi_gguf_pairs *p, int32_t x) { put_little(p, (uint32_t)x, 4); }
void qpi_gguf_add_f32(qpi_gguf_pairs *p, float x) { put(p, &x, sizeof x); }

void qpi_gguf_put_value(qpi_gguf_pairs *p, const qpi_gguf_value *v) {
    const char    *text;
    size_t         n;
    qpi_gguf_texts t = qpi_gguf_texts_of(v);
    if (v->array) qpi_gguf_put_array(p, v->key, v->kind, v->count);
    else put_key(p, v->key, v->kind);
    if (v->kind != QPI_GGUF_TEXT) put(p, v->data, (size_t)v->count * (size_t)qpi_gguf_kind_bytes(v->kind));
    while (qpi_gguf_text(&t, &text, &n)) put_text(p, text, n);
}

void qpi_gguf_pairs_free(qpi_gguf_pairs *p) {
    qpi_buffer_free(&p->bytes);
    *p = (qpi_gguf_pairs){0};
}

/* ---- The file -------------------------------------------------------------------------------------- */

static const uint8_t zeros[QPI_GGUF_ALIGNMENT];

/* Bytes from n to the next multiple of the alignment. */
static size_t padding(uint64_t n) { return (size_t)(-n % QPI_GGUF_ALIGNMENT); }

static uint64_t bytes_of(const qpi_gguf_tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++) count *= t->shape[i];
    return qp_dtype_size(t->dtype, count);
}

/* Everything before the data: `all` begins empty. */
static bool describe(const char *path, qpi_gguf_pairs *all, const qpi_gguf_pairs *pairs, int64_t n,
                     const qpi_gguf_tensor *tensors, qpi_error *e) {
    uint64_t offset = 0;
    put(all, "GGUF", 4);
    put_little(all, 3, 4);
    put_little(all, (uint64_t)n, 8);
    put_little(all, pairs->count, 8);
    put(all, pairs->bytes.data, pairs->bytes.count);
    all->failed |= pairs->failed;
    for (int64_t i = 0; i < n; i++) {
        const qpi_gguf_tensor *t = &tensors[i];
        const qpi_gguf_type   *type = qpi_gguf_type_of(t->dtype);
        if (!type)
            return qpi_fail(e, QP_ERR_TYPE, "%s: %s is %s: GGUF has no such type", path, t->name,
                            qp_dtype_name(t->dtype)) == QP_OK;
        put_text(all, t->name, strlen(t->name));
        put_little(all, (uint64_t)t->ndim, 4);
        for (int k = t->ndim - 1; k >= 0; k--) put_little(all, (uint64_t)t->shape[k], 8);
        put_little(all, type->id, 4);
        put_little(all, offset, 8);
        offset += bytes_of(t);
        offset += padding(offset);
    }
    put(all, zeros, padding(all->bytes.count));
    if (all->failed) qpi_fail_memory(e, path);
    return !all->failed;
}

bool qpi_gguf_save(const char *path, const qpi_gguf_pairs *pairs, int64_t n, const qpi_gguf_tensor *tensors,
                   const void *(*data)(void *user, int64_t i), void *user, qpi_error *e) {
    qpi_gguf_pairs head = {0};
    qpi_writer     w;
    bool           ok = describe(path, &head, pairs, n, tensors, e) && qpi_writer_open(&w, path, e);
    if (ok) {
        ok = qpi_write(&w, head.bytes.data, head.bytes.count);
        for (int64_t i = 0; ok && i < n; i++) {
            uint64_t    bytes = bytes_of(&tensors[i]);
            const void *p = data(user, i);
            if (p) qpi_write(&w, p, (size_t)bytes);
            ok = p && qpi_write(&w, zeros, padding(bytes)); /* false if any write failed */
        }
        if (ok) ok = qpi_writer_finish(&w);
        else qpi_writer_abort(&w);
    }
    qpi_gguf_pairs_free(&head);
    return ok;
}
