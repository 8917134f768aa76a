/* quipu finetune: something learnt on top of a model that exists. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/json.h"
#include "cli/open.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"
#include "infer/draft_head.h"
#include "train/state.h"

typedef struct job job;

/* Something that learns from the last hidden state of a model that stays as it is. */
typedef struct {
    const char *name, *file; /* file: in the folder of what was learnt */
    bool (*make)(job *j, const int32_t *tokens, int64_t count);
    bool (*load)(job *j, const char *path);
    qp_state_dict (*params)(job *j);
    qp_tensor (*loss)(job *j, qp_tensor hidden, qp_tensor ids, qp_tensor labels);
    qp_status (*save)(job *j, const char *path);
    json_t *(*describe)(job *j); /* config.json */
} method;

struct job {
    cli          *c;
    qp_ctx       *ctx;
    const method *method;
    cli_model     m;
    qp_data      *data, *validation;
    qp_medusa    *medusa;
    qp_mtp       *mtp;
    qp_optim     *optim;
    double        first, last, before; /* before: validation */
    int64_t       steps;               /* taken, */
    uint64_t      random;              /* where the context's random numbers stood then */
    bool          made;                /* the folder, which was not there */
};

/* ---- Medusa: a head for each token ahead ------------------------------------------------------------ */

static bool make_medusa(job *j, const int32_t *tokens, int64_t count) {
    cli              *c = j->c;
    qp_medusa_options o = {.heads = (int)cli_int(c, "heads"),
                           .layers = (int)cli_int(c, "head-layers"),
                           .shared = cli_flag(c, "shared-head"),
                           .tokens = tokens,
                           .token_count = count};
    return (j->medusa = qp_medusa_new(j->m.model, o));
}

static bool load_medusa(job *j, const char *path) {
    return (j->medusa = qp_medusa_load(j->m.model, path, true));
}

static qp_state_dict medusa_params(job *j) { return qp_medusa_params(j->medusa); }

static qp_tensor medusa_loss(job *j, qp_tensor hidden, qp_tensor ids, qp_tensor labels) {
    (void)ids;
    return qp_medusa_loss(j->medusa, hidden, labels);
}

static qp_status save_medusa(job *j, const char *path) { return qp_medusa_save(j->medusa, path); }

static json_t *describe_medusa(job *j) {
    return json_pack("{s:i, s:i}", "medusa_num_heads", qp_medusa_heads(j->medusa), "medusa_num_layers",
                     qpi_medusa_layers(j->medusa));
}

/* ---- Multi-token prediction: a module that reads its own guesses ------------------------------------ */

static bool make_mtp(job *j, const int32_t *tokens, int64_t count) {
    return (j->mtp = qp_mtp_new(j->m.model, (qp_mtp_options){.tokens = tokens, .token_count = count}));
}

static bool load_mtp(job *j, const char *path) { return (j->mtp = qp_mtp_load(j->m.model, path, true)); }

static qp_state_dict mtp_params(job *j) { return qp_mtp_params(j->mtp); }

static qp_tensor mtp_loss(job *j, qp_tensor hidden, qp_tensor ids, qp_tensor labels) {
    return qp_mtp_loss(j->mtp, hidden, ids, labels, cli_int(j->c, "heads"));
}

static qp_status save_mtp(job *j, const char *path) { return qp_mtp_save(j->mtp, path); }

static json_t *describe_mtp(job *j) {
    (void)j;
    return json_pack("{s:i}", "num_nextn_predict_layers", 1);
}

static const method methods[] = {
    {"medusa", "medusa_lm_head.safetensors", make_medusa, load_medusa, medusa_params, medusa_loss, save_medusa,
     describe_medusa},
    {"mtp", "mtp.safetensors", make_mtp, load_mtp, mtp_params, mtp_loss, save_mtp, describe_mtp}};

/* ---- Training --------------------------------------------------------------------------------------- */

typedef struct {
    qp_tensor ids, labels, hidden;
} seen;

#define CHUNK 256 /* positions whose logits are made at once */

