/* JSON trees of jansson: read by the reader of json_stream.h, with positions and key paths in every
 * error; and a writer. For tables of megabytes see json_stream.h. */
#ifndef QUIPU_FORMAT_JSON_H
#define QUIPU_FORMAT_JSON_H

#include <jansson.h>

#include "core/error.h"
#include "format/buffer.h"

/* The document, or NULL after storing "NAME: line L column C: ...". Duplicate keys, bytes
 * of value 0 and anything behind the value are errors. */
json_t *qpi_json_parse(const char *name, const void *data, size_t size, qpi_error *e);
json_t *qpi_json_load(const char *path, qpi_error *e);
/* Of folder/name; NULL without an error if it is not there. */
json_t *qpi_json_load_in(const char *folder, const char *name, qpi_error *e);

/* A value and the way to it, for messages. Lives on the stack; parents outlive children. */
typedef struct qpi_json {
    json_t                *value; /* NULL: absent (or null) */
    const struct qpi_json *parent;
    const char            *key; /* within an object, otherwise index counts */
    size_t                 index;
    const char            *name; /* of the document; only in the root */
    qpi_error             *error;
} qpi_json;

qpi_json qpi_json_root(const char *name, json_t *value, qpi_error *e);
qpi_json qpi_json_member(const qpi_json *object, const char *key);
qpi_json qpi_json_item(const qpi_json *array, size_t index);

/* Stores "NAME: path.to[3].key: ..." as QP_ERR_FORMAT, or with the given code. */
void qpi_json_fail(const qpi_json *at, qp_code code, const char *format, ...) QP_PRINTF(3, 4);

/* Typed getters of object members. False after storing an error. With QPI_OPTIONAL an absent
 * or null member leaves *out as it is. */
typedef enum { QPI_REQUIRED, QPI_OPTIONAL } qpi_need;
bool qpi_json_integer(const qpi_json *object, const char *key, qpi_need need, int64_t low, int64_t high,
                      int64_t *out);
bool qpi_json_number(const qpi_json *object, const char *key, qpi_need need, double low, double high,
                     double *out);
bool qpi_json_boolean(const qpi_json *object, const char *key, qpi_need need, bool *out);
/* The text belongs to the document. */
bool qpi_json_string(const qpi_json *object, const char *key, qpi_need need, const char **out);
bool qpi_json_object(const qpi_json *object, const char *key, qpi_need need, qpi_json *out);
bool qpi_json_array(const qpi_json *object, const char *key, qpi_need need, qpi_json *out);

/* Of what may be NULL. */
static inline bool qpi_json_is(const json_t *value, json_type type) {
    return value && json_typeof(value) == type;
}
static inline bool qpi_json_is_number(const json_t *value) {
    return qpi_json_is(value, JSON_INTEGER) || qpi_json_is(value, JSON_REAL);
}

/* for each member of an object: const char *key, json_t *value; the object must not change meanwhile */
#define qpi_json_members(object, key, value) \
    for (void *at_ = json_object_iter((json_t *)(object)); \
         at_ && \
         ((key) = json_object_iter_key(at_), (value) = json_object_iter_value(at_), (void)(value), true); \
         at_ = json_object_iter_next((json_t *)(object), at_))

/* "object", "string", ... of what is there. */
const char *qpi_json_kind(const json_t *value);

/* Appends the text: indent 0 is compact, 2 like transformers writes. Numbers are the shortest
 * that read back the same. False: no memory. */
bool qpi_json_print(qpi_buffer *out, const json_t *value, int indent);
bool qpi_json_print_string(qpi_buffer *out, const char *text, size_t n);
bool qpi_json_print_real(qpi_buffer *out,
                         double      x); /* the fewest digits that read back the same, as Python writes it */
bool qpi_json_save(const char *path, const json_t *value, int indent, qpi_error *e);

#endif
