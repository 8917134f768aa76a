/* What a step costs by length: seconds of forward and backward, variants taking turns, and flops of the forward
 * pass split into products with weights, what else the mixer does, and the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/json.h"
#include "cli/watch.h"
#include "core/core.h"
#include "format/checksum.h"
#include "format/json.h"
#include "format/os.h"

#define NOISE 0.02                  /* so much less is cheaper */
enum { ROUNDS = 5, TOKENS = 2048 }; /* of a batch, one sequence at least */

/* The fastest: what else runs on the machine only slows. */
static double least(const double *x, int n) {
    double best = n ? x[0] : NAN;
    for (int i = 1; i < n; i++) best = fmin(best, x[i]);
    return best;
}

/* ---- Flops --------------------------------------------------------------------------------------- */

enum { PROJECTIONS, MIXING, OTHER, KINDS };

typedef struct {
    qp_model *m;
    bool      in_mixer;
    double    flops[KINDS];
} counting;

/* A product with a weight of the model? */
static bool is_projection(const counting *c, const qp_call *call) {
    qp_state_dict params = qp_model_params(c->m);
    for (int i = 0; call->op->autocast && i < call->nin; i++)
        for (int p = 0; call->in[i].ndim > 1 && p < params.count; p++)
            if (call->in[i].data == qp_data_of(params.entries[p].tensor)) return true;
    return false;
}

static void count(void *user, const qp_call *call, double seconds) {
    counting *c = user;
    (void)seconds;
    c->flops[is_projection(c, call) ? PROJECTIONS : c->in_mixer ? MIXING : OTHER] += qp_call_flops(call);
}

static void enter_mixer(void *user, int64_t layer, bool ffn, qp_tensor x) {
    (void)layer, (void)x;
    ((counting *)user)->in_mixer = !ffn;
}
static void leave_mixer(void *user, int64_t layer, bool ffn, qp_tensor y) {
    (void)layer, (void)ffn, (void)y;
    ((counting *)user)->in_mixer = false;
}

static void count_flops(qp_model *m, qp_tensor ids, counting *c) {
    qp_ctx     *ctx = qp_model_ctx(m);
    cli_watcher watcher = {enter_mixer, leave_mixer, c};
    cli_watch  *watch = cli_watch_model(m, &watcher);
    qp_scope    scope = qp_enter(ctx);
    *c = (counting){.m = m};
    qp_no_grad(ctx, true);
    qp_observe(ctx, count, c);
    qp_model_loss(m, ids, ids);
    qp_observe(ctx, NULL, NULL);
    qp_leave(scope);
    cli_unwatch(watch);
}

/* ---- Seconds ------------------------------------------------------------------------------------- */

typedef struct {
    qp_model *m; /* NULL: not measured at this length */
    double    seconds[ROUNDS], forward[ROUNDS];
    int       rounds;
    counting  counted;
} measured;

static int64_t batch_of(int64_t length) { return length < TOKENS ? TOKENS / length : 1; }

static qp_tensor random_ids(const compare *k, int64_t length) {
    int64_t     B = batch_of(length);
    qp_tensor   ids = qp_empty(k->ctx, QP_I64, 2, (int64_t[]){B, length});
    int64_t    *p = qp_data_write(ids);
    task_random r = {0, 0, 0};
    for (int64_t i = 0; p && i < B * length; i++) p[i] = task_draw(&r, (uint32_t)k->task.about.vocabulary);
    return ids;
}

static void one_step(const compare *k, measured *x, qp_tensor ids, bool counts) {
    double   start = cli_now();
    qp_scope scope = qp_enter(k->ctx);
    if (cli_choice(k->c, "precision")) qp_autocast(k->ctx, QP_BF16);
    qp_tensor loss = qp_model_loss(x->m, ids, ids);
    double    middle = cli_now();
    qp_backward(loss);
    qp_state_dict params = qp_model_params(x->m);
    for (int i = 0; i < params.count; i++) qp_zero_grad(params.entries[i].tensor);
    qp_leave(scope);
    if (!counts) return;
    x->forward[x->rounds] = (middle - start) / (double)qp_size(ids, 0);
    x->seconds[x->rounds++] = (cli_now() - start) / (double)qp_size(ids, 0);
}