/* The token that the model itself would write behind each position, where there is a label: guesses stay if they are
 * that, whatever the text says. */
static qp_tensor choices(job *j, qp_tensor hidden, qp_tensor labels) {
    int64_t   B = qp_size(labels, 0), T = qp_size(labels, 1), n = B * T, counted = 0;
    int64_t  *ids = malloc((size_t)(n + CHUNK) * sizeof *ids), *text = malloc((size_t)n * sizeof *text + 1);
    qp_tensor flat = qp_reshape(hidden, 2, (int64_t[]){n, -1});
    bool      ok = ids && text && qp_read(labels, QP_I64, text, n) == QP_OK;
    if (!ids || !text) qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: labels");
    for (; ok && counted < n; counted += CHUNK) {
        qp_scope  s = qp_enter(j->ctx);
        int64_t   rows = n - counted < CHUNK ? n - counted : CHUNK;
        qp_tensor best =
            qp_argmax(qp_model_head(j->m.model, qp_slice(flat, 0, counted, counted + rows, 1)), 1, false);
        ok = qp_read(best, QP_I64, ids + counted, rows) == QP_OK;
        qp_leave(s);
    }
    for (int64_t i = 0; ok && i < n; i++)
        if (text[i] < 0) ids[i] = text[i];
    qp_tensor result = ok ? qp_from(j->ctx, QP_I64, 2, (int64_t[]){B, T}, ids) : labels;
    free(ids);
    free(text);
    return result;
}

static seen read_batch(job *j, qp_data *data) {
    bool      before = qp_no_grad(j->ctx, true);
    qp_record batch = qp_data_next(data);
    seen      b = {.ids = qp_record_get(&batch, "input_ids")};
    b.hidden = qp_model_hidden(j->m.model, b.ids);
    b.labels = choices(j, b.hidden, qp_record_get(&batch, "labels"));
    qp_no_grad(j->ctx, before);
    return b;
}

static qp_tensor loss_of(job *j, const seen *b) { return j->method->loss(j, b->hidden, b->ids, b->labels); }

/* Batches with what the model made of them, which takes most of a step, to be learnt from several times: the newest. */
#define POOL 128

typedef struct {
    seen     batches[POOL];
    int      count, next;
    uint64_t random;
} pool;

static void drop(seen *b) {
    qp_drop(b->ids);
    qp_drop(b->labels);
    qp_drop(b->hidden);
}

/* In 16 bits. */
static void keep(job *j, pool *p, const seen *b) {
    bool  before = qp_no_grad(j->ctx, true);
    seen *to = &p->batches[p->next];
    if (p->count == POOL) drop(to);
    else p->count++;
    *to = (seen){qp_keep(b->ids), qp_keep(b->labels), qp_keep(qp_cast(b->hidden, QP_BF16))};
    p->next = (p->next + 1) % POOL;
    qp_no_grad(j->ctx, before);
}

static uint64_t advance(pool *p) {
    p->random = p->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return p->random >> 33;
}

static seen draw(pool *p) {
    seen b = p->batches[advance(p) % (uint64_t)p->count];
    b.hidden = qp_cast(b.hidden, QP_F32);
    return b;
}

static int64_t batches_read(const job *j) {
    int64_t reuse = cli_int(j->c, "reuse");
    return (j->steps + reuse - 1) / reuse;
}

/* As it was after the steps taken: the newest batches are read again. */
static void refill(job *j, pool *p) {
    int64_t read = batches_read(j), some = read < POOL ? read : POOL;
    for (int64_t i = read; i < j->steps; i++) (void)advance(p);
    p->next = (int)((read - some) % POOL);
    if (qp_data_seek(j->data, (uint64_t)(read - some)) != QP_OK) return;
    for (int64_t i = 0; i < some && !qp_failed(j->ctx); i++) {
        qp_scope s = qp_enter(j->ctx);
        seen     b = read_batch(j, j->data);
        keep(j, p, &b);
        qp_leave(s);
    }
}

