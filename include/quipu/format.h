/* quipu/format.h: files of named tensors.
 *
 * Reading: a safetensors file, a checkpoint cut into several of them with an index, a folder that holds
 * either, or a GGUF file (versions 2 and 3). Files come from anywhere, so everything in them is checked, and
 * a damaged or hostile file gives one error that names the file and the place.
 *
 * Formats: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, data that the
 * header's offsets tile exactly); https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
 */
#ifndef QUIPU_FORMAT_H
#define QUIPU_FORMAT_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Reading ------------------------------------------------------------------------- */

typedef struct qp_file qp_file;

typedef struct {
    bool in_memory; /* read the file instead of mapping it. A mapping costs no memory and is
                       shared between processes, but if somebody truncates the file meanwhile,
                       touching the lost part ends the process. */
} qp_file_options;

/* path: FILE.safetensors, FILE.safetensors.index.json, FILE.gguf, or a folder with model.safetensors or
 * model.safetensors.index.json in it. NULL after storing an error: IO (cannot be opened or
 * read), FORMAT (names the file and offset or key), UNSUPPORTED, MEMORY. A file belongs to no context: ctx
 * only receives the error. */
QP_API qp_file *qp_file_open(qp_ctx *ctx, const char *path, qp_file_options options);

/* Tensors that were loaded stay valid. NULL is allowed. */
QP_API void qp_file_close(qp_file *file);

typedef struct {
    const char    *name;      /* texts and shape belong to the file */
    const char    *type_name; /* as the file calls it: "F32", "F8_E4M3" */
    bool           loadable;  /* quipu has the type and the number of axes */
    qp_dtype       dtype;     /* if loadable */
    int            ndim;
    const int64_t *shape;
    uint64_t       bytes; /* in the file */
} qp_file_entry;

/* Entries are ordered as in the file; in an index, shard by shard. */
QP_API int64_t qp_file_count(const qp_file *file);
QP_API qp_file_entry qp_file_at(const qp_file *file, int64_t index); /* zeros if out of range */
QP_API int64_t qp_file_find(const qp_file *file, const char *name);  /* index, or -1 */

/* The metadata text under a key, NULL if there is none; and all of it by index, false past
 * the end. Of a sharded checkpoint: that of its first shard. Of a GGUF file: what is no array. */
QP_API const char *qp_file_meta(const qp_file *file, const char *key);
QP_API bool qp_file_meta_at(const qp_file *file, int64_t index, const char **key, const char **value);

/* The tensor: read-only and without a copy if the file is mapped and its data aligned for the
 * type, otherwise (or with copy) a writable copy. Poison and an error: ARGUMENT (no such
 * name), UNSUPPORTED (not loadable), MEMORY. Several threads may load from one file at once,
 * each into its own context. */
QP_API qp_tensor qp_file_load(qp_ctx *ctx, const qp_file *file, const char *name, bool copy);

/* ---- Writing ------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    qp_tensor   tensor;
} qp_named;

typedef struct {
    const char *key, *value;
} qp_meta;

typedef struct {
    uint64_t       shard_bytes; /* most bytes of tensors in one file; 0: no limit */
    const qp_meta *meta;        /* NULL: {"format": "pt"}, which transformers asks for */
    int            meta_count;
} qp_save_options;

/* Writes n tensors to path (NAME.safetensors). If they exceed shard_bytes, NAME-00001-of-
 * 00003.safetensors and so on with NAME.safetensors.index.json are written instead (tensors in
 * the order given; one larger than the limit gets a file of its own). A file of the other form
 * that lay there under the same name is removed afterwards, because readers would find it
 * first. Each file appears complete or not at all.
 * Errors: ARGUMENT (a name twice, empty or not UTF-8), TYPE, IO, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_file_save(qp_ctx *ctx, const char *path, int64_t n, const qp_named *tensors,
                                            qp_save_options options);

#ifdef __cplusplus
}
#endif
#endif
