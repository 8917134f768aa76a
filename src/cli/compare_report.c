/* report.html of a comparison: the table, curves, and what length costs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/history.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/os.h"

/* ---- The table ----------------------------------------------------------------------------------- */

static void put_number(html *h, double x, const char *format) {
    char text[64];
    snprintf(text, sizeof text, format, x);
    html_putf(h, "<td>%s</td>", isfinite(x) ? text : "");
}

static void put_quality(html *h, const json_t *o, const char *measure) {
    bool bits = !strcmp(measure, "bits_per_byte");
    char key[64], spread[40] = "";
    snprintf(key, sizeof key, "%s_spread", measure);
    double x = cli_json_number_in(o, measure), s = cli_json_number_in(o, key);
    if (isfinite(s))
        snprintf(spread, sizeof spread, bits ? " &plusmn; %.3f" : " &plusmn; %.1f", bits ? s : 100 * s);
    if (isfinite(x)) html_putf(h, bits ? "<td>%.3f%s</td>" : "<td>%.1f%%%s</td>", bits ? x : 100 * x, spread);
    else html_put(h, "<td></td>");
}

static void put_bytes(html *h, double bytes) {
    char text[32];
    html_putf(h, "<td>%s</td>", isfinite(bytes) ? cli_bytes(bytes, text) : "");
}

static void put_row(html *h, const json_t *all, const json_t *row) {
    const char *measure = cli_json_text_in(all, "measure");
    size_t      i, columns = 10 + json_array_size(json_object_get(row, "tests"));
    json_t     *one;
    html_put(h, "<tr><td>");
    html_escaped(h, cli_json_text_in(row, "part"));
    html_putf(h, "</td><td>%.0f</td>", cli_json_number_in(row, "length"));
    if (!strcmp(cli_json_text_in(row, "status"), "failed")) {
        html_putf(h, "<td class=\"why\" colspan=\"%zu\">", columns);
        html_escaped(h, cli_json_text_in(row, "why"));
        html_put(h, "</td></tr>\n");
        return;
    }
    put_number(h, cli_json_number_in(row, "parameters"), "%.0f");
    put_number(h, 100 * cli_json_number_in(row, "parameters_off"), "%+.1f%%");
    put_quality(h, row, measure);
    json_array_foreach(json_object_get(row, "tests"), i, one) put_quality(h, one, measure);
    put_number(h, cli_json_number_in(row, "tokens_per_second"), "%.0f");
    put_bytes(h, cli_json_number_in(row, "peak_bytes"));
    put_bytes(h, cli_json_number_in(row, "state_bytes"));
    put_number(h, cli_json_number_in(row, "projection_flops") * 1e-6, "%.3f");
    put_number(h, cli_json_number_in(row, "mixing_flops") * 1e-6, "%.3f");
    put_number(h, cli_json_number_in(row, "other_flops") * 1e-6, "%.3f");
    json_array_foreach(json_object_get(all, "crossovers"), i,
                       one) if (!strcmp(cli_json_text_in(one, "part"), cli_json_text_in(row, "part")))
        html_putf(h, "<td>%s</td>", cli_json_text_in(one, "cheaper"));
    html_put(h, "</tr>\n");
}

static void put_table(html *h, const compare *k, const json_t *all) {
    bool    bits = !strcmp(cli_json_text_in(all, "measure"), "bits_per_byte");
    size_t  i;
    json_t *row;
    html_putf(
        h, "<div class=\"table\"><table>\n<tr><th>part</th><th>T</th><th>parameters</th><th></th><th>%s</th>",
        bits ? "bits per byte" : "accuracy");
    for (int64_t t = 0; t < k->tests.count; t++) html_putf(h, "<th>at %lld</th>", (long long)k->tests.at[t]);
    html_put(h, "<th>tokens/s</th><th>memory</th><th>state</th><th>project</th><th>mix</th><th>rest</"
                "th><th>cheaper</th></tr>\n");
    json_array_foreach(json_object_get(all, "rows"), i, row) put_row(h, all, row);
    html_put(h, "</table></div>\n<p>Parameters beside those of ");
    html_escaped(h, k->variants[k->reference].name);
    html_put(h, "; tokens/s of a forward and backward pass, memory of a training step; state: what one "
                "sequence of T positions carries from step to step; "
                "project, mix, rest: million flops a token of the forward pass, in products with weights, in "
                "what else the "
                "mixer does, and in all else; cheaper: the lengths from which a training step, measured on "
                "this machine, "
                "takes less time than with ");
    html_escaped(h, k->variants[k->reference].name);
    html_put(h, ".</p>\n");
}

/* ---- Curves -------------------------------------------------------------------------------------- */

/* As many curves as variants. */
static void put_curves(html *h, plot_options o, plot_curve *curves, int n) {
    const plot_curve *all[COMPARE_MOST];
    for (int i = 0; i < n; i++) all[i] = &curves[i];
    plot_put(h, o, n, all);
}

static void name_curves(const compare *k, plot_curve *curves) {
    memset(curves, 0, (size_t)k->variant_count * sizeof *curves);
    for (int v = 0; v < k->variant_count; v++) curves[v].name = k->variants[v].name, curves[v].colour = v;
}

