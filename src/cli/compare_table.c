/* Results as one JSON object, which the text, the CSV file and the page are made from. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/html.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"

/* ---- Rows: a variant at a length, over its seeds, at its best learning rate ---------------------- */

static bool is_done(const compare_run *r) {
    const char *status = json_string_value(json_object_get(r->result, "status"));
    return status && !strcmp(status, "done");
}

typedef struct {
    int    n;
    double sum, squares;
} mean;

static void add(mean *m, double x) {
    if (!isfinite(x)) return;
    m->n++;
    m->sum += x;
    m->squares += x * x;
}
static double mean_of(const mean *m) { return m->n ? m->sum / m->n : NAN; }
static double spread_of(const mean *m) { /* standard deviation */
    return m->n > 1 ? sqrt(fmax(0, (m->squares - m->sum * m->sum / m->n) / (m->n - 1))) : NAN;
}

static void put_mean(json_t *row, const char *key, const mean *m, bool spread) {
    char name[64];
    json_object_set_new(row, key, cli_json_number(mean_of(m)));
    snprintf(name, sizeof name, "%s_spread", key);
    if (spread) json_object_set_new(row, name, cli_json_number(spread_of(m)));
}

static bool belongs(const compare_run *r, int variant, int64_t length, double lr) {
    return r->variant == variant && r->length == length && (r->lr == lr || lr < 0);
}

static mean mean_over(const compare *k, int variant, int64_t length, double lr, const char *key) {
    mean m = {0};
    for (int i = 0; i < k->run_count; i++)
        if (belongs(&k->runs[i], variant, length, lr) && is_done(&k->runs[i]))
            add(&m, cli_json_number_in(k->runs[i].result, key));
    return m;
}

static double best_rate(const compare *k, int variant, int64_t length) {
    double best = NAN, lowest = INFINITY;
    for (int i = 0; i < k->rate_count; i++) {
        mean m = mean_over(k, variant, length, k->rates[i], "loss");
        if (m.n && mean_of(&m) < lowest) lowest = mean_of(&m), best = k->rates[i];
    }
    return best;
}

/* Means of the tests at other lengths, in the order of --test-length. */
static json_t *tests_of(const compare *k, int variant, int64_t length, double lr) {
    json_t *all = json_array();
    for (int64_t t = 0; t < k->tests.count; t++) {
        mean        loss = {0}, accuracy = {0}, bits = {0};
        const char *why = NULL;
        for (int i = 0; i < k->run_count; i++) {
            const json_t *one = json_array_get(json_object_get(k->runs[i].result, "tests"), (size_t)t);
            if (!belongs(&k->runs[i], variant, length, lr) || !one) continue;
            if (!why) why = json_string_value(json_object_get(one, "why"));
            add(&loss, cli_json_number_in(one, "loss"));
            add(&accuracy, cli_json_number_in(one, "accuracy"));
            add(&bits, cli_json_number_in(one, "bits_per_byte"));
        }
        json_t *o = json_pack("{s:I}", "length", (json_int_t)k->tests.at[t]);
        put_mean(o, "loss", &loss, true);
        put_mean(o, "accuracy", &accuracy, true);
        put_mean(o, "bits_per_byte", &bits, true);
        if (why) json_object_set_new(o, "why", cli_json_name(why));
        json_array_append_new(all, o);
    }
    return all;
}

static const json_t *cost_row(const compare *k, int variant, int64_t length) {
    size_t  i;
    json_t *row;
    json_array_foreach(k->cost, i, row) {
        const char *part = json_string_value(json_object_get(row, "part"));
        if (part && !strcmp(part, k->variants[variant].name) &&
            json_integer_value(json_object_get(row, "length")) == length)
            return row;
    }
    return NULL;
}

/* Flops of the forward pass for each token; and, where a step was measured taking turns with the others', its
 * speed in the place of the training's. */
