#include "cli/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/history.h"
#include "cli/plot.h"
#include "core/core.h"

/* ---- Curves ----------------------------------------------------------------------------------------- */

#define MOST_SAMPLES 8

static void put_losses(html *h, const history *t) {
    plot_curve raw = {.faint = true}, validation = {.name = "validation", .colour = 1}, mean;
    history_curve(t, HISTORY_LOSS, &raw);
    history_curve(t, HISTORY_VALIDATION, &validation);
    plot_smooth(&raw, &mean);
    mean.faint = false;
    mean.name = "training, smoothed, over every step";
    validation.dots = validation.n <= 60;
    plot_put(h, (plot_options){.title = "Loss"}, 3, (const plot_curve *[]){&raw, &mean, &validation});
}

static void put_one(html *h, const history *t, int column, const char *title) {
    plot_curve c = {0};
    history_curve(t, column, &c);
    plot_put(h, (plot_options){.title = title, .zero = true}, 1, (const plot_curve *[]){&c});
}

/* ---- The page ------------------------------------------------------------------------------------------ */

static void put_figures(html *h, const history *t) {
    char   text[32];
    double best = INFINITY, last = NAN;
    for (int64_t i = 0; i < t->count; i++) {
        if (isfinite(t->value[HISTORY_VALIDATION][i])) best = fmin(best, t->value[HISTORY_VALIDATION][i]);
        if (isfinite(t->value[HISTORY_LOSS][i])) last = t->value[HISTORY_LOSS][i];
    }
    html_put(h, "<dl>\n");
    html_figure(h, "Steps", "%.0f", t->count ? t->step[t->count - 1] : 0);
    html_figure(h, "Tokens", t->tokens >= 1e7 ? "%.1f M" : "%.0f",
                t->tokens >= 1e7 ? t->tokens * 1e-6 : t->tokens);
    html_figure(h, "Last loss", "%.4f", last);
    if (isfinite(best)) {
        html_figure(h, "Best validation loss", "%.4f", best);
        html_figure(h, "its perplexity", "%.2f", exp(best));
    }
    html_figure(h, "Time in steps", "%s", cli_duration(t->seconds, text));
    html_figure(h, "Tokens/s", "%.0f", t->seconds > 0 ? t->tokens / t->seconds : 0);
    html_figure(h, "Memory at most", "%s", cli_bytes(t->peak_bytes, text));
    html_put(h, "</dl>\n");
}

/* The first sample and the newest ones. */
static void put_samples(html *h, const json_t *samples) {
    size_t n = json_array_size(samples);
    bool   given = json_string_length(json_object_get(json_array_get(samples, 0), "prompt"));
    if (n) html_put(h, "<h2>What it writes</h2>\n");
    if (given) html_put(h, "<p>It was given the words in bold, the first of the validation data.</p>\n");
    for (size_t i = 0; i < n; i++) {
        const json_t *line = json_array_get(samples, i);
        if (i > 0 && i + MOST_SAMPLES <= n) continue;
        html_putf(h, "<h3>After step %lld</h3><pre><b>",
                  (long long)json_integer_value(json_object_get(line, "step")));
        const char *prompt = json_string_value(json_object_get(line, "prompt")),
                   *text = json_string_value(json_object_get(line, "text"));
        html_escaped(h, prompt ? prompt : "");
        html_put(h, "</b>");
        html_escaped(h, text ? text : "");
        html_put(h, "</pre>\n");
    }
}

static void put_page(html *h, qp_model *m, const history *t, const char *command, const json_t *samples) {
    qp_model_info info = qp_model_info_of(m);
    html_begin(h, "quipu: a training");
    html_put(h, "<h1>");
    html_escaped(h, info.model_type);
    html_putf(h, ", %.4g %s parameters</h1>\n<p>%lld layers, width %lld, vocabulary %lld: ",
              (double)info.parameters * (info.parameters >= 1000000 ? 1e-6 : 1e-3),
              info.parameters >= 1000000 ? "million" : "thousand", (long long)info.layers,
              (long long)info.width, (long long)info.vocabulary);
    html_escaped(h, info.position);
    html_put(h, ", ");
    html_escaped(h, info.mixer);
    html_put(h, ", ");
    html_escaped(h, info.ffn);
    html_put(h, "</p>\n");
    put_figures(h, t);
    put_losses(h, t);
    put_one(h, t, HISTORY_RATE, "Learning rate");
    put_one(h, t, HISTORY_NORM, "Norm of the gradient, before clipping");
    put_one(h, t, HISTORY_SPEED, "Tokens per second");
    put_samples(h, samples);
    html_machine(h, qp_model_ctx(m));
    html_text(h, "Command", command ? command : "");
    html_text(h, "Config", qp_model_config(m));
}

bool report_write(qp_model *m, const cli *c, const json_t *samples) {
    qp_ctx     *ctx = qp_model_ctx(m);
    const char *out = cli_text(c, "out");
    char        path[4096], *command = cli_command(c);
    history     t = {0};
    html        h = {.failed = !command};
    if (snprintf(path, sizeof path, "%s/log.jsonl", out) >= (int)sizeof path)
        qp_fail(ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", out);
    else if (history_read(&t, path, ctx)) {
        put_page(&h, m, &t, command, samples);
        snprintf(path, sizeof path, "%s/report.html", out);
        html_write(&h, path, ctx);
    }
    free(command);
    history_free(&t);
    return !qp_failed(ctx);
}
