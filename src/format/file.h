/* A file of tensors, opened: what every format's parser fills and qp_file_* reads. */
#ifndef QUIPU_FORMAT_FILE_H
#define QUIPU_FORMAT_FILE_H

#include "format/buffer.h"
#include "format/names.h"
#include "format/reader.h"
#include "quipu/format.h"

typedef struct {
    const char    *name, *type_name;
    int            dtype; /* qp_dtype, -1: not one of ours */
    int            ndim;
    const int64_t *shape;
    uint32_t       part;  /* the file that holds it */
    uint64_t       begin; /* offset there */
    uint64_t       bytes;
} qpi_entry;

/* What a GGUF file says, see gguf.h. */
typedef struct {
    struct qpi_gguf_value *all;
    size_t                 count, capacity;
    qpi_names              names;
} qpi_gguf_values;

struct qp_file {
    qpi_arena       arena; /* names, shapes, metadata */
    qpi_bytes     **parts;
    size_t          part_count, part_capacity;
    qpi_entry      *entries;
    size_t          entry_count, entry_capacity;
    qpi_names       names;
    qp_meta        *meta;
    size_t          meta_count, meta_capacity;
    bool            is_gguf;
    qpi_gguf_values values; /* of GGUF; of several parts: the first's */
};

/* A format of one file. parse adds the entries of parts[part], whose names are its own to
 * check against each other; the table in file.c lists the formats. */
typedef struct {
    const char *name;
    bool (*matches)(const qpi_bytes *bytes);
    bool (*parse)(qp_file *f, uint32_t part, qpi_error *e);
} qpi_file_format;

extern const qpi_file_format qpi_safetensors, qpi_gguf;

qpi_entry *qpi_file_add(qp_file *f, qpi_error *e); /* a new entry, zeros */
bool qpi_file_add_meta(qp_file *f, const char *key, const char *value, qpi_error *e);
bool qpi_file_add_part(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e);
/* When all entries are there: finds them by name from now on, each of which there is once. */
bool qpi_file_index(qp_file *f, qpi_error *e);

/* Everything that qp_file_open does, without a context. */
qp_file *qpi_file_open(const char *path, qpi_open_mode mode, qpi_error *e);

/* index.c: opens the shards that an index names and keeps the entries it lists, by name. */
bool qpi_index_open(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e);

/* gguf_parts.c: opens what belongs to the GGUF file just opened, the first part of several; a whole model
 * stays as it is. */
bool qpi_gguf_open_parts(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e);
/* Does parts[part], whose values f has at the moment, go with the first? */
bool qpi_gguf_part_fits(const qp_file *f, const qpi_gguf_values *first, uint32_t part, qpi_error *e);
void qpi_gguf_values_free(qpi_gguf_values *v);

#endif
