/* Checkpoints in and out: parameters under the names of the model type. */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "models/model.h"
#include "nn/module.h"

/* ---- Names --------------------------------------------------------------------------------------- */

/* Does `name` match a pattern with one %d? The number goes to *layer (-1 without %d). */
static bool match(const char *pattern, const char *name, int *layer) {
    const char *mark = strstr(pattern, "%d");
    *layer = -1;
    if (!mark) return !strcmp(pattern, name);
    size_t head = (size_t)(mark - pattern);
    char  *end;
    if (strncmp(pattern, name, head)) return false;
    *layer = (int)strtol(name + head, &end, 10);
    return !strcmp(end, mark + 2);
}

static void substitute(const char *pattern, int64_t number, char out[QPI_MAX_NAME]) {
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(out, QPI_MAX_NAME, "%.*s%lld%s", (int)(mark - pattern), pattern, (long long)number, mark + 2);
    else snprintf(out, QPI_MAX_NAME, "%s", pattern);
}

/* Does each expert have a tensor of its own under this name? */
static bool by_expert(const qpi_name_rule *r) {
    const char *mark = r && r->theirs ? strstr(r->theirs, "%d") : NULL;
    return mark && strstr(mark + 2, "%d");
}

void qpi_weights_free(qp_model *m) {
    for (int i = 0; i < m->weight_count; i++) free(m->weights[i].name);
    free(m->weights);
    m->weights = NULL;
    m->weight_count = m->named = 0;
}

/* The tensor that holds several parameters is the same for each of them: found again among the
 * last, since they are made together. NULL: not yet there. */
static qpi_weight *find_weight(qp_model *m, const char *name) {
    for (int i = m->weight_count - 1; i >= 0 && i >= m->weight_count - 2 * QPI_MAX_PARTS; i--)
        if (!strcmp(m->weights[i].name, name)) return &m->weights[i];
    return NULL;
}

/* Modules that predict further tokens, as DeepSeek-V3 stores them behind the layers. */
static const qpi_name_rule mtp_rules[] = {
    {.theirs = "model.layers.%d.enorm.weight", .ours = "blocks.%d.enorm.weight"},
    {.theirs = "model.layers.%d.hnorm.weight", .ours = "blocks.%d.hnorm.weight"},
    {.theirs = "model.layers.%d.eh_proj.weight", .ours = "blocks.%d.eh_proj.weight"},
    {.theirs = "model.layers.%d.shared_head.norm.weight", .ours = "blocks.%d.shared_head_norm.weight"},
    {0}};
/* It has the first two twice; the last is a drafter's (infer/draft_head.h). */
static const char *const mtp_others[] = {"model.layers.*.embed_tokens.weight",
                                         "model.layers.*.shared_head.head.weight", "token_map"};

/* The rule of a parameter; NULL: it has the same name in checkpoints. */
static const qpi_name_rule *find_rule(const qpi_preset *p, bool gguf, const char *name, int *layer) {
    const qpi_name_rule *tables[] = {gguf ? p->gguf->own : p->own, gguf ? p->gguf->rules : p->rules,
                                     gguf || !p->rules ? NULL : mtp_rules};
    for (int i = 0; i < 3; i++)
        for (const qpi_name_rule *r = tables[i]; r && r->ours; r++)
            if (match(r->ours, name, layer)) return r;
    return NULL;
}

/* Room for more, in powers of two: files have as many tensors, so that a config asks for no more than these. */
static bool room_for(qp_model *m, int64_t more) {
    int64_t room = 64, wanted = m->weight_count + more;
    while (room < m->weight_count) room *= 2;
    if (m->weights && wanted <= room) return true;
    while (room < wanted) room *= 2;
    if (room > INT32_MAX) return false; /* cannot: a quarter of them takes more memory than there is */
    qpi_weight *grown = realloc(m->weights, (size_t)room * sizeof *grown);
    if (grown) m->weights = grown;
    return grown != NULL;
}

