/* A training state: a folder that appears complete or not at all.
 *
 *   out/step-120/config.json, model.safetensors, tokenizer.json   what transformers loads
 *   out/step-120/optimizer.safetensors                            moments, step count, loss scale
 *   out/step-120/ema/                                             the mean weights, a folder as above
 *   out/step-120/train.json      step, data position, random position, and for each file its
 *                                size and checksum
 *   out/latest -> step-120       replaced by a rename once the folder is complete
 *   out/best -> step-80          the state of the lowest validation loss, where that is watched
 */
#define _GNU_SOURCE /* readlink */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/checksum.h"
#include "format/json.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/writer.h"
#include "train/optim.h"
#include "train/state.h"

#define PATH 4096

/* Room is left behind `out` for the names of what states have in them. */
static bool check_path(qp_ctx *ctx, const char *out) {
    if (strlen(out) < PATH - 1000) return !qp_failed(ctx);
    return !qp_fail(ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", out);
}

/* "", which nothing is called, where a name from a file is too long. */
static void join(char path[PATH], const char *folder, const char *name) {
    if (snprintf(path, PATH, "%s/%s", folder, name) >= PATH) path[0] = 0;
}

/* The folder that a link in out names; "" where there is no such link. */
static bool read_link(qp_ctx *ctx, const char *out, const char *link, char name[64]) {
    char path[PATH];
    name[0] = 0;
    join(path, out, link);
    ssize_t n = readlink(path, name, 63);
    if (n < 0 && errno == ENOENT) return true;
    if (n < 0) return qpi_fail_os(&ctx->error, path, "read the link"), false;
    name[n] = 0;
    if (qpi_name_is_plain(name)) return true;
    qp_fail(ctx, QP_ERR_FORMAT, "%s: names \"%s\", expected a folder beside it", path, name);
    return false;
}

bool qpi_state_exists(qp_ctx *ctx, const char *out) {
    char name[64];
    return check_path(ctx, out) && read_link(ctx, out, "latest", name) && name[0];
}

/* ---- Saving ---------------------------------------------------------------------------------- */

qp_status qpi_optim_save(qp_ctx *ctx, qp_optim *optim, const char *path) {
    int       count = 0;
    char      name[256];
    qp_tensor t;
    while (qp_optim_state(optim, count, name, &t)) count++;
    qp_named *named = calloc((size_t)count + 1, sizeof *named);
    char (*names)[256] = calloc((size_t)count + 1, sizeof *names);
    qp_status status = named && names ? QP_OK : qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %s", path);
    for (int i = 0; i < count && !status; i++) {
        qp_optim_state(optim, i, names[i], &t);
        named[i] = (qp_named){names[i], t};
    }
    if (!status) status = qp_file_save(ctx, path, count, named, (qp_save_options){0});
    free(named);
    free(names);
    return status;
}

/* {"bytes": n, "xxh64": "..."} of a file. */
static json_t *describe_file(const char *path, qpi_error *e) {
    qpi_bytes *b = qpi_bytes_open(path, QPI_MAP, e);
    if (!b) return NULL;
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, qpi_checksum_of(0, b->data, b->size));
    json_t *entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)b->size, "xxh64", text);
    qpi_bytes_release(b);
    if (!entry) qpi_fail_memory(e, path);
    return entry;
}

/* Adds every file of folder/part ("": folder) to files, named from folder. */
static void describe_files(qp_ctx *ctx, const char *folder, const char *part, json_t *files) {
    char           inner[PATH], path[PATH], name[300];
    struct dirent *entry;
    join(inner, folder, part);
    DIR *dir = opendir(inner);
    if (!dir) qpi_fail_os(&ctx->error, inner, "read");
    while (dir && !qp_failed(ctx) && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s%s%s", part, *part ? "/" : "", entry->d_name);
        join(path, folder, name);
        if (qpi_path_is_folder(path)) continue;
        json_t *about = describe_file(path, &ctx->error);
        if (about && json_object_set_new(files, name, about) != 0) qpi_fail_memory(&ctx->error, path);
    }
    if (dir) closedir(dir);
}