static void put_cost(const compare *k, json_t *row, int variant, int64_t length) {
    static const char *const keys[] = {"flops", "projection_flops", "mixing_flops", "other_flops"};
    const json_t            *cost = cost_row(k, variant, length);
    double                   seconds = cli_json_number_in(cost, "seconds");
    json_object_set(row, "training_tokens_per_second", json_object_get(row, "tokens_per_second"));
    if (isfinite(seconds)) json_object_set_new(row, "tokens_per_second", json_real((double)length / seconds));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set_new(row, keys[i], cli_json_number(cli_json_number_in(cost, keys[i]) / (double)length));
}

static json_t *row_of(const compare *k, int variant, int64_t length) {
    static const char *const means[] = {
        "loss", "accuracy", "bits_per_byte", "train_loss", "tokens_per_second", "peak_bytes", "state_bytes"};
    const compare_variant *v = &k->variants[variant], *ref = &k->variants[k->reference];
    double                 lr = best_rate(k, variant, length);
    const char            *why = NULL;
    int                    done = 0, all = 0;
    double                 off = (double)v->parameters / (double)ref->parameters - 1;
    bool                   made = v->parameters >= 0;
    json_t                *row =
        json_pack("{s:s, s:I, s:o, s:o, s:o, s:I, s:o}", "part", v->name, "length", (json_int_t)length,
                  "parameters", made ? json_integer((json_int_t)v->parameters) : json_null(), "parameters_off",
                  cli_json_number(made ? off : NAN), "adjusted", cli_json_name(v->knob), "adjusted_to",
                  (json_int_t)v->inner, "lr", cli_json_number(lr));
    for (int i = 0; i < k->run_count; i++) {
        const compare_run *r = &k->runs[i];
        if (!belongs(r, variant, length, isfinite(lr) ? lr : -1)) continue;
        all++;
        done += is_done(r);
        if (!why) why = json_string_value(json_object_get(r->result, "why"));
    }
    json_object_set_new(row, "status", json_string(done == 0 ? "failed" : done < all ? "partly" : "done"));
    json_object_set_new(row, "why", cli_json_name(why));
    json_object_set_new(row, "seeds", json_integer(done));
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) {
        mean m = mean_over(k, variant, length, lr, means[i]);
        put_mean(row, means[i], &m, i < 3);
    }
    put_cost(k, row, variant, length);
    json_object_set_new(row, "tests", tests_of(k, variant, length, lr));
    return row;
}

/* ---- All ----------------------------------------------------------------------------------------- */

static json_t *crossover_of(const compare *k, int variant) {
    struct compare_points p = compare_costs(k, variant, "seconds");
    double  at = compare_crossover(k, variant, "seconds"), flops = compare_crossover(k, variant, "flops");
    char    says[80];
    int64_t first = p.n ? (int64_t)p.length[0] : 0, last = p.n ? (int64_t)p.length[p.n - 1] : 0;
    if (!p.n) snprintf(says, sizeof says, "not measured");
    else if (variant == k->reference) snprintf(says, sizeof says, "the reference");
    else if (isnan(at)) snprintf(says, sizeof says, "not up to %lld", (long long)last);
    else if (at == 0) snprintf(says, sizeof says, "from %lld or less", (long long)first);
    else snprintf(says, sizeof says, "from %.0f", at);
    return json_pack("{s:s, s:o, s:o, s:s}", "part", k->variants[variant].name, "length",
                     variant == k->reference ? json_null() : cli_json_number(at), "flops_length",
                     variant == k->reference ? json_null() : cli_json_number(flops), "cheaper", says);
}