/* Takes a name and the place for one tensor; expert -1: all of it. */
static bool add_named(qp_model *m, const qp_entry *e, const qpi_name_rule *r, const char *name,
                      int64_t expert) {
    const qpi_gguf_family *family = m->preset->gguf;
    const char            *pattern = family ? family->interleaved : NULL;
    qpi_weight            *w = r->part ? find_weight(m, name) : NULL;
    if (!w) {
        if (!room_for(m, 1)) return false;
        w = &m->weights[m->weight_count];
        *w = (qpi_weight){.name = strdup(name), .transpose = r->transpose, .tied = e->tied, .expert = expert};
        w->interleaved = pattern && fnmatch(pattern, e->name, 0) == 0;
        w->unit_offset = family && family->unit_offset && fnmatch("*norm*.weight", e->name, 0) == 0;
        if (!w->name) return false;
        m->weight_count++;
    }
    w->parts[w->count++] = e->tensor;
    return true;
}

static bool add_weight(qp_model *m, const qp_entry *e, bool gguf) {
    static const qpi_name_rule same = {0};
    char                       name[QPI_MAX_NAME], full[QPI_MAX_NAME];
    int                        layer = -1;
    const qpi_name_rule       *r = find_rule(m->preset, gguf, e->name, &layer);
    if (r && !r->theirs) {
        m->left_out = e->name;
        return true;
    }
    if (r) substitute(r->theirs, layer, name);
    else snprintf(name, sizeof name, "%s", e->name);
    if (!by_expert(r)) return add_named(m, e, r ? r : &same, name, -1);
    for (int64_t i = 0; i < qp_size(e->tensor, 0); i++) {
        substitute(name, i, full);
        if (!add_named(m, e, r, full, i)) return false;
    }
    return true;
}

/* All weights with their names, in GGUF files or in those of Hugging Face; made again when entries have
 * come or gone, or for the other names. */
static bool name_weights(qp_model *m, bool gguf) {
    qp_state_dict dict = qp_module_state(m->module);
    if (!dict.ctx) return false; /* out of memory */
    if (m->weights && m->named == dict.count && m->named_gguf == gguf) return true;
    qpi_weights_free(m);
    m->left_out = NULL;
    bool ok = room_for(m, 1);
    for (int i = 0; i < dict.count && ok; i++) ok = add_weight(m, &dict.entries[i], gguf);
    if (!ok) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of weights");
    m->named = ok ? dict.count : -1;
    m->named_gguf = gguf;
    return ok;
}

/* Rows of heads in another order: of each head's K rows, the pairs (2i, 2i + 1) become (i, i + K/2); or back.
 * Heads that turn have at least two (rope.c). */
static qp_tensor reorder(const qp_model *m, qp_tensor t, bool back) {
    int       ndim = qp_ndim(t);
    int64_t   rows = qp_size(t, 0), columns = ndim == 2 ? qp_size(t, 1) : 1, half = m->head_width / 2;
    qp_tensor pairs =
        qp_reshape(t, ndim + 2, (int64_t[]){rows / (2 * half), back ? 2 : half, back ? half : 2, columns});
    return qp_reshape(qp_transpose(pairs, 1, 2), ndim, (int64_t[]){rows, columns});
}

/* Of all experts' tensor the one's that w holds. */
static qp_tensor part_of(const qpi_weight *w, qp_tensor all) {
    int64_t shape[QP_MAX_DIMS];
    int     ndim = qp_ndim(all) - 1;
    for (int i = 0; i < ndim; i++) shape[i] = qp_size(all, i + 1);
    return qp_reshape(qp_slice(all, 0, w->expert, w->expert + 1, 1), ndim, shape);
}

/* As the checkpoint stores it. */
static qp_tensor join(qp_model *m, const qpi_weight *w, const qp_tensor *parts) {
    bool      before = qp_no_grad(m->ctx, true);
    qp_tensor t = w->count > 1    ? qp_concat(w->count, parts, 0)
                  : w->expert < 0 ? qp_alias(parts[0])
                                  : part_of(w, parts[0]);
    if (w->interleaved && m->interleaved != m->named_gguf) t = reorder(m, t, m->named_gguf);
    if (w->unit_offset && m->named_gguf) t = qp_affine(qp_cast(t, QP_F32), 1, 1);
    if (w->transpose) t = qp_transpose(t, 0, 1);
    qp_no_grad(m->ctx, before);
    return t;
}

