/* GGUF files. Inputs that begin with the magic are files; others are a recipe, by which a file is
 * written whose parts fit together but for the places that the recipe spoils, so that what stands
 * behind the first check is reached too; a fourth of the recipes is for a model in two files. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/gguf.h"

double fuzz_seen; /* data are read, so that a sanitizer watches */

/* ---- Recipes ------------------------------------------------------------------------------------- */

static uint8_t        file[1 << 16];
static size_t         filled;
static const uint8_t *recipe;
static size_t         left;

static uint8_t next(void) { return left ? left--, *recipe++ : 0; }

static void put(const void *data, size_t n) {
    if (filled + n > sizeof file) return;
    memcpy(file + filled, data, n);
    filled += n;
}

/* A number, now and then another one. */
static void number(uint64_t x, size_t bytes) {
    static const uint64_t odd[] = {
        0, 1, 31, 255, 0x7fffffff, 0xffffffff, (uint64_t)1 << 32, INT64_MAX, UINT64_MAX, (uint64_t)1 << 61};
    uint8_t choice = next();
    if (choice >= 246) x = odd[choice - 246];
    else if (choice >= 240) x += (uint64_t)choice - 243;
    put(&x, bytes);
}

static void text(void) {
    uint8_t n = next() % 12;
    number(n, 8);
    for (int i = 0; i < n; i++) put(&(uint8_t){(uint8_t)('a' + next() % 26)}, 1);
}

static void value(uint32_t kind, int depth) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (kind == QPI_GGUF_TEXT) {
        text();
    } else if (kind == QPI_GGUF_ARRAY) {
        uint32_t of = next() % QPI_GGUF_KINDS;
        uint8_t  n = next() % 9;
        number(of, 4);
        number(n, 8);
        for (int i = 0; i < n && depth < 4; i++) value(of, depth + 1);
    } else {
        uint64_t x = kind == QPI_GGUF_BOOL ? 1 : next();
        put(&x, bytes[kind]);
    }
}

/* A whole number under a key; a byte decides whether it is another. */
static void key(const char *name, uint64_t x) {
    uint64_t n = strlen(name);
    put(&n, 8);
    put(name, n);
    put(&(uint32_t){QPI_GGUF_U32}, 4);
    number(x, 4);
}

/* part: of two; -1: a whole file. */
static void cook(int part) {
    static const uint8_t types[] = {0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 24, 30, 99};
    uint8_t              pairs = next() % 9, tensors = next() % 9;
    uint64_t             offset = 0;
    filled = 0;
    put("GGUF", 4);
    number(3, 4);
    number(tensors, 8);
    number(part < 0 ? pairs : pairs + 3, 8);
    if (part >= 0)
        key("split.no", (uint64_t)part), key("split.count", 2), key("split.tensors.count", next() % 17);
    for (int i = 0; i < pairs; i++) {
        uint32_t kind = next() % QPI_GGUF_KINDS;
        text();
        number(kind, 4);
        value(kind, 0);
    }
    for (int i = 0; i < tensors; i++) {
        uint8_t ndim = next() % 5;
        text();
        number(ndim, 4);
        for (int k = 0; k < ndim; k++) number(k ? next() % 4 : 256, 8);
        number(types[next() % sizeof types], 4);
        number(offset, 8);
        offset += 32 * (uint64_t)(next() % 33);
    }
    while (filled % 32 && filled < sizeof file) put("", 1);
    for (int i = next() % 65; i > 0; i--) put("0123456789abcdefghijklmnopqrstuv", 32);
}

/* ---- The target ------------------------------------------------------------------------------------ */

static void look(qp_ctx *ctx, const qp_file *f) {
    const qpi_gguf_value *v;
    for (size_t i = 0; (v = qpi_gguf_at(f, i)); i++) {
        const char    *text;
        size_t         n;
        int64_t        integer;
        double         x = 0;
        qpi_gguf_texts t = qpi_gguf_texts_of(v);
        while (qpi_gguf_text(&t, &text, &n)) fuzz_seen += n ? text[n - 1] : 0;
        qpi_gguf_integer(v, v->count - 1, &integer);
        if (qpi_gguf_number(v, v->count - 1, &x)) fuzz_seen += x;
        if (qpi_gguf_find(f, v->key) != v) __builtin_trap();
    }
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor t = qp_file_load(ctx, f, qp_file_at(f, i).name, i & 1);
        if (qp_count(t) > 0 && qp_count(t) < 4096) {
            double all[4096];
            if (qp_read(t, QP_F64, all, qp_count(t)) == QP_OK) fuzz_seen += all[qp_count(t) - 1];
        }
        qp_leave(s);
        qp_clear(ctx);
    }
}

/* Two files beside each other. */
static bool write_parts(char path[64]) {
    static char folder[32];
    if (!*folder && !mkdtemp(strcpy(folder, P_tmpdir "/fuzz-gguf-XXXXXX"))) return false;
    for (int part = 1; part >= 0; part--) {
        cook(part);
        snprintf(path, 64, "%s/m-%05d-of-00002.gguf", folder, part + 1);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(file, 1, filled, f) != filled || fclose(f)) return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx *ctx;
    char           path[64];
    int            fd = -1;
    if (!ctx) ctx = qp_open((qp_options){.threads = 1});
    recipe = data;
    left = size;
    bool whole = size >= 4 && !memcmp(data, "GGUF", 4), parts = !whole && (next() & 3) == 1;
    if (!whole && !parts) {
        cook(-1);
        data = file;
        size = filled;
    }
    if (parts ? !write_parts(path)
              : (fd = memfd_create("input", 0)) < 0 || write(fd, data, size) != (ssize_t)size)
        return -1;
    if (!parts) snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){.in_memory = size & 1});
    if (!f != qp_failed(ctx)) __builtin_trap();
    if (f) look(ctx, f);
    qp_file_close(f);
    qp_clear(ctx);
    if (fd >= 0) close(fd);
    return 0;
}
