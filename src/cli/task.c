#include "cli/task.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "format/checksum.h"
#include "format/json.h"

#define EPOCH 65536            /* samples of tasks that have no end */
#define TEST_SEED 0x7e57u << 8 /* what is tested on does not depend on --seed */

/* ---- Random numbers ------------------------------------------------------------------------------ */

static uint32_t next_word(task_random *r) {
    uint32_t word[4];
    qpi_philox(r->seed, r->sample, r->count / 4, word);
    return word[r->count++ % 4];
}

uint32_t task_draw(task_random *r, uint32_t below) { return (uint32_t)((uint64_t)next_word(r) * below >> 32); }
double task_uniform(task_random *r) { return next_word(r) * 0x1p-32; }

/* ---- Opening ------------------------------------------------------------------------------------- */

static const cli_task *find_task(qp_ctx *ctx, const char *name, size_t n) {
    for (int i = 0; cli_tasks[i]; i++)
        if (strlen(cli_tasks[i]->part.name) == n && !memcmp(cli_tasks[i]->part.name, name, n))
            return cli_tasks[i];
    qp_fail(ctx, QP_ERR_UNSUPPORTED, "no task \"%.*s\" (see `quipu list tasks`)", (int)(n < 60 ? n : 60), name);
    return NULL;
}

/* One option=value, of n bytes. */
static bool read_option(qp_ctx *ctx, qp_settings *s, const char *where, const char *text, size_t n) {
    char        name[64], value[64], *end;
    const char *equals = memchr(text, '=', n);
    size_t      before = equals ? (size_t)(equals - text) : 0, after = equals ? n - before - 1 : 0;
    if (!before || !after || before >= sizeof name || after >= sizeof value)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "%s: \"%.*s\": expected option=value", where,
                        (int)(n < 60 ? n : 60), text);
    memcpy(name, text, before), name[before] = 0;
    memcpy(value, equals + 1, after), value[after] = 0;
    const qp_option *o = qpi_settings_option(s, name);
    if (o && o->kind == QP_OPTION_BOOL && (!strcmp(value, "true") || !strcmp(value, "false")))
        return qpi_settings_set(ctx, s, where, name, value[0] == 't') == QP_OK;
    double x = strtod(value, &end);
    if (*end)
        return qpi_settings_choose(ctx, s, where, name, value) == QP_OK;
    return qpi_settings_set(ctx, s, where, name, x) == QP_OK;
}

bool task_settings(qp_ctx *ctx, qp_settings *s, const qp_part *part, const char *where, const char *options) {
    qpi_settings_init(s, part);
    for (const char *p = options; *p;) {
        size_t n = strcspn(p, ":");
        if (!read_option(ctx, s, where, p, n)) return false;
        p += n + (p[n] == ':');
    }
    return true;
}

bool task_open(task *t, qp_ctx *ctx, const char *spec, int file_count, const char *const *files,
               const qp_tokenizer *tokenizer) {
    size_t n = strcspn(spec, ":");
    *t = (task){.about = {.files = files, .file_count = file_count, .tokenizer = tokenizer}};
    const cli_task *type = find_task(ctx, spec, n);
    if (!type || !task_settings(ctx, &t->settings, &type->part, "--task", spec + n + (spec[n] == ':')))
        return false;
    if (type->files != (file_count > 0))
        return !qp_fail(ctx, QP_ERR_ARGUMENT,
                        type->files ? "task %s: it reads files: give --data"
                                    : "task %s: it reads no files: leave --data out",
                        type->part.name);
    t->about.build = (qp_build){.ctx = ctx, .settings = &t->settings};
    t->self = calloc(1, type->part.bytes ? type->part.bytes : 1);
    if (!t->self) return !qp_fail(ctx, QP_ERR_MEMORY, "out of memory: task");
    t->type = type;
    return type->open(t->self, &t->about) && !qp_failed(ctx);
}

void task_close(task *t) {
    if (t->type && t->type->close) t->type->close(t->self);
    free(t->self);
    *t = (task){0};
}

/* ---- As a source of samples ---------------------------------------------------------------------- */

typedef struct {
    const task *t;
    task_split  split;
    int64_t     length, samples;
    uint64_t    seed;
} rows;

static int fields(void *source, qp_field *out) {
    const rows *r = source;
    out[0] = (qp_field){"input_ids", QP_I64, 1, {r->length}};
    out[1] = (qp_field){"labels", QP_I64, 1, {r->length}};
    return 2;
}

static int64_t samples(void *source) { return ((const rows *)source)->samples; }

static const char *fill(void *source, uint64_t epoch, int64_t index, void *const *out) {
    const rows *r = source;
    int64_t    *ids = out[0], *labels = out[1];
    for (int64_t i = 0; i < r->length; i++) ids[i] = 0, labels[i] = TASK_NOTHING;
    if (index < 0) return NULL;
    task_random random = {r->seed, epoch * (uint64_t)r->samples + (uint64_t)index, 0};
    r->t->type->fill(r->t->self, &random, r->split, index, r->length, ids, labels);
    return NULL;
}

static uint64_t fingerprint(void *source) {
    const rows *r = source;
    uint64_t parts[] = {r->t->about.fingerprint, (uint64_t)r->split, (uint64_t)r->length, (uint64_t)r->samples,
                        r->seed};
    uint64_t settings = qpi_checksum_of(0, r->t->settings.values, sizeof r->t->settings.values);
    return qpi_checksum_of(settings, parts, sizeof parts);
}

qp_data *task_data(const task *t, qp_ctx *ctx, task_split split, int64_t length, int64_t batch, int64_t most,
                   uint64_t seed) {
    static const qp_source type = {"task", fields, samples, fill, fingerprint, NULL, free};
    const char            *why = t->type->refuses ? t->type->refuses(t->self, length) : NULL;
    if (why) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "task %s: rows of %lld: %s", t->type->part.name, (long long)length, why);
        return NULL;
    }
    int64_t there = t->type->samples ? t->type->samples(t->self, split, length) : most ? most : EPOCH;
    if (there < 1) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "task %s: the files are too short for rows of %lld", t->type->part.name,
                (long long)length);
        return NULL;
    }
    rows *r = calloc(1, sizeof *r);
    if (!r) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: task");
        return NULL;
    }
    *r = (rows){t, split, length, most && most < there ? most : there, split == TASK_TEST ? TEST_SEED : seed};
    return qp_data_new(ctx, &type, r,
                       (qp_data_options){.batch = batch,
                                         .seed = seed,
                                         .order = split == TASK_TEST ? QP_SEQUENTIAL : QP_SHUFFLED});
}