/* Of the first batches, the same each time. */
static double validate(job *j) {
    double sum = 0;
    int    n = 0;
    if (j->validation && qp_data_seek(j->validation, 0) != QP_OK) return NAN;
    for (; j->validation && n < 10 && !qp_failed(j->ctx); n++) {
        qp_scope s = qp_enter(j->ctx);
        qp_no_grad(j->ctx, true);
        seen b = read_batch(j, j->validation);
        sum += qp_item(loss_of(j, &b));
        qp_leave(s);
    }
    return n ? sum / n : NAN;
}

static void train(job *j) {
    cli         *c = j->c;
    qp_schedule  schedule = {.kind = QP_SCHEDULE_COSINE,
                             .lr = cli_number(c, "lr"),
                             .steps = cli_int(c, "steps"),
                             .warmup = cli_int(c, "steps") / 20,
                             .floor = 0.1};
    cli_progress progress = cli_progress_start(c, schedule.steps);
    int64_t      reuse = cli_int(c, "reuse");
    pool         known = {.random = (uint64_t)cli_int(c, "seed")};
    if (!strcmp(cli_text(c, "precision"), "bf16")) qp_autocast(j->ctx, QP_BF16);
    if (j->steps && reuse > 1) refill(j, &known);
    for (int64_t step = j->steps; step < schedule.steps && !qp_failed(j->ctx); step++) {
        if (cli_interrupted()) qp_fail(j->ctx, QP_ERR_CANCELLED, "cancelled");
        qp_scope s = qp_enter(j->ctx);
        seen     b = step % reuse ? draw(&known) : read_batch(j, j->data);
        if (step % reuse == 0 && reuse > 1) keep(j, &known, &b);
        qp_tensor loss = loss_of(j, &b);
        qp_backward(loss);
        qp_optim_set_lr(j->optim, qp_schedule_at(&schedule, step));
        qp_step(j->optim);
        double now = qp_item(loss);
        if (!qp_failed(j->ctx)) {
            j->steps = step + 1;
            j->random = j->ctx->random_position;
            j->last = now;
            if (!step) j->first = now;
        }
        cli_progress_show(&progress, step + 1, "loss %.4f ", j->last);
        qp_leave(s);
    }
    for (int i = 0; i < known.count; i++) drop(&known.batches[i]);
}

/* Link in --out while a training is interrupted, to one of two folders: weights, optimizer.safetensors, state.json. */
#define UNFINISHED "unfinished"
static const char *const sides[] = {UNFINISHED "-0", UNFINISHED "-1"};

static const char *unfinished(const job *j, const char *name, char path[4096]) {
    snprintf(path, 4096, "%s/" UNFINISHED "%s%s", cli_text(j->c, "out"), *name ? "/" : "", name);
    return path;
}

/* Which of the folders the link names; -1: there is no link. */
static int side_of(const job *j) {
    char    path[4096], name[64] = "";
    ssize_t n = readlink(unfinished(j, "", path), name, sizeof name - 1);
    for (int i = 0; i < 2 && n > 0; i++)
        if (!strcmp(name, sides[i])) return i;
    return -1;
}

static void remove_in_out(const job *j, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", cli_text(j->c, "out"), name);
    qpi_folder_remove(path);
}

static bool nothing_unfinished(job *j) {
    const char *out = cli_text(j->c, "out");
    char        path[4096];
    if (cli_flag(j->c, "resume") || cli_text(j->c, "from") ||
        !qpi_path_exists(unfinished(j, "state.json", path)))
        return true;
    qp_fail(j->ctx, QP_ERR_STATE,
            "--out %s: a training was interrupted there: --resume goes on, --from %s begins with what it has "
            "learnt",
            out, out);
    return false;
}

/* What another method made, which generate would go on drafting with. */
static bool no_other_kind(job *j) {
    const char *out = cli_text(j->c, "out");
    char        path[4096];
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", out, methods[i].file);
        if (&methods[i] != j->method && qpi_path_exists(path))
            return !qp_fail(j->ctx, QP_ERR_ARGUMENT,
                            "--out %s: holds what --method %s made (%s), expected a folder of its own", out,
                            methods[i].name, methods[i].file);
    }
    return true;
}