static json_t *describe_best(const qpi_progress *p) {
    if (!p->best_step) return json_null();
    return json_pack("{s:I, s:f, s:I}", "step", (json_int_t)p->best_step, "loss", p->best, "waited",
                     (json_int_t)p->waited);
}

static qp_status save_manifest(qp_training_set *set, const char *folder, int64_t step, const qpi_progress *p) {
    qp_ctx *ctx = qp_model_ctx(set->model);
    char    path[PATH];
    json_t *files = json_object(), *data = NULL;
    if (!files) qpi_fail_memory(&ctx->error, folder);
    if (files) describe_files(ctx, folder, "", files);
    if (files && set->ema) describe_files(ctx, folder, "ema", files);
    join(path, folder, "train.json");
    const char *state = qp_failed(ctx) ? NULL : set->data ? qp_data_state(set->data) : "{}";
    if (state) data = qpi_json_parse("data", state, strlen(state), &ctx->error);
    if (!data) {
        json_decref(files);
        return qp_error_code(ctx);
    }
    json_t *all = json_pack("{s:i, s:I, s:I, s:I, s:s, s:s, s:f, s:o, s:o, s:o}", "version", 2, "step",
                            (json_int_t)step, "seed", (json_int_t)ctx->seed, "random_position",
                            (json_int_t)ctx->random_position, "optimizer", set->optim->type->name, "precision",
                            qp_dtype_name(p->precision), "ema", set->ema ? qp_ema_decay(set->ema) : 0.0, "best",
                            describe_best(p), "data", data, "files", files);
    if (!all) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %s", path);
    else qpi_json_save(path, all, 2, &ctx->error);
    json_decref(all);
    return qp_error_code(ctx);
}

/* config.json, weights and tokenizer: a folder that transformers loads. */
static qp_status save_model(qp_training_set *set, const char *folder) {
    qp_ctx   *ctx = qp_model_ctx(set->model);
    char      path[PATH];
    qp_status status = qp_model_save(set->model, folder);
    join(path, folder, "tokenizer.json");
    return status || !set->tokenizer ? status : qp_tokenizer_save(ctx, set->tokenizer, path);
}

static qp_status save_ema(qp_training_set *set, const char *folder) {
    char path[PATH];
    if (!set->ema) return QP_OK;
    join(path, folder, "ema");
    qp_ema_swap(set->ema);
    qp_status status = save_model(set, path);
    qp_ema_swap(set->ema);
    return status;
}

static qp_status fill_folder(qp_training_set *set, const char *folder, int64_t step, const qpi_progress *p) {
    char path[PATH];
    join(path, folder, "optimizer.safetensors");
    qp_status status = save_model(set, folder);
    if (!status) status = save_ema(set, folder);
    if (!status) status = qpi_optim_save(qp_model_ctx(set->model), set->optim, path);
    return status ? status : save_manifest(set, folder, step, p);
}

/* The step of a state folder's name, -1 for other names. */
static int64_t step_of(const char *name) {
    char     *end;
    long long step;
    if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9') return -1;
    step = strtoll(name + 5, &end, 10);
    return *end ? -1 : step;
}

static void remove_state(const char *out, const char *name) {
    char folder[PATH];
    join(folder, out, name);
    qpi_folder_remove(folder);
}

/* The oldest state other than `best`, if `keep` newer ones are there; -1 if not. */
static int64_t superfluous(const char *out, int64_t newest, int keep, const char *best) {
    int64_t        oldest = INT64_MAX, newer = 0;
    struct dirent *entry;
    for (int pass = 0; pass < 2; pass++) {
        DIR *dir = opendir(out);
        while (dir && (entry = readdir(dir))) {
            int64_t step = step_of(entry->d_name);
            if (pass) newer += step > oldest && step <= newest;
            else if (step >= 0 && step < oldest && strcmp(entry->d_name, best)) oldest = step;
        }
        if (dir) closedir(dir);
    }
    return newer >= keep ? oldest : -1;
}