/* The context's failure, forgotten, but for an interruption. */
static bool give_up(const compare *k, measured *x) {
    if (!qp_failed(k->ctx)) return false;
    if (qp_error_code(k->ctx) != QP_ERR_CANCELLED) qp_clear(k->ctx);
    qp_model_close(x->m);
    x->m = NULL;
    return true;
}

static void begin(const compare *k, measured *x, const compare_variant *v, int64_t length, qp_tensor ids) {
    char *config = v->why[0] ? NULL : compare_config(k, v, length, length, false);
    qp_set_random(k->ctx, 0, 0);
    if (config) x->m = qp_model_new(k->ctx, "config", config);
    free(config);
    if (give_up(k, x) || !x->m) return;
    count_flops(x->m, ids, &x->counted);
    if (!give_up(k, x)) one_step(k, x, ids, false);
    give_up(k, x);
}

static json_t *row_of(const compare_variant *v, int64_t length, const char *key, measured *x) {
    const double *f = x->counted.flops;
    json_t       *row = json_pack("{s:s, s:I, s:s}", "part", v->name, "length", (json_int_t)length, "key", key);
    if (!x->m) json_object_set_new(row, "seconds", json_null());
    else
        json_object_update_new(
            row, json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "seconds", least(x->seconds, x->rounds),
                           "forward_seconds", least(x->forward, x->rounds), "flops",
                           (f[PROJECTIONS] + f[MIXING] + f[OTHER]) / (double)batch_of(length),
                           "projection_flops", f[PROJECTIONS] / (double)batch_of(length), "mixing_flops",
                           f[MIXING] / (double)batch_of(length), "other_flops",
                           f[OTHER] / (double)batch_of(length)));
    return row;
}

/* All variants at a length; slow[i]: the variant took too long at a shorter one. */
static bool measure_length(compare *k, int64_t length, char (*keys)[20], bool *slow, json_t *rows) {
    double    most = cli_number(k->c, "cost-seconds");
    qp_scope  scope = qp_enter(k->ctx);
    qp_tensor ids = random_ids(k, length);
    measured *all = calloc((size_t)k->variant_count, sizeof *all);
    if (!all) qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: costs");
    for (int i = 0; all && i < k->variant_count && qp_error_code(k->ctx) != QP_ERR_CANCELLED; i++)
        if (!slow[i]) begin(k, &all[i], &k->variants[i], length, ids);
    double started = cli_now();
    for (int round = 0;
         all && round < ROUNDS && !qp_failed(k->ctx) && (round < 1 || cli_now() - started < ROUNDS * most / 2);
         round++)
        for (int i = 0; i < k->variant_count && !qp_failed(k->ctx); i++) {
            if (all[i].m) one_step(k, &all[i], ids, true);
            if (all[i].m && give_up(k, &all[i])) break;
        }
    for (int i = 0; all && i < k->variant_count; i++) {
        json_array_append_new(rows, row_of(&k->variants[i], length, keys[i], &all[i]));
        slow[i] = !all[i].m || all[i].seconds[0] * (double)batch_of(length) > most;
        qp_model_close(all[i].m);
    }
    free(all);
    qp_leave(scope);
    return !qp_failed(k->ctx);
}

/* ---- Kept from run to run ------------------------------------------------------------------------ */

/* What a row depends on. */
static void key_of(const compare *k, int variant, int64_t length, char key[20]) {
    char *config =
        k->variants[variant].why[0] ? NULL : compare_config(k, &k->variants[variant], length, length, false);
    char     what[64];
    uint64_t hash = config ? qpi_checksum_of(0, config, strlen(config)) : 0;
    snprintf(what, sizeof what, "%d %s %.9g", qp_stats_of(k->ctx).threads, cli_text(k->c, "precision"),
             cli_number(k->c, "cost-seconds"));
    snprintf(key, 20, "%016llx", (unsigned long long)qpi_checksum_of(hash, what, strlen(what)));
    free(config);
}