/* The folder to write to, before anything is learnt for it: no model's, whose config.json it would replace or hide. */
static bool open_out(job *j) {
    const char *out = cli_text(j->c, "out");
    char        path[4096], buffer[4096];
    j->made = mkdir(out, 0777) == 0;
    if (!j->made && errno != EEXIST) return qpi_fail_os(&j->ctx->error, out, "make the folder") == QP_OK;
    if (!qpi_path_is_folder(out)) return qp_fail(j->ctx, QP_ERR_IO, "%s: expected a folder", out) == QP_OK;
    if (snprintf(path, sizeof path, "%s/config.json", cli_model_path(out, buffer)) >= (int)sizeof path - 64)
        return qp_fail(j->ctx, QP_ERR_ARGUMENT, "--out: the path is too long") == QP_OK;
    if (!nothing_unfinished(j) || !no_other_kind(j)) return false;
    json_t *there = qpi_path_exists(path) ? qpi_json_load(path, &(qpi_error){0}) : NULL;
    bool    model = json_object_get(there, "model_type");
    json_decref(there);
    return !model ||
           qp_fail(j->ctx, QP_ERR_ARGUMENT,
                   "--out %s: a model is there already (%s), expected a folder of its own", out, path) == QP_OK;
}

/* The folder's config names the base and what is there, as published heads' do. */
static bool save(job *j) {
    const char *out = cli_text(j->c, "out");
    char        path[4096];
    json_t     *config = j->method->describe(j);
    json_object_set_new(config, "base_model_name_or_path", cli_json_name(cli_text(j->c, "model")));
    snprintf(path, sizeof path, "%s/%s", out, j->method->file);
    if (j->method->save(j, path) == QP_OK) {
        snprintf(path, sizeof path, "%s/config.json", out);
        qpi_json_save(path, config, 2, &j->ctx->error);
    }
    json_decref(config);
    return !qp_failed(j->ctx);
}

/* ---- Going on after an interruption ----------------------------------------------------------------- */

/* What another command would do otherwise; the data's own options are in its state. */
static json_t *options_of(const job *j) {
    cli *c = j->c;
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:s, s:I, s:I}", "method", j->method->name,
                     "parameters of the model", (json_int_t)j->m.info.parameters, "steps",
                     (json_int_t)cli_int(c, "steps"), "reuse", (json_int_t)cli_int(c, "reuse"), "lr",
                     cli_number(c, "lr"), "precision", cli_text(c, "precision"), "heads",
                     (json_int_t)cli_int(c, "heads"), "seed", (json_int_t)cli_int(c, "seed"));
}

static json_t *state_of(job *j) {
    const char *state =
        qp_data_seek(j->data, (uint64_t)batches_read(j)) == QP_OK ? qp_data_state(j->data) : NULL;
    json_t *data = state ? qpi_json_parse("data", state, strlen(state), &j->ctx->error) : NULL;
    if (!data) return NULL;
    return json_pack("{s:I, s:f, s:f, s:o, s:I, s:o, s:o}", "step", (json_int_t)j->steps, "first_loss",
                     j->first, "loss", j->last, "validation_before", cli_json_number(j->before),
                     "random_position", (json_int_t)j->random, "options", options_of(j), "data", data);
}

static bool fill_unfinished(job *j, const qpi_folder *folder, const json_t *state) {
    char *weights = qpi_folder_at(folder, j->method->file),
         *optim = qpi_folder_at(folder, "optimizer.safetensors"), *json = qpi_folder_at(folder, "state.json");
    bool ok = weights && optim && json && j->method->save(j, weights) == QP_OK &&
              qpi_optim_save(j->ctx, j->optim, optim) == QP_OK && qpi_json_save(json, state, 2, &j->ctx->error);
    free(weights);
    free(optim);
    free(json);
    return ok;
}