/* Keeps the newest `keep` states and the best, all of them if 0. Failing to remove is no failure. */
static void remove_old(qp_ctx *ctx, const char *out, int64_t newest, int keep) {
    char    best[64], name[48];
    int64_t step, before = -1;
    if (keep <= 0 || !read_link(ctx, out, "best", best)) return;
    while ((step = superfluous(out, newest, keep, best)) > before) {
        snprintf(name, sizeof name, "step-%lld", (long long)step);
        remove_state(out, name);
        before = step; /* not again where it could not be removed */
    }
}

/* What a killed run left: folders that never got their name. */
static void remove_unfinished(const char *out) {
    DIR           *dir = opendir(out);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (qpi_name_is_temporary(entry->d_name)) remove_state(out, entry->d_name);
    if (dir) closedir(dir);
}

static qp_status link_to(qp_ctx *ctx, const char *out, const char *link, const char *name) {
    char path[PATH];
    join(path, out, link);
    qpi_write_link(path, name, &ctx->error);
    return qp_error_code(ctx);
}

static qp_status save_state(qp_training_set set, const char *out, int64_t step, int keep,
                            const qpi_progress *p) {
    qp_ctx    *ctx = qp_model_ctx(set.model);
    char       name[48], latest[64], path[PATH];
    qpi_folder folder;
    if (!check_path(ctx, out)) return qp_error_code(ctx);
    if (mkdir(out, 0777) != 0 && errno != EEXIST) return qpi_fail_os(&ctx->error, out, "make");
    snprintf(name, sizeof name, "step-%lld", (long long)step);
    join(path, out, name);
    if (!read_link(ctx, out, "latest", latest)) return qp_error_code(ctx);
    if (!strcmp(latest, name)) return QP_OK; /* saved already: what latest names is never touched */
    remove_unfinished(out);
    remove_state(out, name); /* of a run that was killed before latest named it */
    if (!qpi_folder_open(&folder, path, &ctx->error)) return qp_error_code(ctx);
    if (fill_folder(&set, folder.temporary, step, p) != QP_OK) {
        qpi_folder_abort(&folder);
        return qp_error_code(ctx);
    }
    /* best first: a run that is killed in between comes to this step again */
    if (!qpi_folder_finish(&folder) || (p->best_step == step && link_to(ctx, out, "best", name) != QP_OK) ||
        link_to(ctx, out, "latest", name) != QP_OK)
        return qp_error_code(ctx);
    remove_old(ctx, out, step, keep);
    return qp_error_code(ctx);
}

qp_status qpi_state_save(qp_training_set set, const char *out, int64_t step, int keep, const qpi_progress *p) {
    qp_scope s = qp_enter(qp_model_ctx(set.model));
    qpi_shield(s.ctx);
    qp_status status = save_state(set, out, step, keep, p);
    qp_leave(s);
    return status;
}

qp_status qp_state_save(qp_training_set set, const char *out, int64_t step, int keep) {
    return qpi_state_save(set, out, step, keep, &(qpi_progress){0});
}

/* ---- Restoring ------------------------------------------------------------------------------------ */

static bool check_files(qp_ctx *ctx, const char *folder, const qpi_json *manifest) {
    qpi_json    files;
    const char *key;
    json_t     *value;
    char        path[PATH];
    if (!qpi_json_object(manifest, "files", QPI_REQUIRED, &files)) return false;
    qpi_json_members(files.value, key, value) {
        if (!qpi_name_is_plain(strncmp(key, "ema/", 4) ? key : key + 4))
            return qpi_json_fail(&files, QP_ERR_FORMAT, "a name with a slash"), false;
        join(path, folder, key);
        json_t *found = describe_file(path, &ctx->error);
        bool    same = found && json_equal(found, value);
        json_decref(found);
        if (found && !same)
            qp_fail(ctx, QP_ERR_FORMAT, "%s: is damaged: its size or checksum is not that in train.json", path);
        if (!same) return false;
    }
    return true;
}