static bool weight_at(qp_model *m, int64_t index, bool gradient, const char **name, qp_tensor *t) {
    for (int i = 0; i < m->weight_count; i++) {
        const qpi_weight *w = &m->weights[i];
        qp_tensor         grads[QPI_MAX_PARTS];
        bool              all = true;
        if (w->tied || index-- > 0) continue;
        *name = w->name;
        for (int k = 0; k < w->count && gradient; k++) {
            grads[k] = qp_requires_grad(w->parts[k]) ? qp_grad_of(w->parts[k]) : QP_NONE;
            all &= !qp_is_none(grads[k]);
        }
        *t = all ? join(m, w, gradient ? grads : w->parts) : QP_NONE;
        return true;
    }
    return false;
}

bool qp_model_weight(qp_model *m, int64_t i, bool gradient, const char **name, qp_tensor *t) {
    return name_weights(m, false) && weight_at(m, i, gradient, name, t);
}

bool qpi_gguf_weight(qp_model *m, int64_t i, const char **name, qp_tensor *t) {
    if (!name_weights(m, true)) return false;
    if (weight_at(m, i, false, name, t)) return true;
    for (int k = 0; k < m->weight_count; k++) i -= !m->weights[k].tied;
    *name = "rope_freqs.weight";
    return i == 0 && qpi_gguf_divisors(m, t);
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
static int64_t find_prefixed(const qp_model *m, const qp_file *file, const char *name) {
    int64_t i = qp_file_find(file, name);
    size_t  n = strlen(m->preset->prefix);
    if (i < 0 && n && !strncmp(name, m->preset->prefix, n)) i = qp_file_find(file, name + n);
    return i;
}

/* BERT's oldest call gain and bias of a layer norm gamma and beta; a bias that is tied has either name. */
static int64_t find_entry(const qp_model *m, const qp_file *file, const char *name) {
    static const char *const older[][2] = {{"LayerNorm.weight", "LayerNorm.gamma"},
                                           {"LayerNorm.bias", "LayerNorm.beta"},
                                           {"predictions.decoder.bias", "predictions.bias"}};
    int64_t                  at = find_prefixed(m, file, name);
    size_t                   n = strlen(name);
    for (int i = 0; i < 3 && at < 0; i++) {
        size_t end = strlen(older[i][0]);
        char   other[QPI_MAX_NAME];
        if (n < end || strcmp(name + n - end, older[i][0])) continue;
        snprintf(other, sizeof other, "%.*s%s", (int)(n - end), name, older[i][1]);
        at = find_prefixed(m, file, other);
    }
    return at;
}

static bool ignored(const qp_model *m, const char *name) {
    if (!strcmp(name, "rope_freqs.weight")) return true; /* part of a GGUF file's config */
    for (int i = 0; i < 3 && m->mtp_count; i++)
        if (fnmatch(mtp_others[i], name, 0) == 0) return true;
    for (int i = 0; m->preset->ignored && m->preset->ignored[i]; i++)
        if (fnmatch(m->preset->ignored[i], name, 0) == 0) return true;
    return false;
}

/* What the checkpoint should hold under w's name. */
static void expected_shape(const qpi_weight *w, int *ndim, int64_t *shape) {
    int first = w->expert >= 0;
    *ndim = qp_ndim(w->parts[0]) - first;
    for (int i = 0; i < *ndim; i++) shape[i] = qp_size(w->parts[0], i + first);
    for (int k = 1; k < w->count; k++) shape[0] += qp_size(w->parts[k], 0);
    if (!w->transpose) return;
    int64_t rows = shape[0];
    shape[0] = shape[1];
    shape[1] = rows;
}

static void describe(const qp_file_entry *e, char *out, size_t size) {
    qp_view v;
    if (e->loadable && qpi_view_init(&v, e->dtype, e->ndim, e->shape)) qpi_view_describe(&v, out, size);
    else snprintf(out, size, "%s", e->type_name);
}

static bool shape_fits(qp_model *m, const char *path, const qp_file_entry *e, const qpi_weight *w) {
    int     ndim;
    int64_t shape[QP_MAX_DIMS];
    expected_shape(w, &ndim, shape);
    bool fits = e->loadable && (qp_dtype_is_float(e->dtype) || qp_dtype_block(e->dtype) > 1) && e->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++) fits = e->shape[i] == shape[i];
    if (!fits) {
        char    found[96], expected[96];
        qp_view v = {0};
        qpi_view_init(&v, QP_F32, ndim, shape);
        qpi_view_describe(&v, expected, sizeof expected);
        describe(e, found, sizeof found);
        qp_fail(m->ctx, QP_ERR_SHAPE, "%s: %s is %s, the model has %s", path, e->name, found, expected);
    }
    return fits;
}

