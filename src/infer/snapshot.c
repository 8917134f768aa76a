/* A row's state as a safetensors file: its tokens, the parts of the state's tensors that are its own (where a
 * window is read, its positions), and what model they are of. Blocks are written as the floats that they
 * stand for: encoding those again gives the same blocks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "infer/session.h"
#include "nn/module.h"
#include "quipu/format.h"

#define FORMAT "quipu row 1"
#define SAMPLE 4096 /* bytes of each weight that tell models apart */

static uint64_t fingerprint(qp_model *m) {
    qpi_checksum  sum;
    qp_state_dict dict = qp_module_state(m->module);
    const char   *config = qp_model_config(m);
    qpi_checksum_begin(&sum, 0);
    qpi_checksum_add(&sum, config, strlen(config));
    for (int i = 0; i < dict.count; i++) {
        qp_tensor   t = dict.entries[i].tensor;
        size_t      bytes = qp_dtype_size(qp_dtype_of(t), qp_count(t));
        const void *data = qp_data_of(t);
        qpi_checksum_add(&sum, dict.entries[i].name, strlen(dict.entries[i].name));
        if (data) qpi_checksum_add(&sum, data, bytes < SAMPLE ? bytes : SAMPLE);
    }
    return qpi_checksum_end(&sum);
}

/* The first position of a row of so many that state i needs. */
static int64_t first_of(const qp_session *s, int64_t i, int64_t length) {
    int64_t window = s->states[i].window;
    return window && length > window ? length - window : 0;
}

static const char *state_name(char name[48], int64_t i, int j) {
    snprintf(name, 48, "state.%" PRId64 ".%d", i, j);
    return name;
}

/* ---- Saving ----------------------------------------------------------------------------------------- */

static bool collect(qp_session *s, int64_t row, qp_named *named, char (*names)[48]) {
    qp_ctx *ctx = s->m->ctx;
    int64_t length = s->row[row].length, n = 0;
    named[n++] = (qp_named){"tokens", qp_from(ctx, QP_I32, 1, &length, qpi_row_tokens(s, row))};
    for (int64_t i = 0; i < qpi_state_count(s); i++)
        for (int j = 0; j < s->states[i].count; j++, n++) {
            int64_t   base = qpi_base(s, i, row);
            qp_tensor part =
                qpi_state_part(&s->states[i], j, row, first_of(s, i, length) - base, length - base);
            if (qp_dtype_block(qp_dtype_of(part)) > 1) part = qp_cast(part, QP_F32);
            named[n] = (qp_named){state_name(names[n], i, j), qp_contiguous(part)};
        }
    return !qp_failed(ctx);
}

static int64_t tensor_count(const qp_session *s) {
    int64_t n = 1;
    for (int64_t i = 0; i < qpi_state_count(s); i++) n += s->states[i].count;
    return n;
}

qp_status qp_session_save(qp_session *s, int64_t row, const char *path) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx) || !qpi_row_ready(s, row, "save")) return qp_error_code(ctx);
    int64_t   n = tensor_count(s);
    qp_named *named = calloc((size_t)n, sizeof *named);
    char (*names)[48] = calloc((size_t)n, sizeof *names), model[32];
    qp_scope scope = qp_enter(ctx);
    qp_no_grad(ctx, true);
    snprintf(model, sizeof model, "%016" PRIx64, fingerprint(s->m));
    qp_meta   meta[] = {{"format", FORMAT}, {"model", model}, {"kv", qp_dtype_name(s->kv)}};
    qp_status status;
    if (!named || !names) status = qp_fail(ctx, QP_ERR_MEMORY, "out of memory: saving a row");
    else if (!collect(s, row, named, names)) status = qp_error_code(ctx);
    else status = qp_file_save(ctx, path, n, named, (qp_save_options){.meta = meta, .meta_count = 3});
    qp_leave(scope);
    free(named);
    free(names);
    return status;
}

/* ---- Loading ---------------------------------------------------------------------------------------- */

static bool is(const qp_file *f, const char *key, const char *value) {
    const char *found = qp_file_meta(f, key);
    return found && !strcmp(found, value);
}

static bool check_origin(qp_session *s, const qp_file *f, const char *path) {
    qp_ctx *ctx = s->m->ctx;
    char    model[32];
    snprintf(model, sizeof model, "%016" PRIx64, fingerprint(s->m));
    if (!is(f, "format", FORMAT)) return !qp_fail(ctx, QP_ERR_FORMAT, "%s: no row of a session", path);
    if (!is(f, "model", model)) return !qp_fail(ctx, QP_ERR_STATE, "%s: a row of another model", path);
    if (!is(f, "kv", qp_dtype_name(s->kv)))
        return !qp_fail(ctx, QP_ERR_STATE, "%s: its keys and values are not %s", path, qp_dtype_name(s->kv));
    return true;
}