/* What was saved before stays until the link names the new folder, which is complete then. */
static bool save_unfinished(job *j) {
    char       path[4096];
    qpi_folder folder;
    int        before = side_of(j), next = before == 0;
    json_t    *state = state_of(j);
    snprintf(path, sizeof path, "%s/%s", cli_text(j->c, "out"), sides[next]);
    qpi_folder_remove(path); /* of a run that was killed before the link named it */
    if (!state || !qpi_folder_open(&folder, path, &j->ctx->error)) {
        json_decref(state);
        return !qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: %s", path);
    }
    bool ok = fill_unfinished(j, &folder, state);
    json_decref(state);
    if (!ok) qpi_folder_abort(&folder);
    ok = ok && qpi_folder_finish(&folder) &&
         qpi_write_link(unfinished(j, "", path), sides[next], &j->ctx->error);
    if (ok && before >= 0) remove_in_out(j, sides[before]);
    return ok;
}

static void remove_unfinished(const job *j) {
    remove_in_out(j, UNFINISHED);
    for (int i = 0; i < 2; i++) remove_in_out(j, sides[i]);
}

static bool resumes(const job *j) {
    char path[4096];
    return cli_flag(j->c, "resume") && qpi_path_exists(unfinished(j, "state.json", path));
}

static bool read_state(job *j, const qpi_json *root) {
    qpi_json    options;
    const char *key;
    json_t     *value, *ours = options_of(j);
    int64_t     random = 0;
    bool        ok = qpi_json_object(root, "options", QPI_REQUIRED, &options) &&
                     qpi_json_integer(root, "step", QPI_REQUIRED, 1, cli_int(j->c, "steps"), &j->steps) &&
                     qpi_json_integer(root, "random_position", QPI_REQUIRED, INT64_MIN, INT64_MAX, &random) &&
                     qpi_json_number(root, "first_loss", QPI_REQUIRED, -1e300, 1e300, &j->first) &&
                     qpi_json_number(root, "loss", QPI_REQUIRED, -1e300, 1e300, &j->last) &&
                     qpi_json_number(root, "validation_before", QPI_OPTIONAL, -1e300, 1e300, &j->before);
    if (ok)
        qpi_json_members(ours, key, value) ok =
            ok && !qpi_state_differs(j->ctx, root->name, key, options.value, ours);
    ok = ok && qpi_state_restore_data(j->data, root);
    if (ok) qp_set_random(j->ctx, j->ctx->seed, j->random = (uint64_t)random);
    json_decref(ours);
    return ok;
}

/* All but the weights. */
static void restore(job *j) {
    char    path[4096];
    json_t *json = qpi_json_load(unfinished(j, "state.json", path), &j->ctx->error);
    if (!json) return;
    qpi_json root = qpi_json_root(path, json, &j->ctx->error);
    bool     ok = read_state(j, &root);
    json_decref(json);
    ok = ok && qpi_optim_restore(j->ctx, j->optim, unfinished(j, "optimizer.safetensors", path));
    if (!ok) j->steps = 0; /* nothing to keep: what is saved stays as it is */
}

/* ---- What to learn ---------------------------------------------------------------------------------- */

#define COUNTED 256 /* batches whose tokens are counted, at most */

typedef struct {
    int64_t times;
    int32_t id;
} tally;

static int more_often(const void *a, const void *b) {
    const tally *x = a, *y = b;
    return x->times != y->times ? (x->times < y->times) - (x->times > y->times) : x->id - y->id;
}

static bool count_tokens(job *j, tally *all, int64_t vocabulary) {
    uint64_t before = qp_data_position(j->data);
    for (int64_t n = qp_data_batches(j->data), i = 0; i < n && i < COUNTED && !qp_failed(j->ctx); i++) {
        qp_scope       s = qp_enter(j->ctx);
        qp_record      batch = qp_data_next(j->data);
        qp_tensor      ids = qp_contiguous(qp_record_get(&batch, "input_ids"));
        const int64_t *data = qp_failed(j->ctx) ? NULL : qp_data_of(ids);
        for (int64_t k = 0, count = data ? qp_count(ids) : 0; k < count; k++)
            if (data[k] >= 0 && data[k] < vocabulary) all[data[k]].times++;
        qp_leave(s);
    }
    return qp_data_seek(j->data, before) == QP_OK;
}