/* Everything fits, or an error that lists what does not. */
static bool check(qp_model *m, const char *path, const qp_file *file, bool *seen) {
    name_list missing = {0}, unexpected = {0};
    if (m->left_out) add_name(&missing, m->left_out);
    for (int i = 0; i < m->weight_count; i++) {
        const qpi_weight *w = &m->weights[i];
        int64_t           at = find_entry(m, file, w->name);
        if (at >= 0) seen[at] = true;
        if (at < 0 && !w->tied) add_name(&missing, w->name);
        if (at < 0 || w->tied) continue;
        qp_file_entry e = qp_file_at(file, at);
        if (!shape_fits(m, path, &e, w)) return false;
    }
    for (int64_t i = 0; i < qp_file_count(file); i++)
        if (!seen[i] && !ignored(m, qp_file_at(file, i).name)) add_name(&unexpected, qp_file_at(file, i).name);
    if (missing.count && unexpected.count)
        qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %d tensors missing (%s), %d unexpected (%s)", path, missing.count,
                missing.text, unexpected.count, unexpected.text);
    else if (missing.count)
        qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %d tensors missing (%s)", path, missing.count, missing.text);
    else if (unexpected.count)
        qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %d unexpected tensors (%s)", path, unexpected.count,
                unexpected.text);
    return !qp_failed(m->ctx);
}

/* Matrices stay where they are, in their type, if asked to and if their rows lie side by side; buffers are copied. */
static bool assign(qp_tensor p, qp_tensor value, bool as_stored, bool transposed) {
    if (as_stored) qp_require_grad(p, false);
    bool      stays = as_stored && qpi_resolve(p, "load")->parameter && qp_ndim(p) >= 2 && !transposed;
    qp_status status = stays ? qp_param_set(p, value) : qpi_param_copy(p, value);
    return status == QP_OK;
}

/* An expert's part; the first one brings the memory for all. */
static bool assign_part(qp_model *m, const qpi_weight *w, qp_tensor value, bool as_stored) {
    qp_tensor all = w->parts[0];
    int64_t   shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(all); i++) shape[i] = qp_size(all, i);
    if (as_stored) qp_require_grad(all, false);
    if (w->expert == 0 && (as_stored || !qpi_has_elements(all))) {
        qp_dtype type = as_stored ? qp_dtype_of(value) : qp_dtype_of(all);
        if (qp_param_set(all, qp_empty(m->ctx, type, qp_ndim(all), shape)) != QP_OK) return false;
    }
    return qp_copy_to(part_of(w, all), value) == QP_OK;
}

