/* Checkpoints in and out: pieces of parameters under the names of the model type. */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "models/model.h"

/* ---- Names --------------------------------------------------------------------------------------- */

/* Does `name` match a pattern with one %d? The number goes to *layer (-1 without %d). */
static bool match(const char *pattern, const char *name, int *layer) {
    const char *mark = strstr(pattern, "%d");
    *layer = -1;
    if (!mark) return !strcmp(pattern, name);
    size_t head = (size_t)(mark - pattern);
    char  *end;
    if (strncmp(pattern, name, head) || name[head] < '0' || name[head] > '9') return false;
    *layer = (int)strtol(name + head, &end, 10);
    return !strcmp(end, mark + 2);
}

static void substitute(const char *pattern, int layer, char out[256]) {
    const char *mark = strstr(pattern, "%d");
    if (mark) snprintf(out, 256, "%.*s%d%s", (int)(mark - pattern), pattern, layer, mark + 2);
    else snprintf(out, 256, "%s", pattern);
}

/* The part of t that a rule names: a segment of its rows, transposed as stored. */
static qp_tensor piece_of(const qp_entry *e, const qpi_name_rule *rule, qp_tensor t) {
    if (qp_is_none(t)) return t;
    if (rule->segment) {
        int64_t start = 0;
        for (int i = 0; i + 1 < rule->segment; i++) start += e->rows[i];
        t = qp_slice(t, 0, start, start + e->rows[rule->segment - 1], 1);
    }
    return rule->transpose ? qp_transpose(t, 0, 1) : t;
}

bool qp_model_piece(qp_model *m, int64_t index, bool gradient, char name[256], qp_tensor *piece) {
    static const qpi_name_rule own = {0};
    qp_state_dict              dict = qp_module_state(m->module);
    bool                       before = qp_no_grad(m->ctx, true);
    bool                       found = false;
    for (int i = 0; i < dict.count && !found; i++) {
        const qp_entry *e = &dict.entries[i];
        if (e->tied) continue;
        for (const qpi_name_rule *r = m->preset->rules ? m->preset->rules : &own; !found; r++) {
            int layer = -1;
            if (r != &own && !r->ours) break;
            if (r != &own && !match(r->ours, e->name, &layer)) continue;
            if (index-- == 0) {
                found = true;
                if (r == &own) snprintf(name, 256, "%s", e->name);
                else substitute(r->theirs, layer, name);
                qp_tensor g = gradient && qp_requires_grad(e->tensor) ? qp_grad_of(e->tensor) : QP_NONE;
                *piece = piece_of(e, r, gradient ? g : e->tensor);
            }
            if (r == &own) break;
        }
    }
    qp_no_grad(m->ctx, before);
    return found;
}

/* ---- Loading --------------------------------------------------------------------------------------- */

typedef struct {
    char text[256];
    int  count;
} name_list;

static void add_name(name_list *l, const char *name) {
    size_t used = strlen(l->text);
    if (l->count++ < 8 && used + strlen(name) + 4 < sizeof l->text)
        snprintf(l->text + used, sizeof l->text - used, "%s%s", used ? ", " : "", name);
}

/* Published checkpoints may lack the prefix ("transformer."). */
static int64_t find_entry(const qp_model *m, const qp_file *file, const char *name) {
    int64_t i = qp_file_find(file, name);
    size_t  n = strlen(m->preset->prefix);
    if (i < 0 && n && !strncmp(name, m->preset->prefix, n)) i = qp_file_find(file, name + n);
    return i;
}

static bool ignored(const qp_model *m, const char *name) {
    for (int i = 0; m->preset->ignored && m->preset->ignored[i]; i++)
        if (fnmatch(m->preset->ignored[i], name, 0) == 0) return true;
    /* a tied head may be stored once more */
    return !strcmp(name, "lm_head.weight") && m->head.slot == m->embed.weight.slot;
}

