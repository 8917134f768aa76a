/* A GGUF file, written piece by piece into memory. */
#ifndef TESTS_FORMAT_GGUF_PIECES_H
#define TESTS_FORMAT_GGUF_PIECES_H

#include "support.h"

#include "format/gguf.h"

static uint8_t file[1 << 16];
static size_t  filled;

static inline void put(const void *data, size_t n) {
    assert_true(filled + n <= sizeof file);
    memcpy(file + filled, data, n);
    filled += n;
}
static inline void put32(uint32_t x) { put(&x, 4); }
static inline void put64(uint64_t x) { put(&x, 8); }
static inline void put_text(const char *text) {
    put64(strlen(text));
    put(text, strlen(text));
}
static inline void begin(uint32_t version, uint64_t tensors, uint64_t pairs) {
    filled = 0;
    put("GGUF", 4);
    put32(version);
    put64(tensors);
    put64(pairs);
}
static inline void pair(const char *key, uint32_t kind) {
    put_text(key);
    put32(kind);
}
static inline void pair32(const char *key, uint32_t kind, uint32_t x) {
    pair(key, kind);
    put32(x);
}
/* Axes innermost first, as stored. */
static inline void tensor(const char *name, uint32_t ndim, const uint64_t *sizes, uint32_t type,
                          uint64_t offset) {
    put_text(name);
    put32(ndim);
    for (uint32_t i = 0; i < ndim; i++) put64(sizes[i]);
    put32(type);
    put64(offset);
}
#define AXES(...) \
    sizeof((uint64_t[]){__VA_ARGS__}) / 8, (uint64_t[]) { __VA_ARGS__ }

static inline void data(size_t alignment, size_t bytes) {
    while (filled % alignment) put("", 1);
    for (size_t i = 0; i < bytes; i++) put(&(uint8_t){(uint8_t)i}, 1);
}

static inline qp_file *open_it(qp_ctx *ctx, bool in_memory) {
    const char *path = temporary("test.gguf");
    write_bytes(path, file, filled);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){.in_memory = in_memory});
    remove(path);
    return f;
}

/* Which part of a model the file is. */
static inline void split(uint32_t no, uint32_t count, uint32_t tensors) {
    pair32("split.no", QPI_GGUF_U32, no), pair32("split.count", QPI_GGUF_U32, count);
    pair32("split.tensors.count", QPI_GGUF_I32, tensors);
}

#endif
