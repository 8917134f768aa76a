/* A data set's place, and all that it depends on, as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/dataset.h"
#include "format/json.h"
#include "format/os.h"

static const char *const orders[] = {
    [QP_SHUFFLED] = "shuffled", [QP_SEQUENTIAL] = "sequential", [QP_STREAMS] = "streams"};

static const char *hex(uint64_t x, char out[20]) {
    snprintf(out, 20, "%016" PRIx64, x);
    return out;
}

/* Numbers that must be the same when a state is taken up again. */
static const char *const option_names[] = {"batch", "processes", "fields"};
#define OPTIONS 3
static void option_values(const qp_data *d, int64_t out[OPTIONS]) {
    out[0] = d->options.batch;
    out[1] = d->options.processes;
    out[2] = d->field_count;
}

static bool put_files(const qp_data *d, json_t *list) {
    qp_data_file f;
    char         text[20];
    for (int i = 0; d->type->file && d->type->file(d->source, i, &f); i++) {
        json_t *entry = json_pack("{s:s, s:I, s:s}", "path", f.path, "bytes", (json_int_t)f.bytes, "xxh64",
                                  hex(f.checksum, text));
        if (!entry) /* the path is not UTF-8: only its content matters */
            entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)f.bytes, "xxh64", text);
        if (json_array_append_new(list, entry) != 0) return false;
    }
    return true;
}

static bool put_shapes(const qp_data *d, json_t *object) {
    for (int f = 0; f < d->field_count; f++) {
        json_t *shape = json_array();
        bool    ok = shape != NULL;
        for (int i = 0; ok && i < d->fields[f].ndim; i++)
            ok = json_array_append_new(shape, json_integer(d->fields[f].shape[i])) == 0;
        if (json_object_set_new(object, d->fields[f].name, shape) != 0 || !ok) return false;
    }
    return true;
}

static json_t *describe(const qp_data *d) {
    char    seed[20], source[20];
    int64_t values[OPTIONS];
    json_t *files = json_array(), *shapes = json_object();
    json_t *o = json_pack("{s:I, s:s, s:s, s:s, s:s}", "position", (json_int_t)d->position, "kind",
                          d->type->name, "order", orders[d->options.order], "seed", hex(d->options.seed, seed),
                          "content", hex(d->type->fingerprint(d->source), source));
    bool    ok = o && files && shapes && put_files(d, files) && put_shapes(d, shapes);
    option_values(d, values);
    for (int i = 0; ok && i < OPTIONS; i++)
        ok = json_object_set_new(o, option_names[i], json_integer(values[i])) == 0;
    ok = ok && json_object_set(o, "shapes", shapes) == 0 && json_object_set(o, "files", files) == 0;
    json_decref(files);
    json_decref(shapes);
    if (ok) return o;
    json_decref(o);
    return NULL;
}

const char *qp_data_state(qp_data *d) {
    json_t *o = describe(d);
    d->state.count = 0;
    bool ok = o != NULL;
    if (ok) qpi_json_print(&d->state, o, 0);
    qpi_buffer_put(&d->state, "", 1);
    json_decref(o);
    if (ok && !d->state.failed) return d->state.data;
    qpi_buffer_free(&d->state);
    qp_fail(d->ctx, QP_ERR_MEMORY, "data: out of memory");
    return NULL;
}

/* ---- Going back ----------------------------------------------------------------------- */