static bool shape_fits(qp_model *m, const char *path, const qp_file_entry *e, qp_tensor piece) {
    bool fits = e->loadable && e->ndim == qp_ndim(piece);
    for (int i = 0; fits && i < e->ndim; i++) fits = e->shape[i] == qp_size(piece, i);
    if (!fits) {
        char found[96], expected[96];
        qp_view v;
        qpi_slot *s = qpi_resolve(piece, "weights");
        if (s) qpi_view_describe(&s->value.view, expected, sizeof expected);
        if (e->loadable && qpi_view_init(&v, e->dtype, e->ndim, e->shape)) qpi_view_describe(&v, found, sizeof found);
        else snprintf(found, sizeof found, "%s", e->type_name);
        qp_fail(m->ctx, QP_ERR_SHAPE, "%s: %s is %s, the model has %s", path, e->name, found, s ? expected : "nothing");
    }
    return fits;
}

/* First pass: everything fits. Second pass: copy. */
static bool check_or_copy(qp_model *m, const char *path, const qp_file *file, bool copy, bool *seen, name_list *missing) {
    char      name[256];
    qp_tensor piece;
    for (int64_t i = 0;; i++) {
        qp_scope s = qp_enter(m->ctx);
        bool     more = qp_model_piece(m, i, false, name, &piece);
        int64_t  at = more ? find_entry(m, file, name) : -1;
        if (more && at < 0) add_name(missing, name);
        if (at >= 0 && !copy) {
            qp_file_entry e = qp_file_at(file, at);
            seen[at] = true;
            shape_fits(m, path, &e, piece);
        } else if (at >= 0) {
            qp_tensor value = qp_file_load(m->ctx, file, qp_file_at(file, at).name, false);
            qp_copy_to(piece, qp_cast(value, QP_F32));
        }
        qp_leave(s);
        if (!more || qp_failed(m->ctx)) return !qp_failed(m->ctx);
    }
}

qp_status qp_model_load_weights(qp_model *m, const char *path) {
    qp_file *file = qp_file_open(m->ctx, path, (qp_file_options){0});
    if (!file) return qp_error_code(m->ctx);
    int64_t   count = qp_file_count(file);
    bool     *seen = calloc((size_t)count + 1, sizeof *seen);
    name_list missing = {0}, unexpected = {0};
    bool      before = qp_no_grad(m->ctx, true);
    if (!seen) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of %s", path);
    else if (check_or_copy(m, path, file, false, seen, &missing)) {
        for (int64_t i = 0; i < count; i++)
            if (!seen[i] && !ignored(m, qp_file_at(file, i).name)) add_name(&unexpected, qp_file_at(file, i).name);
        if (missing.count || unexpected.count)
            qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %d tensors missing (%s), %d unexpected (%s)", path, missing.count,
                    missing.text, unexpected.count, unexpected.text);
        else check_or_copy(m, path, file, true, NULL, &missing);
    }
    qp_no_grad(m->ctx, before);
    free(seen);
    qp_file_close(file);
    return qp_error_code(m->ctx);
}

/* ---- Saving ------------------------------------------------------------------------------------------ */

static qp_status save_weights(qp_model *m, const char *path) {
    int64_t   count = 0;
    char      name[256];
    qp_tensor piece;
    qp_scope  scope = qp_enter(m->ctx);
    while (qp_model_piece(m, count, false, name, &piece)) count++;
    qp_named *named = calloc((size_t)count + 1, sizeof *named);
    char    (*names)[256] = calloc((size_t)count + 1, sizeof *names);
    if (!named || !names) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of %s", path);
    for (int64_t i = 0; i < count && !qp_failed(m->ctx); i++) {
        qp_model_piece(m, i, false, names[i], &piece);
        named[i] = (qp_named){names[i], piece};
    }
    qp_status status = qp_error_code(m->ctx);
    if (!status) status = qp_file_save(m->ctx, path, count, named, (qp_save_options){.shard_bytes = UINT64_C(5000000000)});
    free(named);
    free(names);
    qp_leave(scope);
    return status;
}

qp_status qp_model_save(qp_model *m, const char *folder) {
    char path[4096];
    if (qp_failed(m->ctx)) return qp_error_code(m->ctx);
    if (strlen(folder) > sizeof path - 32) return qp_fail(m->ctx, QP_ERR_ARGUMENT, "save: the path is too long");
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return qp_fail(m->ctx, QP_ERR_IO, "%s: cannot make the folder: %s", folder, strerror(errno));
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (qpi_json_save(path, m->config, 2, &m->ctx->error) != 1) return qp_error_code(m->ctx);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return save_weights(m, path);
}
