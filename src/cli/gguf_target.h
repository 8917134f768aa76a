/* A GGUF file on the way: pairs and tensors of a model, from a folder or another GGUF file. */
#ifndef QUIPU_CLI_GGUF_TARGET_H
#define QUIPU_CLI_GGUF_TARGET_H

#include "cli/open.h"
#include "format/gguf.h"

typedef struct {
    qpi_gguf_tensor as; /* as it will be written */
    qp_tensor       source;
    double          error;   /* root of the mean square of what rounding changed, relative; NaN: not rounded */
    double          largest; /* of these changes */
} gguf_item;

typedef struct {
    qp_ctx        *ctx;
    const char    *path;  /* of the model */
    qp_file       *file;  /* of a GGUF file */
    qp_model      *model; /* of a folder */
    qpi_gguf_pairs pairs; /* without general.file_type and general.quantization_version */
    gguf_item     *items;
    int64_t        count, layers, heads, kv_heads;
    bool           tied;
    cli_progress  *progress; /* NULL: none */
    qp_tensor      held;     /* what is being written */
} gguf_target;

/* May it have another type than f32? Norms, biases, places and routers of experts are f32 everywhere. */
bool gguf_is_matrix(const gguf_item *item);

/* Opens MODEL; items have their source's type. False after storing an error. */
bool gguf_target_open(gguf_target *t, qp_ctx *ctx, const char *path);
/* Can a file be written there? False after storing an error. Asked before the work. */
bool gguf_check_out(qp_ctx *ctx, const char *path);
/* Writes the file with items as they are by now. */
bool gguf_target_save(gguf_target *t, const char *path, int64_t file_type);
void gguf_target_close(gguf_target *t);

/* How many elements are no finite numbers. */
int64_t gguf_count_odd(qp_tensor x);
/* x in another type. Elements that are no finite numbers, or are none in that type, are a FORMAT error of
 * "path: name", unless the type is F32. */
qp_tensor gguf_round(const char *path, const char *name, qp_tensor x, qp_dtype type);

/* The tokenizer of a folder, its tokenizer.json or tokenizer.model, as pairs (cli/gguf_vocabulary.c). A folder
 * without one: that there is none. */
bool gguf_has_vocabulary(qp_ctx *ctx, const char *folder);
bool gguf_put_vocabulary(qp_ctx *ctx, const char *folder, int64_t vocabulary, qpi_gguf_pairs *pairs);

#endif