/* The training loss of the first seed at the first learning rate, smoothed. */
static void put_losses(html *h, const compare *k, plot_curve *curves, int64_t length) {
    char        path[4200], title[80];
    plot_curve *raw = malloc(sizeof *raw);
    name_curves(k, curves);
    for (int i = 0; raw && i < k->run_count; i++) {
        const compare_run *r = &k->runs[i];
        history            t = {0};
        if (r->length != length || r->seed != k->runs[0].seed || r->lr != k->rates[0]) continue;
        snprintf(path, sizeof path, "%s/log.jsonl", r->folder);
        if (!qpi_path_exists(path)) continue;
        *raw = (plot_curve){.name = curves[r->variant].name, .colour = r->variant};
        if (history_read(&t, path, k->ctx)) history_curve(&t, HISTORY_LOSS, raw);
        plot_smooth(raw, &curves[r->variant]);
        history_free(&t);
    }
    free(raw);
    snprintf(title, sizeof title, "Training loss over steps, T = %lld", (long long)length);
    put_curves(h, (plot_options){.title = title}, curves, k->variant_count);
}

static void put_tests(html *h, const compare *k, const json_t *all, plot_curve *curves, int64_t length) {
    const char *measure = cli_json_text_in(all, "measure");
    bool        bits = !strcmp(measure, "bits_per_byte");
    char        title[120];
    size_t      i, t;
    json_t     *row, *one;
    name_curves(k, curves);
    json_array_foreach(json_object_get(all, "rows"), i, row) {
        plot_curve *c = &curves[i % (size_t)k->variant_count];
        if ((int64_t)cli_json_number_in(row, "length") != length) continue;
        c->dots = true;
        json_array_foreach(json_object_get(row, "tests"), t, one) {
            double y = cli_json_number_in(one, measure);
            if (!isfinite(y)) continue;
            c->x[c->n] = cli_json_number_in(one, "length");
            c->y[c->n++] = bits ? y : 100 * y;
        }
    }
    snprintf(title, sizeof title, "%s at other lengths, trained at %lld",
             bits ? "Bits per byte" : "Accuracy, %,", (long long)length);
    put_curves(h, (plot_options){.title = title, .log_x = true, .zero = !bits}, curves, k->variant_count);
}

static void put_cost(html *h, const compare *k, plot_curve *curves, const char *key, const char *title,
                     double factor) {
    name_curves(k, curves);
    for (int v = 0; v < k->variant_count; v++) {
        struct compare_points p = compare_costs(k, v, key);
        curves[v].dots = true;
        for (int i = 0; i < p.n; i++) {
            curves[v].x[i] = p.length[i];
            curves[v].y[i] = p.value[i] * factor;
        }
        curves[v].n = p.n;
    }
    put_curves(h, (plot_options){.title = title, .log_x = true, .log_y = true}, curves, k->variant_count);
}

static void put_configs(html *h, const compare *k) {
    qpi_buffer text = {0};
    for (int v = 0; v < k->variant_count; v++) {
        char *config = json_dumps(k->variants[v].config, JSON_COMPACT);
        qpi_put_text(&text, k->variants[v].name);
        qpi_put_text(&text, "\n    ");
        qpi_put_text(&text, config ? config : "");
        qpi_put_text(&text, "\n");
        free(config);
    }
    qpi_buffer_put(&text, "", 1);
    if (!text.failed) html_text(h, "Configs", text.data);
    qpi_buffer_free(&text);
}

bool compare_report(const compare *k, const json_t *all) {
    char        path[4200];
    html        h = {0};
    plot_curve *curves = malloc((size_t)k->variant_count * sizeof *curves);
    if (!curves) return !qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: report");
    html_begin(&h, "quipu: a comparison");
    html_put(&h, "<h1>");
    html_escaped(&h, cli_json_text_in(all, "task"));
    html_putf(&h, "</h1>\n<p>%s; %lld steps. ", k->task.type->part.help, (long long)cli_int(k->c, "steps"));
    html_putf(&h, "Source of the task: %s.</p>\n<h2>Results</h2>\n", k->task.type->part.source);
    put_table(&h, k, all);
    html_put(&h, "<h2>Learning</h2>\n");
    for (int64_t l = 0; l < k->lengths.count; l++) put_losses(&h, k, curves, k->lengths.at[l]);
    for (int64_t l = 0; l < k->lengths.count && k->tests.count; l++)
        put_tests(&h, k, all, curves, k->lengths.at[l]);
    if (json_array_size(k->cost)) {
        html_put(&h, "<h2>What length costs</h2>\n");
        put_cost(&h, k, curves, "seconds", "Milliseconds of a training step for one sequence, by its length",
                 1e3);
        put_cost(&h, k, curves, "forward_seconds",
                 "Milliseconds of the forward pass for one sequence, by its length", 1e3);
        put_cost(&h, k, curves, "mixing_flops", "Million flops of mixing in one sequence, by its length", 1e-6);
        put_cost(&h, k, curves, "projection_flops",
                 "Million flops of products with weights in one sequence, by its length", 1e-6);
    }
    html_machine(&h, k->ctx);
    html_text(&h, "Command", cli_json_text_in(all, "command"));
    put_configs(&h, k);
    free(curves);
    snprintf(path, sizeof path, "%.3000s/report.html", cli_text(k->c, "out"));
    return html_write(&h, path, k->ctx);
}