static bool check_files(const qp_data *d, const qpi_json *root, qpi_error *e) {
    qpi_json     list;
    qp_data_file f;
    size_t       i = 0;
    if (!qpi_json_array(root, "files", QPI_REQUIRED, &list)) return false;
    size_t n = json_array_size(list.value);
    for (; d->type->file && d->type->file(d->source, (int)i, &f); i++) {
        qpi_json    then = qpi_json_item(&list, i);
        const char *sum = NULL;
        int64_t     bytes = 0;
        char        now[20];
        if (i >= n)
            return qpi_fail(e, QP_ERR_STATE, "data: %s is new since the state was saved", f.path) == QP_OK;
        if (!qpi_json_string(&then, "xxh64", QPI_REQUIRED, &sum) ||
            !qpi_json_integer(&then, "bytes", QPI_REQUIRED, 0, INT64_MAX, &bytes))
            return false;
        if (strcmp(sum, hex(f.checksum, now)) != 0 || (uint64_t)bytes != f.bytes)
            return qpi_fail(e, QP_ERR_STATE,
                            "data: %s has changed since the state was saved: %" PRId64
                            " bytes, xxh64 %.20s then; %" PRIu64 " bytes, %s now",
                            f.path, bytes, sum, f.bytes, now) == QP_OK;
    }
    if (i == n) return true;
    qpi_json    then = qpi_json_item(&list, i);
    const char *path = "a file";
    if (!qpi_json_string(&then, "path", QPI_OPTIONAL, &path)) return false;
    return qpi_fail(e, QP_ERR_STATE, "data: %.200s was part of it when the state was saved", path) == QP_OK;
}

static bool check_text(const qpi_json *root, const char *key, const char *now, qpi_error *e) {
    const char *then;
    if (!qpi_json_string(root, key, QPI_REQUIRED, &then)) return false;
    if (strcmp(then, now) == 0) return true;
    if (strcmp(key, "content") == 0)
        return qpi_fail(e, QP_ERR_STATE,
                        "data: the same files give other samples than when the state was saved: the "
                        "tokenizer or an option (field, special, wrap, validation) has changed") == QP_OK;
    return qpi_fail(e, QP_ERR_STATE, "data: %s was %.40s when the state was saved and is %s now", key, then,
                    now) == QP_OK;
}

static bool check_shapes(const qp_data *d, const qpi_json *root, qpi_error *e) {
    qpi_json shapes, shape;
    if (!qpi_json_object(root, "shapes", QPI_REQUIRED, &shapes)) return false;
    for (int f = 0; f < d->field_count; f++) {
        const qp_field *x = &d->fields[f];
        if (!qpi_json_array(&shapes, x->name, QPI_REQUIRED, &shape)) return false;
        bool same = json_array_size(shape.value) == (size_t)x->ndim;
        for (int i = 0; same && i < x->ndim; i++) {
            int64_t then = json_integer_value(json_array_get(shape.value, (size_t)i));
            if (then != x->shape[i])
                return qpi_fail(e, QP_ERR_STATE,
                                "data: a row of %s had %" PRId64
                                " entries when the state was saved and has %" PRId64 " now",
                                x->name, then, x->shape[i]) == QP_OK;
        }
        if (!same)
            return qpi_fail(e, QP_ERR_STATE, "data: %s had another shape when the state was saved", x->name) ==
                   QP_OK;
    }
    return true;
}

static bool check(const qp_data *d, const qpi_json *root, int64_t *position, qpi_error *e) {
    int64_t values[OPTIONS];
    char    seed[20], content[20];
    option_values(d, values);
    if (!check_text(root, "kind", d->type->name, e) || !check_files(d, root, e)) return false;
    for (int i = 0; i < OPTIONS; i++) {
        int64_t then;
        if (!qpi_json_integer(root, option_names[i], QPI_REQUIRED, 0, INT64_MAX, &then)) return false;
        if (then != values[i])
            return qpi_fail(e, QP_ERR_STATE,
                            "data: %s was %" PRId64 " when the state was saved and is %" PRId64 " now",
                            option_names[i], then, values[i]) == QP_OK;
    }
    return check_shapes(d, root, e) && check_text(root, "order", orders[d->options.order], e) &&
           check_text(root, "seed", hex(d->options.seed, seed), e) &&
           check_text(root, "content", hex(d->type->fingerprint(d->source), content), e) &&
           qpi_json_integer(root, "position", QPI_REQUIRED, 0, INT64_MAX, position);
}

qp_status qp_data_restore(qp_data *d, const char *state) {
    qpi_error e = {0};
    int64_t   position = 0;
    bool      same = false;
    json_t   *document = qpi_json_parse("data state", state, strlen(state), &e);
    if (document) {
        qpi_json root = qpi_json_root("data state", document, &e);
        same = check(d, &root, &position, &e);
        json_decref(document);
    }
    return same ? qp_data_seek(d, (uint64_t)position) : qp_fail(d->ctx, e.code, "%s", e.text);
}