json_t *compare_gather(const compare *k) {
    json_t *rows = json_array(), *crossovers = json_array(), *runs = json_array();
    char   *command = cli_command(k->c), processor[256];
    for (int64_t l = 0; l < k->lengths.count; l++)
        for (int v = 0; v < k->variant_count; v++) json_array_append_new(rows, row_of(k, v, k->lengths.at[l]));
    for (int v = 0; v < k->variant_count; v++) json_array_append_new(crossovers, crossover_of(k, v));
    for (int i = 0; i < k->run_count; i++)
        json_array_append_new(runs, json_pack("{s:s, s:I, s:I, s:f, s:o, s:O?}", "part",
                                              k->variants[k->runs[i].variant].name, "length",
                                              (json_int_t)k->runs[i].length, "seed",
                                              (json_int_t)k->runs[i].seed, "lr", k->runs[i].lr, "folder",
                                              cli_json_name(k->runs[i].folder), "result", k->runs[i].result));
    html_processor(processor);
    json_t *all = json_pack("{s:o, s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:O, s:o}", "task",
                            cli_json_name(cli_text(k->c, "task")), "measure",
                            k->task.about.bytes_per_token > 0 ? "bits_per_byte" : "accuracy", "reference",
                            k->variants[k->reference].name, "processor", cli_json_name(processor), "threads",
                            qp_stats_of(k->ctx).threads, "command", cli_json_name(command), "rows", rows,
                            "crossovers", crossovers, "costs", k->cost, "runs", runs);
    free(command);
    if (!all) qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: compare.json");
    return all;
}

/* ---- As text ------------------------------------------------------------------------------------- */

/* "71.2%" or "2.310"; "-" for none. */
static const char *quality(const json_t *o, bool bits, char out[32]) {
    double x = cli_json_number_in(o, bits ? "bits_per_byte" : "accuracy"),
           spread = cli_json_number_in(o, bits ? "bits_per_byte_spread" : "accuracy_spread");
    if (!isfinite(x)) snprintf(out, 32, "-");
    else if (bits && isfinite(spread)) snprintf(out, 32, "%.3f+-%.3f", x, spread);
    else if (bits) snprintf(out, 32, "%.3f", x);
    else if (isfinite(spread)) snprintf(out, 32, "%.1f+-%.1f%%", 100 * x, 100 * spread);
    else snprintf(out, 32, "%.1f%%", 100 * x);
    return out;
}

static const char *bytes_text(const json_t *row, const char *key, char out[32]) {
    double x = cli_json_number_in(row, key);
    if (isfinite(x)) return cli_bytes(x, out);
    return strcpy(out, "-");
}

static void print_row(const json_t *all, const json_t *row, bool bits, int name) {
    char    a[32], b[32], d[32];
    size_t  i;
    json_t *one;
    printf("%-*s %6lld", name, cli_json_text_in(row, "part"),
           (long long)json_integer_value(json_object_get(row, "length")));
    if (!strcmp(cli_json_text_in(row, "status"), "failed")) {
        printf("  %s\n", cli_json_text_in(row, "why"));
        return;
    }
    printf(" %9lld %+6.1f%% %13s", (long long)json_integer_value(json_object_get(row, "parameters")),
           100 * cli_json_number_in(row, "parameters_off"), quality(row, bits, a));
    json_array_foreach(json_object_get(row, "tests"), i, one) printf(" %10s", quality(one, bits, d));
    printf(" %9.0f %9s %9s", cli_json_number_in(row, "tokens_per_second"), bytes_text(row, "peak_bytes", a),
           bytes_text(row, "state_bytes", b));
    if (isfinite(cli_json_number_in(row, "flops")))
        printf(" %9.3f %7.3f %7.3f", cli_json_number_in(row, "projection_flops") * 1e-6,
               cli_json_number_in(row, "mixing_flops") * 1e-6, cli_json_number_in(row, "other_flops") * 1e-6);
    json_array_foreach(json_object_get(all, "crossovers"), i,
                       one) if (!strcmp(cli_json_text_in(one, "part"), cli_json_text_in(row, "part")))
        printf("  %s", cli_json_text_in(one, "cheaper"));
    printf("\n");
}

void compare_print(const compare *k, const json_t *all) {
    bool    bits = !strcmp(cli_json_text_in(all, "measure"), "bits_per_byte");
    size_t  i;
    json_t *row;
    int     name = 4;
    for (int v = 0; v < k->variant_count; v++)
        if ((int)strlen(k->variants[v].name) > name) name = (int)strlen(k->variants[v].name);
    printf("%-*s %6s %9s %7s %13s", name, "part", "T", "params", "", bits ? "bits/byte" : "accuracy");
    for (int64_t t = 0; t < k->tests.count; t++) printf("   at %5lld", (long long)k->tests.at[t]);
    printf(" %9s %9s %9s", "tokens/s", "memory", "state");
    if (json_array_size(k->cost)) printf(" %9s %7s %7s  %s", "project", "mix", "rest", "cheaper");
    printf("\n");
    json_array_foreach(json_object_get(all, "rows"), i, row) print_row(all, row, bits, name);
    if (json_array_size(k->cost))
        printf("project, mix, rest: million flops a token, forward; cheaper: than %s, a step measured here\n",
               k->variants[k->reference].name);
}