/* A copy alone would broadcast. */
static bool same_shape(const char *path, const char *name, qp_tensor saved, qp_tensor ours) {
    const qp_view *a = &qpi_resolve(saved, "state")->value.view, *b = &qpi_resolve(ours, "state")->value.view;
    char           found[96], expected[96];
    if (qpi_view_same_shape(a, b)) return true;
    qpi_view_describe(a, found, sizeof found);
    qpi_view_describe(b, expected, sizeof expected);
    return !qp_fail(ours.ctx, QP_ERR_FORMAT, "%s: %s is %s, expected %s", path, name, found, expected);
}

bool qpi_optim_restore(qp_ctx *ctx, qp_optim *optim, const char *path) {
    char      name[256];
    qp_tensor t;
    qp_file  *file = qp_file_open(ctx, path, (qp_file_options){0});
    for (int i = 0; file && !qp_failed(ctx) && qp_optim_state(optim, i, name, &t); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor saved = qp_file_load(ctx, file, name, false);
        if (!qp_failed(ctx) && same_shape(path, name, saved, t)) qp_copy_to(t, saved);
        qp_leave(s);
    }
    qp_file_close(file);
    if (!qp_failed(ctx)) qp_optim_restored(optim);
    return !qp_failed(ctx);
}

static bool restore_optimizer(qp_training_set *set, const char *folder) {
    char path[PATH];
    join(path, folder, "optimizer.safetensors");
    return qpi_optim_restore(qp_model_ctx(set->model), set->optim, path);
}

typedef struct {
    int64_t     step, seed, random_position;
    double      ema;
    const char *optimizer, *precision;
} numbers;

/* A text of the state that must be this run's. */
static bool same_text(const qpi_json *manifest, const char *key, const char *saved, const char *ours) {
    if (!strcmp(saved, ours)) return true;
    qpi_json at = qpi_json_member(manifest, key);
    qpi_json_fail(&at, QP_ERR_STATE, "the state is of %.40s, this run uses %s", saved, ours);
    return false;
}

static bool read_numbers(qp_training_set *set, const qpi_json *manifest, const char *precision, numbers *n) {
    if (!qpi_json_integer(manifest, "step", QPI_REQUIRED, 0, INT64_MAX, &n->step) ||
        !qpi_json_integer(manifest, "seed", QPI_REQUIRED, INT64_MIN, INT64_MAX, &n->seed) ||
        !qpi_json_integer(manifest, "random_position", QPI_REQUIRED, INT64_MIN, INT64_MAX,
                          &n->random_position) ||
        !qpi_json_number(manifest, "ema", QPI_REQUIRED, 0, 1, &n->ema) ||
        !qpi_json_string(manifest, "precision", QPI_REQUIRED, &n->precision) ||
        !qpi_json_string(manifest, "optimizer", QPI_REQUIRED, &n->optimizer))
        return false;
    double ema = set->ema ? qp_ema_decay(set->ema) : 0;
    if (n->ema != ema) {
        qpi_json at = qpi_json_member(manifest, "ema");
        qpi_json_fail(&at, QP_ERR_STATE, "the state's is %g, this run's %g", n->ema, ema);
    }
    return n->ema == ema && same_text(manifest, "optimizer", n->optimizer, set->optim->type->name) &&
           (!precision || same_text(manifest, "precision", n->precision, precision));
}

static bool read_best(const qpi_json *manifest, qpi_progress *p) {
    qpi_json best = qpi_json_member(manifest, "best");
    if (!best.value) return true;
    return qpi_json_object(manifest, "best", QPI_REQUIRED, &best) &&
           qpi_json_integer(&best, "step", QPI_REQUIRED, 1, INT64_MAX, &p->best_step) &&
           qpi_json_integer(&best, "waited", QPI_REQUIRED, 0, INT64_MAX, &p->waited) &&
           qpi_json_number(&best, "loss", QPI_REQUIRED, -1e300, 1e300, &p->best);
}