static json_t *find_row(const json_t *rows, const char *part, int64_t length, const char *key) {
    size_t  i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const char *a = json_string_value(json_object_get(row, "part")),
                   *b = json_string_value(json_object_get(row, "key"));
        bool same = a && b && !strcmp(a, part) && (!key || !strcmp(b, key));
        if (same && json_integer_value(json_object_get(row, "length")) == length) return row;
    }
    return NULL;
}

/* Takes the rows of a length over if all are there. */
static bool reuse(compare *k, const json_t *old, int64_t length, char (*keys)[20], bool *slow) {
    for (int i = 0; i < k->variant_count; i++)
        if (!find_row(old, k->variants[i].name, length, keys[i])) return false;
    for (int i = 0; i < k->variant_count; i++) {
        json_t *row = find_row(old, k->variants[i].name, length, keys[i]);
        slow[i] = json_is_null(json_object_get(row, "seconds"));
        json_array_append(k->cost, row);
    }
    return true;
}

bool compare_measure(compare *k) {
    char      path[4200], keys[COMPARE_MOST][20];
    bool      slow[COMPARE_MOST] = {0}, ok = true;
    qpi_error ignored = {0};
    snprintf(path, sizeof path, "%.3000s/costs.json", cli_text(k->c, "out"));
    json_t *old = qpi_json_load(path, &ignored);
    k->cost = json_array();
    cli_progress progress = cli_progress_start(k->c, k->costs.count);
    for (int64_t i = 0; i < k->costs.count && ok && cli_number(k->c, "cost-seconds") > 0; i++) {
        for (int v = 0; v < k->variant_count; v++) key_of(k, v, k->costs.at[i], keys[v]);
        cli_progress_show(&progress, i, "what %lld positions cost ", (long long)k->costs.at[i]);
        if (!reuse(k, old, k->costs.at[i], keys, slow))
            ok = measure_length(k, k->costs.at[i], keys, slow, k->cost);
    }
    cli_progress_end(&progress);
    json_decref(old);
    return ok && qpi_json_save(path, k->cost, 2, &k->ctx->error);
}

/* ---- Reading them -------------------------------------------------------------------------------- */

struct compare_points compare_costs(const compare *k, int variant, const char *key) {
    struct compare_points p = {0};
    for (int64_t i = 0; i < k->costs.count; i++) {
        const json_t *row = find_row(k->cost, k->variants[variant].name, k->costs.at[i], NULL),
                     *x = json_object_get(row, key);
        if (!json_is_number(x) || !(json_number_value(x) > 0)) continue;
        p.length[p.n] = (double)k->costs.at[i];
        p.value[p.n++] = json_number_value(x);
    }
    return p;
}

double compare_crossover(const compare *k, int variant, const char *key) {
    struct compare_points a = compare_costs(k, k->reference, key), b = compare_costs(k, variant, key);
    double                before = NAN, at = NAN; /* of the last length where it was dearer; found */
    bool                  dear = false, any = false;
    double                last = 0;
    for (int i = 0, j = 0; i < a.n && j < b.n; a.length[i] < b.length[j]   ? i++
                                               : a.length[i] > b.length[j] ? j++
                                                                           : (i++, j++)) {
        if (a.length[i] != b.length[j]) continue;
        double ratio = log(b.value[j] / a.value[i] * (1 + NOISE));
        if (ratio < 0 && (dear || !any)) /* between the two lengths, straight in logarithms */
            at = !any ? 0 : exp(log(last) + (log(a.length[i]) - log(last)) * before / (before - ratio));
        if (ratio >= 0) at = NAN;
        dear = ratio >= 0;
        any = true;
        before = ratio;
        last = a.length[i];
    }
    return at;
}