static bool load_weight(qp_model *m, const qp_file *file, const qpi_weight *w, bool as_stored) {
    int64_t   start = 0;
    bool      ok = true;
    qp_scope  s = qp_enter(m->ctx);
    qp_tensor all = qp_file_load(m->ctx, file, qp_file_at(file, find_entry(m, file, w->name)).name, false);
    if (w->transpose) all = qp_transpose(all, 0, 1);
    if (w->interleaved && qpi_file_is_gguf(file) && !m->interleaved) all = reorder(m, all, false);
    if (w->unit_offset && qpi_file_is_gguf(file)) all = qp_affine(qp_cast(all, QP_F32), 1, -1);
    if (as_stored && qp_dtype_of(all) == QP_F64) all = qp_cast(all, m->ctx->param_dtype);
    if (w->expert >= 0) ok = assign_part(m, w, all, as_stored);
    for (int k = 0; k < w->count && ok && w->expert < 0; k++) {
        int64_t   rows = w->count > 1 ? qp_size(w->parts[k], 0) : 0;
        qp_tensor part = w->count > 1 ? qp_slice(all, 0, start, start + rows, 1) : all;
        ok = !qp_failed(m->ctx) && assign(w->parts[k], part, as_stored, w->transpose);
        start += rows;
    }
    qp_leave(s);
    return ok;
}

/* Does a config ask for experts' tensors far beyond what the file has? */
static bool too_many(qp_model *m, const qp_file *file, bool gguf) {
    qp_state_dict dict = qp_module_state(m->module);
    int64_t       most = 4 * qp_file_count(file) + 4096, wanted = 0;
    int           layer;
    for (int i = 0; i < dict.count && wanted <= most; i++)
        wanted += by_expert(find_rule(m->preset, gguf, dict.entries[i].name, &layer))
                      ? qp_size(dict.entries[i].tensor, 0)
                      : 1;
    return wanted > most;
}

bool qpi_weights_load(qp_model *m, const char *path, const qp_file *file, bool as_stored) {
    bool *seen = calloc((size_t)qp_file_count(file) + 1, sizeof *seen);
    bool  before = qp_no_grad(m->ctx, true);
    bool  gguf = qpi_file_is_gguf(file);
    if (!seen) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of %s", path);
    else if (gguf && !m->preset->gguf)
        qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "%s: quipu knows no names of %s in GGUF files", path,
                m->preset->name);
    else if (too_many(m, file, gguf))
        qp_fail(m->ctx, QP_ERR_FORMAT, "%s: %lld tensors, the config has many more experts", path,
                (long long)qp_file_count(file));
    bool ok = !qp_failed(m->ctx) && name_weights(m, gguf) && check(m, path, file, seen);
    for (int i = 0; i < m->weight_count && ok; i++)
        if (!m->weights[i].tied) ok = load_weight(m, file, &m->weights[i], as_stored);
    qp_no_grad(m->ctx, before);
    free(seen);
    return ok;
}

qp_status qp_model_load_weights(qp_model *m, const char *path) {
    qp_file *file = qp_failed(m->ctx) ? NULL : qp_file_open(m->ctx, path, (qp_file_options){0});
    if (file) qpi_weights_load(m, path, file, false);
    qp_file_close(file);
    return qp_error_code(m->ctx);
}

/* ---- Saving ------------------------------------------------------------------------------------------ */

static qp_status save_weights(qp_model *m, const char *path) {
    const char *name;
    qp_tensor   t;
    int64_t     count = 0;
    qp_scope    scope = qp_enter(m->ctx);
    qp_named   *named = name_weights(m, false) ? calloc((size_t)m->weight_count + 1, sizeof *named) : NULL;
    if (!named) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of %s", path);
    while (named && qp_model_weight(m, count, false, &name, &t)) named[count++] = (qp_named){name, t};
    qp_status status = qp_error_code(m->ctx);
    if (!status)
        status =
            qp_file_save(m->ctx, path, count, named, (qp_save_options){.shard_bytes = UINT64_C(5000000000)});
    free(named);
    qp_leave(scope);
    return status;
}

qp_status qp_model_save(qp_model *m, const char *folder) {
    char path[4096];
    if (qp_failed(m->ctx)) return qp_error_code(m->ctx);
    if (strlen(folder) > sizeof path - 32)
        return qp_fail(m->ctx, QP_ERR_ARGUMENT, "save: the path is too long");
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return qp_fail(m->ctx, QP_ERR_IO, "%s: cannot make the folder: %s", folder, strerror(errno));
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (!qpi_json_save(path, m->config, 2, &m->ctx->error)) return qp_error_code(m->ctx);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return save_weights(m, path);
}