/* The means through the model's weights, which take their own afterwards. */
static bool restore_weights(qp_training_set *set, const char *folder) {
    char path[PATH];
    if (set->ema) {
        join(path, folder, "ema");
        if (qp_model_load_weights(set->model, path) != QP_OK) return false;
        qp_ema_swap(set->ema);
    }
    return qp_model_load_weights(set->model, folder) == QP_OK;
}

bool qpi_state_restore_data(qp_data *to, const qpi_json *manifest) {
    qpi_json data;
    if (!qpi_json_object(manifest, "data", QPI_REQUIRED, &data)) return false;
    char *text = json_dumps(data.value, JSON_COMPACT);
    if (!text) return qpi_fail_memory(manifest->error, manifest->name), false;
    bool ok = qp_data_restore(to, text) == QP_OK;
    free(text);
    return ok;
}

bool qpi_state_differs(qp_ctx *ctx, const char *path, const char *key, const json_t *saved,
                       const json_t *ours) {
    const json_t *a = json_object_get(saved, key), *b = json_object_get(ours, key);
    if (a && b && json_equal(a, b)) return false;
    char *then = a ? json_dumps(a, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    char *now = b ? json_dumps(b, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    qp_fail(ctx, QP_ERR_STATE, "%s: %.60s was %.60s when the state was saved and is %.60s now", path, key,
            then ? then : "not there", now ? now : "not there");
    free(then);
    free(now);
    return true;
}

static bool same_config(qp_training_set *set, const char *folder) {
    qp_ctx *ctx = qp_model_ctx(set->model);
    char    path[PATH];
    join(path, folder, "config.json");
    json_t *saved = qpi_json_load(path, &ctx->error), *ours = NULL;
    if (saved)
        ours = qpi_json_parse("config", qp_model_config(set->model), strlen(qp_model_config(set->model)),
                              &ctx->error);
    const char *key;
    json_t     *value;
    bool        same = saved && ours;
    if (same) qpi_json_members(ours, key, value) same = same && !qpi_state_differs(ctx, path, key, saved, ours);
    if (same)
        qpi_json_members(saved, key, value) same = same && !qpi_state_differs(ctx, path, key, saved, ours);
    json_decref(saved);
    json_decref(ours);
    return same;
}

static qp_status restore(qp_training_set set, const char *out, int64_t *step, const char *precision,
                         qpi_progress *p) {
    qp_ctx *ctx = qp_model_ctx(set.model);
    char    latest[64], folder[PATH], path[PATH];
    numbers n;
    *step = 0;
    if (!check_path(ctx, out) || !read_link(ctx, out, "latest", latest) || !latest[0])
        return qp_error_code(ctx);
    join(folder, out, latest);
    join(path, folder, "train.json");
    json_t *json = qpi_json_load(path, &ctx->error);
    if (!json) return qp_error_code(ctx);
    qpi_json manifest = qpi_json_root(path, json, &ctx->error);
    bool     ok = read_numbers(&set, &manifest, precision, &n) && read_best(&manifest, p) &&
                  same_config(&set, folder) && check_files(ctx, folder, &manifest) &&
                  (!set.data || qpi_state_restore_data(set.data, &manifest)) && restore_weights(&set, folder) &&
                  restore_optimizer(&set, folder);
    if (ok) {
        qp_set_random(ctx, (uint64_t)n.seed, (uint64_t)n.random_position);
        *step = n.step;
    }
    json_decref(json);
    return qp_error_code(ctx);
}

qp_status qpi_state_restore(qp_training_set set, const char *out, int64_t *step, qpi_progress *p) {
    return restore(set, out, step, qp_dtype_name(p->precision), p);
}

qp_status qp_state_restore(qp_training_set set, const char *out, int64_t *step) {
    return restore(set, out, step, NULL, &(qpi_progress){0});
}