/* The n tokens that the data has most often, ascending; to be freed. */
static int32_t *frequent(job *j, int64_t n) {
    int64_t  vocabulary = j->m.info.vocabulary;
    tally   *all = calloc((size_t)vocabulary, sizeof *all);
    int32_t *tokens = calloc((size_t)n + 1, sizeof *tokens);
    for (int64_t i = 0; i < vocabulary && all; i++) all[i].id = (int32_t)i;
    if (!all || !tokens) qp_fail(j->ctx, QP_ERR_MEMORY, "out of memory: tokens");
    else if (count_tokens(j, all, vocabulary)) {
        qsort(all, (size_t)vocabulary, sizeof *all, more_often);
        for (int64_t i = 0; i < n; i++) tokens[i] = all[i].id;
        qsort(tokens, (size_t)n, sizeof *tokens, qpi_draft_ascending);
    }
    free(all);
    return tokens;
}

static bool make(job *j) {
    char        path[4096];
    const char *from = cli_text(j->c, "from");
    if (resumes(j)) return j->method->load(j, unfinished(j, j->method->file, path));
    if (from && snprintf(path, sizeof path, "%s/%s", from, j->method->file) >= (int)sizeof path)
        return !qp_fail(j->ctx, QP_ERR_ARGUMENT, "--from: the path is too long");
    if (from) return j->method->load(j, path);
    int64_t  n = cli_int(j->c, "draft-tokens");
    int32_t *tokens = NULL;
    if (n >= j->m.info.vocabulary) n = 0;
    if (n) tokens = frequent(j, n);
    bool ok = !qp_failed(j->ctx) && j->method->make(j, tokens, n);
    free(tokens);
    return ok;
}

/* Keeps what the whole steps have learnt. */
static int interrupted(job *j) {
    const char *out = cli_text(j->c, "out");
    qp_clear(j->ctx);
    if (!save(j) || !save_unfinished(j)) return cli_failed(j->ctx);
    cli_error(
        "interrupted after step %lld of %lld; what was learnt is in %s: the same command with --resume goes on",
        (long long)j->steps, (long long)cli_int(j->c, "steps"), out);
    return 130;
}

static int learn(job *j) {
    cli *c = j->c;
    if (!make(j) || !open_out(j)) return cli_failed(j->ctx);
    j->optim = qp_adamw(j->method->params(j), (qp_adamw_options){.beta2 = 0.95, .clip = 1});
    if (j->optim && resumes(j)) restore(j);
    else j->before = validate(j);
    if (!qp_failed(j->ctx)) train(j);
    qp_autocast(j->ctx, QP_F32);
    double after = validate(j);
    if (j->steps && qp_error_code(j->ctx) == QP_ERR_CANCELLED) return interrupted(j);
    if (qp_failed(j->ctx) && j->made) rmdir(cli_text(c, "out")); /* nothing is in it */
    if (qp_failed(j->ctx) || !save(j)) return cli_failed(j->ctx);
    remove_unfinished(j);
    if (cli_flag(c, "json"))
        return cli_json_print(json_pack("{s:f, s:f, s:o, s:o, s:o}", "first_loss", j->first, "loss", j->last,
                                        "validation_before", cli_json_number(j->before), "validation",
                                        cli_json_number(after), "out", cli_json_name(cli_text(c, "out"))));
    cli_remark(c, "%s: loss %.4f -> %.4f, validation %.4f -> %.4f; it is in %s (quipu generate --draft %s)",
               j->method->name, j->first, j->last, j->before, after, cli_text(c, "out"), cli_text(c, "out"));
    return 0;
}

/* ---- The verb --------------------------------------------------------------------------------------- */

