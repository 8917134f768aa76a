/* GGUF files: what they say about a model, beside its tensors (which qp_file_load gives).
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
 */
#ifndef QUIPU_FORMAT_GGUF_H
#define QUIPU_FORMAT_GGUF_H

#include "format/file.h"

typedef enum {
    QPI_GGUF_U8,
    QPI_GGUF_I8,
    QPI_GGUF_U16,
    QPI_GGUF_I16,
    QPI_GGUF_U32,
    QPI_GGUF_I32,
    QPI_GGUF_F32,
    QPI_GGUF_BOOL,
    QPI_GGUF_TEXT,
    QPI_GGUF_ARRAY,
    QPI_GGUF_U64,
    QPI_GGUF_I64,
    QPI_GGUF_F64,
    QPI_GGUF_KINDS
} qpi_gguf_kind;

/* A value where it lies in the file, checked: good as long as the file is open. */
struct qpi_gguf_value {
    const char    *key;
    qpi_gguf_kind  kind; /* of an array: of its elements, never ARRAY */
    bool           array;
    uint64_t       count; /* elements; 1 of what is no array */
    const uint8_t *data;  /* of texts: length (8 bytes) and text, one behind the other */
};
typedef struct qpi_gguf_value qpi_gguf_value;

/* By key or by index (in the file's order); NULL: not there, or the file is no GGUF file. */
const qpi_gguf_value *qpi_gguf_find(const qp_file *f, const char *key);
const qpi_gguf_value *qpi_gguf_at(const qp_file *f, size_t index);
const qpi_gguf_value *qpi_gguf_find_in(const qpi_gguf_values *v, const char *key);
bool qpi_file_is_gguf(const qp_file *f);
bool qpi_path_is_gguf(const char *path); /* a regular file that begins as such */

/* Element i (0 of what is no array); false and *out as it was: v is NULL, i is past the end, or the
 * value is no integer (BOOL counts: 0, 1) that fits, no number. */
bool qpi_gguf_integer(const qpi_gguf_value *v, uint64_t i, int64_t *out);
bool qpi_gguf_number(const qpi_gguf_value *v, uint64_t i, double *out);

/* One text after the other, bytes of any kind and no 0 behind them:
 *     const char *text;
 *     size_t      n;
 *     for (qpi_gguf_texts t = qpi_gguf_texts_of(v); qpi_gguf_text(&t, &text, &n);) ...
 * Of NULL and of other kinds: none. */
typedef struct {
    const uint8_t *at;
    uint64_t       left;
} qpi_gguf_texts;
qpi_gguf_texts qpi_gguf_texts_of(const qpi_gguf_value *v);
bool qpi_gguf_text(qpi_gguf_texts *t, const char **text, size_t *n);

const char *qpi_gguf_kind_name(qpi_gguf_kind kind); /* "u32" */
int qpi_gguf_kind_bytes(qpi_gguf_kind kind);        /* of one element; 0: of a text or an array */

/* Types of tensors as the format numbers them. */
typedef struct {
    uint32_t    id;
    const char *name; /* "Q4_K" */
    int         block, bytes;
    int         dtype; /* qp_dtype, -1: not one of ours */
} qpi_gguf_type;
const qpi_gguf_type *qpi_gguf_type_find(uint32_t id);  /* NULL: unknown */
const qpi_gguf_type *qpi_gguf_type_of(qp_dtype dtype); /* NULL: GGUF has none */

/* ---- Writing ------------------------------------------------------------------------------------------ */

/* Begins as {0}. A lack of memory is kept and reported by qpi_gguf_save. */
typedef struct {
    qpi_buffer bytes;
    uint64_t   count;
    bool       failed;
} qpi_gguf_pairs;

void qpi_gguf_put_integer(qpi_gguf_pairs *p, const char *key, qpi_gguf_kind kind, int64_t x); /* also BOOL */
void qpi_gguf_put_f32(qpi_gguf_pairs *p, const char *key, float x);
void qpi_gguf_put_text(qpi_gguf_pairs *p, const char *key, const char *text, size_t n);
void qpi_gguf_put_value(qpi_gguf_pairs *p, const qpi_gguf_value *v); /* as another file has it */
/* An array begins with its length; `count` calls of one of the others must follow. */
void qpi_gguf_put_array(qpi_gguf_pairs *p, const char *key, qpi_gguf_kind kind, uint64_t count);
void qpi_gguf_add_text(qpi_gguf_pairs *p, const char *text, size_t n);
void qpi_gguf_add_bool(qpi_gguf_pairs *p, bool x);
void qpi_gguf_add_i32(qpi_gguf_pairs *p, int32_t x);
void qpi_gguf_add_f32(qpi_gguf_pairs *p, float x);
void qpi_gguf_pairs_free(qpi_gguf_pairs *p);

typedef struct {
    const char *name;
    qp_dtype    dtype;
    int         ndim;
    int64_t     shape[QP_MAX_DIMS];
} qpi_gguf_tensor;

/* Writes a file that appears complete or not at all. data(user, i) gives the bytes of tensor i, in order,
 * good until the next call; NULL: it has stored an error. */
bool qpi_gguf_save(const char *path, const qpi_gguf_pairs *pairs, int64_t n, const qpi_gguf_tensor *tensors,
                   const void *(*data)(void *user, int64_t i), void *user, qpi_error *e);

#define QPI_GGUF_ALIGNMENT 32 /* of tensors, where the file does not say */

#endif
