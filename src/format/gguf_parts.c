/* A GGUF model in several files, as llama-gguf-split writes it: NAME-00001-of-00003.gguf has the keys, each part
 * tensors and split.no (from 0), split.count and split.tensors.count (of all parts together). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"

#define MOST 99999 /* that the names can count */

void qpi_gguf_values_free(qpi_gguf_values *v) {
    free(v->all);
    qpi_names_free(&v->names);
    *v = (qpi_gguf_values){0};
}

/* A whole number that must be there; -1 after an error. */
static int64_t number_of(const qpi_gguf_values *v, const char *path, const char *key, qpi_error *e) {
    const qpi_gguf_value *found = qpi_gguf_find_in(v, key);
    int64_t               x = -1;
    if (found && !found->array && qpi_gguf_integer(found, 0, &x) && x >= 0) return x;
    qpi_fail(e, QP_ERR_FORMAT, "%s: %s: expected a whole number, found %s", path, key,
             found ? "something else" : "none");
    return -1;
}

static bool is_of_part(const char *key) {
    return !strncmp(key, "split.", 6) || !strcmp(key, "general.alignment");
}

static bool equal(const qpi_gguf_value *a, const qpi_gguf_value *b) {
    const char    *x, *y;
    size_t         n, m;
    qpi_gguf_texts t = qpi_gguf_texts_of(a), u = qpi_gguf_texts_of(b);
    if (a->kind != b->kind || a->array != b->array || a->count != b->count) return false;
    if (a->kind != QPI_GGUF_TEXT)
        return !memcmp(a->data, b->data, (size_t)a->count * (size_t)qpi_gguf_kind_bytes(a->kind));
    while (qpi_gguf_text(&t, &x, &n)) {
        qpi_gguf_text(&u, &y, &m); /* of as many */
        if (n != m || memcmp(x, y, n)) return false;
    }
    return true;
}

bool qpi_gguf_part_fits(const qp_file *f, const qpi_gguf_values *first, uint32_t part, qpi_error *e) {
    static const char *const same[] = {"split.count", "split.tensors.count"};
    const char              *path = f->parts[part]->path;
    int64_t                  no = number_of(&f->values, path, "split.no", e);
    if (no < 0) return false;
    if (no != part) {
        qpi_fail(e, QP_ERR_FORMAT, "%s: split.no is %" PRId64 ", expected %" PRIu32 " by its name", path, no,
                 part);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        int64_t mine = number_of(&f->values, path, same[i], e), other = -1;
        qpi_gguf_integer(qpi_gguf_find_in(first, same[i]), 0,
                         &other); /* a whole number, or no part were looked for */
        if (mine < 0) return false;
        if (mine == other) continue;
        qpi_fail(e, QP_ERR_FORMAT, "%s: %s is %" PRId64 ", in the first part %" PRId64, path, same[i], mine,
                 other);
        return false;
    }
    for (size_t i = 0; i < f->values.count; i++) {
        const qpi_gguf_value *mine = &f->values.all[i], *other = qpi_gguf_find_in(first, mine->key);
        if (is_of_part(mine->key) || (other && equal(mine, other))) continue;
        qpi_fail(e, QP_ERR_FORMAT, "%s: %.100s %s", path, mine->key,
                 other ? "differs from the first part's" : "is not in the first part");
        return false;
    }
    return true;
}

/* "NAME-00001-of-00003.gguf" -> how long NAME is; 0 after an error. */
static size_t name_length(const char *path, int64_t count, qpi_error *e) {
    char   end[40];
    size_t n = strlen(path), m = (size_t)snprintf(end, sizeof end, "-00001-of-%05" PRId64 ".gguf", count);
    if (n > m && !strcmp(path + n - m, end)) return n - m;
    qpi_fail(e, QP_ERR_FORMAT, "%s: the first of %" PRId64 " parts: expected a name that ends in %s", path,
             count, end);
    return 0;
}

static bool open_part(qp_file *f, const char *path, size_t name, int64_t part, int64_t count,
                      qpi_open_mode mode, qpi_error *e) {
    char *own = malloc(name + 40);
    if (!own) return qpi_fail_memory(e, path) == QP_OK;
    snprintf(own, name + 40, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)name, path, part + 1, count);
    bool there = qpi_path_exists(own), ok = there && qpi_path_is_gguf(own);
    if (!there) qpi_fail(e, QP_ERR_IO, "%s: part %" PRId64 " of %" PRId64 " is missing", own, part + 1, count);
    else if (!ok)
        qpi_fail(e, QP_ERR_FORMAT, "%s: part %" PRId64 " of %" PRId64 " is no GGUF file", own, part + 1, count);
    ok = ok && qpi_file_add_part(f, own, mode, e);
    free(own);
    return ok;
}

bool qpi_gguf_open_parts(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e) {
    if (!qpi_gguf_find(f, "split.count")) return true;
    int64_t count = number_of(&f->values, path, "split.count", e);
    if (count == 1) return true;
    int64_t no = count < 0 ? -1 : number_of(&f->values, path, "split.no", e);
    int64_t tensors = no < 0 ? -1 : number_of(&f->values, path, "split.tensors.count", e);
    if (tensors < 0) return false;
    if (count < 1 || count > MOST || no >= count) {
        qpi_fail(e, QP_ERR_FORMAT,
                 "%s: split.no %" PRId64 " of split.count %" PRId64 ", expected at most %d parts", path, no,
                 count, MOST);
        return false;
    }
    if (no > 0) {
        qpi_fail(e, QP_ERR_ARGUMENT,
                 "%s: part %" PRId64 " of %" PRId64
                 " of a model: open the first, which ends in -00001-of-%05" PRId64 ".gguf",
                 path, no + 1, count, count);
        return false;
    }
    size_t name = name_length(path, count, e);
    if (!name) return false;
    for (int64_t part = 1; part < count; part++)
        if (!open_part(f, path, name, part, count, mode, e)) return false;
    if ((uint64_t)tensors == f->entry_count) return true;
    qpi_fail(e, QP_ERR_FORMAT, "%s: split.tensors.count is %" PRId64 ", the parts hold %zu", path, tensors,
             f->entry_count);
    return false;
}