/* ---- As files ------------------------------------------------------------------------------------ */

static void put_quoted(qpi_buffer *b, const char *text) {
    if (!strpbrk(text, ",\"\n\r")) {
        qpi_put_text(b, text);
        return;
    }
    qpi_put_text(b, "\"");
    for (; *text; text++) qpi_put_text(b, *text == '"' ? "\"\"" : (char[]){*text, 0});
    qpi_put_text(b, "\"");
}

static void put_cell(qpi_buffer *b, const json_t *value, bool first) {
    char text[40] = "";
    if (!first) qpi_put_text(b, ",");
    if (json_is_string(value)) put_quoted(b, json_string_value(value));
    else if (json_is_number(value)) snprintf(text, sizeof text, "%.9g", json_number_value(value));
    qpi_put_text(b, text);
}

static void put_csv(qpi_buffer *b, const compare *k, const json_t *all) {
    static const char *const columns[] = {"part",
                                          "length",
                                          "status",
                                          "why",
                                          "parameters",
                                          "parameters_off",
                                          "adjusted",
                                          "adjusted_to",
                                          "lr",
                                          "seeds",
                                          "loss",
                                          "loss_spread",
                                          "accuracy",
                                          "accuracy_spread",
                                          "bits_per_byte",
                                          "bits_per_byte_spread",
                                          "train_loss",
                                          "tokens_per_second",
                                          "training_tokens_per_second",
                                          "peak_bytes",
                                          "state_bytes",
                                          "flops",
                                          "projection_flops",
                                          "mixing_flops",
                                          "other_flops"};
    static const char *const tested[] = {"loss", "accuracy"};
    int                      n = (int)(sizeof columns / sizeof *columns);
    size_t                   i, t;
    json_t                  *row, *one;
    char                     name[64];
    for (int c = 0; c < n; c++) qpi_put_text(b, c ? "," : ""), qpi_put_text(b, columns[c]);
    for (int64_t l = 0; l < k->tests.count; l++)
        for (int c = 0; c < 2; c++)
            snprintf(name, sizeof name, ",%s_at_%lld", tested[c], (long long)k->tests.at[l]),
                qpi_put_text(b, name);
    qpi_put_text(b, ",cheaper_from\n");
    json_array_foreach(json_object_get(all, "rows"), i, row) {
        for (int c = 0; c < n; c++) put_cell(b, json_object_get(row, columns[c]), c == 0);
        json_array_foreach(json_object_get(row, "tests"), t, one) for (int c = 0; c < 2; c++)
            put_cell(b, json_object_get(one, tested[c]), false);
        json_array_foreach(json_object_get(all, "crossovers"), t,
                           one) if (!strcmp(cli_json_text_in(one, "part"), cli_json_text_in(row, "part")))
            put_cell(b, json_object_get(one, "length"), false);
        qpi_put_text(b, "\n");
    }
}

bool compare_save(const compare *k, const json_t *all) {
    char       path[4200];
    qpi_buffer csv = {0};
    snprintf(path, sizeof path, "%.3000s/compare.json", cli_text(k->c, "out"));
    bool ok = qpi_json_save(path, all, 2, &k->ctx->error);
    put_csv(&csv, k, all);
    snprintf(path, sizeof path, "%.3000s/compare.csv", cli_text(k->c, "out"));
    if (csv.failed) ok = qpi_fail_memory(&k->ctx->error, path) == QP_OK;
    ok = ok && qpi_write_file(path, csv.data, csv.count, &k->ctx->error);
    qpi_buffer_free(&csv);
    return ok;
}