/* The entry must have this type and shape. Its length along axis 1 is `length`, if the tensor grows. */
static void check_entry(qp_session *s, const qp_file *f, const char *path, const char *name, qp_tensor like,
                        bool grows, int64_t length) {
    int64_t       at = qp_file_find(f, name);
    qp_file_entry e = qp_file_at(f, at);
    qp_dtype      type = qp_dtype_block(qp_dtype_of(like)) > 1 ? QP_F32 : qp_dtype_of(like);
    bool          ok = at >= 0 && e.loadable && e.dtype == type && e.ndim == qp_ndim(like);
    for (int i = 0; i < e.ndim && ok; i++)
        ok = e.shape[i] == (i == 0 ? 1 : i == 1 && grows ? length : qp_size(like, i));
    if (!ok) qp_fail(s->m->ctx, QP_ERR_FORMAT, "%s: %s is missing, or not as the session has it", path, name);
}

/* The number of tokens, checked; -1 after an error. */
static int64_t check_tokens(qp_session *s, const qp_file *f, const char *path) {
    qp_ctx       *ctx = s->m->ctx;
    int64_t       at = qp_file_find(f, "tokens"), n = -1;
    qp_file_entry e = qp_file_at(f, at);
    if (at >= 0 && e.loadable && e.dtype == QP_I32 && e.ndim == 1) n = e.shape[0];
    if (n < 0) qp_fail(ctx, QP_ERR_FORMAT, "%s: tokens: expected i32 [n]", path);
    else if (n > s->reserved)
        qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %lld positions, the session has room for %lld", path, (long long)n,
                (long long)s->reserved);
    if (qp_failed(ctx)) return -1;
    const int32_t *ids = qp_data_of(qp_file_load(ctx, f, "tokens", false));
    for (int64_t i = 0; i < n && !qp_failed(ctx); i++)
        if (ids[i] < 0 || ids[i] >= s->m->vocabulary)
            qp_fail(ctx, QP_ERR_FORMAT, "%s: token %d at %lld", path, (int)ids[i], (long long)i);
    return qp_failed(ctx) ? -1 : n;
}

static void restore(qp_session *s, int64_t row, const qp_file *f, int64_t length) {
    qp_ctx   *ctx = s->m->ctx;
    char      name[48];
    int64_t   one = 1;
    qp_tensor rows = qp_from(ctx, QP_I64, 1, &one, &row);
    qpi_windows_place(s, row, length);
    for (int64_t i = 0; i < qpi_state_count(s); i++)
        for (int j = 0; j < s->states[i].count; j++) {
            int64_t   place = first_of(s, i, length) - qpi_base(s, i, row),
                      count = length - first_of(s, i, length);
            qp_tensor t = qp_file_load(ctx, f, state_name(name, i, j), false);
            if (s->states[i].grows[j] && qp_dtype_block(qp_dtype_of(s->states[i].tensors[j])) > 1) {
                qp_append(s->states[i].tensors[j], t, rows, qp_from(ctx, QP_I64, 1, &one, &place),
                          qp_from(ctx, QP_I64, 1, &one, &count));
            } else {
                qp_status copied = qp_copy_to(qpi_state_part(&s->states[i], j, row, place, place + count), t);
                (void)copied; /* stored in the context */
            }
            qp_drop(t);
        }
    qp_tensor tokens = qp_file_load(ctx, f, "tokens", false);
    qp_status read = qp_read(tokens, QP_I32, qpi_row_tokens(s, row), length);
    if (read == QP_OK) s->row[row].length = length; /* cannot: all is checked, memory there */
    else qpi_windows_cut(s, row, row, 0);
}

static void load(qp_session *s, int64_t row, const qp_file *f, const char *path) {
    qp_ctx *ctx = s->m->ctx;
    char    name[48];
    int64_t length = check_origin(s, f, path) ? check_tokens(s, f, path) : -1;
    for (int64_t i = 0; i < qpi_state_count(s) && length >= 0; i++)
        for (int j = 0; j < s->states[i].count && !qp_failed(ctx); j++)
            check_entry(s, f, path, state_name(name, i, j), s->states[i].tensors[j], s->states[i].grows[j],
                        length - first_of(s, i, length));
    if (!qp_failed(ctx)) restore(s, row, f, length);
}

qp_status qp_session_load(qp_session *s, int64_t row, const char *path) {
    qp_ctx *ctx = s->m->ctx;
    if (qp_failed(ctx) || !qpi_row_ready(s, row, "load")) return qp_error_code(ctx);
    if (s->row[row].length) return qp_fail(ctx, QP_ERR_STATE, "load: row %lld is not empty", (long long)row);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) return qp_error_code(ctx);
    qp_scope scope = qp_enter(ctx);
    qp_no_grad(ctx, true);
    load(s, row, f, path);
    qp_leave(scope);
    qp_file_close(f);
    return qp_error_code(ctx);
}