static bool open_data(job *j) {
    cli         *c = j->c;
    int          count;
    const char **files = cli_list(c, "data", &count);
    j->data = qp_data_open(j->ctx, count, files,
                           (qp_data_options){.batch = cli_int(c, "batch"),
                                             .length = cli_int(c, "length"),
                                             .tokenizer = j->m.tokenizer,
                                             .seed = (uint64_t)cli_int(c, "seed"),
                                             .field = cli_text(c, "field"),
                                             .special = true,
                                             .validation = cli_number(c, "holdout")});
    if (j->data) j->validation = qp_data_validation(j->data);
    return j->data;
}

static int run(cli *c) {
    static const char *const of_medusa[] = {"head-layers", "shared-head"};
    job                      j = {.c = c, .before = NAN};
    const char              *name = cli_text(c, "method");
    for (int i = 0; i < 2 && strcmp(name, "medusa"); i++)
        if (cli_given(c, of_medusa[i]))
            return cli_usage(c, "finetune: --%s goes with --method medusa", of_medusa[i]);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(name, methods[i].name)) continue;
        j.method = &methods[i];
        if (!(j.ctx = cli_open(c))) return 1;
        if (!cli_model_open(j.ctx, cli_text(c, "model"), true, &j.m) || !open_data(&j))
            return cli_failed(j.ctx);
        return learn(&j);
    }
    return cli_usage(c, "finetune: no method \"%s\" (medusa, mtp)", name);
}

static const cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model to start from, which stays as it is", 0, 0, true},
    {"method", 0, CLI_CHOICE, "medusa|mtp", NULL,
     "what guesses ahead, for quipu generate --draft: heads, or a module that reads its own guesses", 0, 0,
     true},
    {"data", 0, CLI_LIST, "FILE", NULL, "text, or .jsonl with a text field; marks of a chat count as such", 0,
     0, true},
    {"field", 0, CLI_TEXT, "NAME", "text", "field of JSON lines", 0, 0, false},
    {"holdout", 0, CLI_NUMBER, "SHARE", "0.02", "this share of the data is for validation", 0, 0.5, false},
    {"out", 0, CLI_TEXT, "DIR", NULL, "folder of what was learnt", 0, 0, true},
    {"from", 0, CLI_TEXT, "DIR", NULL, "begin with what was learnt there", 0, 0, false},
    {"resume", 0, CLI_FLAG, NULL, NULL, "go on where a training into --out was interrupted, if one was", 0, 0,
     false},
    {"steps", 'n', CLI_INT, "N", "500", "length of the training", 1, 1e12, false},
    {"batch", 'b', CLI_INT, "B", "8", "sequences in a batch", 1, 1e6, false},
    {"reuse", 0, CLI_INT, "N", "1",
     "steps for each batch that the model reads: the others learn from one of the last 128 again", 1, 1000,
     false},
    {"length", 0, CLI_INT, "T", "256", "tokens in a sequence", 2, 1e9, false},
    {"lr", 0, CLI_NUMBER, "X", "1e-3", "peak learning rate", 0, 1e3, false},
    {"precision", 0, CLI_CHOICE, "fp32|bf16", "fp32", "that products round their inputs to", 0, 0, false},
    {"heads", 0, CLI_INT, "N", "3",
     "tokens ahead: a head of medusa for each; mtp learns to read its own guesses so far", 1, 16, false},
    {"head-layers", 0, CLI_INT, "N", "1", "medusa: layers of a head", 1, 8, false},
    {"shared-head", 0, CLI_FLAG, NULL, NULL,
     "medusa: the last product of all heads is the model's own, and not trained", 0, 0, false},
    {"draft-tokens", 0, CLI_INT, "N", "0", "guess among the N most frequent tokens of the data only; 0: all", 0,
     1e9, false},
    {0}};

QP_VERB(finetune) = {
    .name = "finetune",
    .summary = "learn something on top of a model",
    .arguments = "",
    .options = options,
    .examples =
        "  quipu finetune -m my-model --method medusa --data book.txt --out my-heads\n"
        "  quipu finetune -m my-model --method mtp --data replies.jsonl --draft-tokens 8192 --out my-mtp\n"
        "  quipu generate -m my-model --draft my-heads -p \"To be\"\n",
    .run = run};
