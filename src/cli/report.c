#include "cli/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"

/* ---- Text ----------------------------------------------------------------------------------------- */

typedef qpi_buffer html;

static void put(html *h, const char *text) { qpi_put_text(h, text); }

static void putf(html *h, const char *format, ...) QP_PRINTF(2, 3);
static void putf(html *h, const char *format, ...) {
    char    text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(h, text);
}

/* As text, whatever it holds. */
static void put_escaped(html *h, const char *text) {
    for (; *text; text++) {
        char one[2] = {*text, 0};
        switch (*text) {
        case '&': put(h, "&amp;"); break;
        case '<': put(h, "&lt;"); break;
        case '>': put(h, "&gt;"); break;
        case '"': put(h, "&quot;"); break;
        case '\'': put(h, "&#39;"); break;
        case '\r': break;
        default: put(h, (unsigned char)*text < 32 && !strchr("\n\t", *text) ? "&#xFFFD;" : one);
        }
    }
}

/* ---- The log -------------------------------------------------------------------------------------- */

enum { LOSS, VALIDATION, RATE, NORM, SPEED, COLUMNS };
static const char *const keys[COLUMNS] = {"loss", "validation_loss", "lr", "grad_norm", "tokens_per_second"};

typedef struct {
    int64_t count, capacity;
    double *step, *value[COLUMNS]; /* NaN where a line says nothing */
    double  tokens, seconds, peak_bytes;
} history;

static bool history_grow(history *t) {
    int64_t capacity = t->capacity ? 2 * t->capacity : 1024;
    for (int c = -1; c < COLUMNS; c++) {
        double **at = c < 0 ? &t->step : &t->value[c], *p = realloc(*at, (size_t)capacity * sizeof *p);
        if (!p) return false;
        *at = p;
    }
    t->capacity = capacity;
    return true;
}

static bool history_add(history *t, const json_t *line) {
    if (t->count == t->capacity && !history_grow(t)) return false;
    t->step[t->count] = json_number_value(json_object_get(line, "step"));
    for (int c = 0; c < COLUMNS; c++) {
        const json_t *x = json_object_get(line, keys[c]);
        t->value[c][t->count] = json_is_number(x) ? json_number_value(x) : NAN;
    }
    t->tokens += json_number_value(json_object_get(line, "tokens"));
    t->seconds += json_number_value(json_object_get(line, "seconds"));
    t->peak_bytes = fmax(t->peak_bytes, json_number_value(json_object_get(line, "peak_bytes")));
    t->count++;
    return true;
}

static void history_free(history *t) {
    free(t->step);
    for (int c = 0; c < COLUMNS; c++) free(t->value[c]);
}

static bool history_read(history *t, const char *path, qp_ctx *ctx) {
    char  line[2048];
    FILE *file = fopen(path, "r");
    bool  ok = true;
    if (!file) return qpi_fail_os(&ctx->error, path, "open"), false;
    while (ok && fgets(line, sizeof line, file)) {
        json_t *value = qpi_json_parse(path, line, strlen(line), NULL);
        if (value) ok = history_add(t, value);
        json_decref(value);
    }
    fclose(file);
    if (!ok) qpi_fail_memory(&ctx->error, path);
    return ok;
}

/* ---- Curves ----------------------------------------------------------------------------------------- */

#define MOST_POINTS 600
#define MOST_SAMPLES 8
enum { WIDTH = 760, HEIGHT = 260, LEFT = 64, RIGHT = 24, TOP = 14, BOTTOM = 34 };

typedef struct {
    int    n;
    double x[MOST_POINTS], y[MOST_POINTS];
} curve;

/* Neighbours share a point, their mean, where there are more than MOST_POINTS. */
static curve thin(const history *t, int column) {
    curve   c = {0};
    int64_t have = 0, share, in_point = 0;
    double  x = 0, y = 0;
    for (int64_t i = 0; i < t->count; i++) have += isfinite(t->value[column][i]);
    share = (have + MOST_POINTS - 1) / MOST_POINTS;
    for (int64_t i = 0; i < t->count; i++) {
        if (!isfinite(t->value[column][i])) continue;
        x += t->step[i];
        y += t->value[column][i];
        have--;
        if (++in_point < share && have > 0) continue;
        c.x[c.n] = x / (double)in_point;
        c.y[c.n++] = y / (double)in_point;
        x = y = 0;
        in_point = 0;
    }
    return c;
}

/* Means over about a thirtieth of the points around each. */
static curve smooth(const curve *from) {
    curve c = *from;
    int   reach = c.n / 60;
    for (int i = 0; i < c.n; i++) {
        int    near = i < reach ? i : reach, side = c.n - 1 - i < near ? c.n - 1 - i : near;
        double sum = 0;
        for (int k = i - side; k <= i + side; k++) sum += from->y[k];
        c.y[i] = sum / (2 * side + 1);
    }
    return c;
}

/* 1, 2 or 5 times a power of ten, so that about `wanted` of them make the range. */
static double round_step(double range, int wanted) {
    double raw = range / wanted, power = pow(10, floor(log10(raw))), share = raw / power;
    return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

typedef struct {
    html  *h;
    double x0, x1, y0, y1, step_x, step_y;
} plot;

static double at_x(const plot *p, double x) {
    return LEFT + (x - p->x0) / (p->x1 - p->x0) * (WIDTH - LEFT - RIGHT);
}
static double at_y(const plot *p, double y) {
    return HEIGHT - BOTTOM - (y - p->y0) / (p->y1 - p->y0) * (HEIGHT - TOP - BOTTOM);
}

static void number_text(double x, double step, char out[32]) {
    int digits = (int)fmax(0, -floor(log10(step) + 1e-9));
    if (x != 0 && step < 1e-4)
        snprintf(out, 32, "%.3g", x);
    else if (x != 0 && step >= 1e6)
        snprintf(out, 32, "%.4gM", x * 1e-6);
    else if (x != 0 && step >= 1e3)
        snprintf(out, 32, "%.4gk", x * 1e-3);
    else
        snprintf(out, 32, "%.*f", digits, x == 0 ? 0 : x);
}

static void put_axes(const plot *p) {
    char text[32];
    for (double k = ceil(p->y0 / p->step_y - 1e-6); k * p->step_y <= p->y1 + 1e-6 * p->step_y; k++) {
        double y = at_y(p, k * p->step_y);
        number_text(k * p->step_y, p->step_y, text);
        putf(p->h,
             "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"left\">%s</text>\n",
             LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, text);
    }
    for (double k = ceil(p->x0 / p->step_x - 1e-6); k * p->step_x <= p->x1 + 1e-6 * p->step_x; k++) {
        double x = at_x(p, k * p->step_x);
        number_text(k * p->step_x, p->step_x, text);
        putf(p->h,
             "<path class=\"tick\" d=\"M%.1f %dv5\"/><text x=\"%.1f\" y=\"%d\" class=\"below\">%s</text>\n", x,
             HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 19, text);
    }
    putf(p->h, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
}

static void put_curve(const plot *p, const curve *c, const char *class, bool dots) {
    if (c->n > 1) {
        putf(p->h, "<path class=\"%s\" d=\"", class);
        for (int i = 0; i < c->n; i++)
            putf(p->h, "%c%.1f %.1f", i ? 'L' : 'M', at_x(p, c->x[i]), at_y(p, c->y[i]));
        put(p->h, "\"/>\n");
    }
    for (int i = 0; i < c->n && (dots || c->n == 1); i++)
        putf(p->h,
             "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>step %.0f: %.4g</title></circle>\n",
             class, at_x(p, c->x[i]), at_y(p, c->y[i]), c->x[i], c->y[i]);
}

/* The range of all curves, from 0 where `zero`, with round ends. */
static plot make_plot(html *h, int n, const curve *const *c, bool zero) {
    plot p = {h, INFINITY, -INFINITY, zero ? 0 : INFINITY, -INFINITY, 1, 1};
    for (int k = 0; k < n; k++)
        for (int i = 0; i < c[k]->n; i++) {
            p.x0 = fmin(p.x0, c[k]->x[i]);
            p.x1 = fmax(p.x1, c[k]->x[i]);
            p.y0 = fmin(p.y0, c[k]->y[i]);
            p.y1 = fmax(p.y1, c[k]->y[i]);
        }
    if (!(p.x1 > p.x0)) p.x1 = p.x0 + 1;
    if (!(p.y1 > p.y0)) p.y1 = p.y0 + (p.y0 != 0 ? fabs(p.y0) : 1);
    p.step_x = fmax(1, round_step(p.x1 - p.x0, 8));
    p.step_y = round_step(p.y1 - p.y0, 5);
    p.y0 = floor(p.y0 / p.step_y + 1e-9) * p.step_y;
    p.y1 = ceil(p.y1 / p.step_y - 1e-9) * p.step_y;
    return p;
}

static void begin_figure(html *h, const char *title, const char *legend) {
    putf(h,
         "<figure><figcaption>%s%s</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n",
         title, legend, WIDTH, HEIGHT, title);
}

static void put_losses(html *h, const history *t) {
    curve        raw = thin(t, LOSS), mean = smooth(&raw), validation = thin(t, VALIDATION);
    const curve *all[] = {&raw, &validation};
    plot         p = make_plot(h, 2, all, false);
    begin_figure(h, "Loss",
                 " <i class=\"key first\"></i> training, smoothed, over every step <i class=\"key "
                 "second\"></i> validation");
    put_axes(&p);
    put_curve(&p, &raw, "first faint", false);
    put_curve(&p, &mean, "first", false);
    put_curve(&p, &validation, "second", validation.n <= 60);
    put(h, "</svg></figure>\n");
}

static void put_one(html *h, const history *t, int column, const char *title) {
    curve        c = thin(t, column);
    const curve *all[] = {&c};
    if (!c.n) return;
    plot p = make_plot(h, 1, all, true);
    begin_figure(h, title, "");
    put_axes(&p);
    put_curve(&p, &c, "first", false);
    put(h, "</svg></figure>\n");
}

/* ---- The page ------------------------------------------------------------------------------------------ */

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<title>quipu: a training</title>\n<style>\n"
    ":root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #22211f; --soft: #6d6a65; "
    "--line: #e4e1dc;\n"
    "  --first: #2f6db3; --second: #c2571a; }\n"
    "@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --card: #1f2124; --ink: #e8e6e3; --soft: "
    "#9c9a96;\n"
    "  --line: #34373b; --first: #74a9e6; --second: #ee9a5f; } }\n"
    "body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 56rem; background: var(--paper); color: "
    "var(--ink);\n"
    "  font: 16px/1.5 system-ui, sans-serif; }\n"
    "h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }\n"
    "h3 { font-size: .9rem; font-weight: normal; color: var(--soft); margin: 1rem 0 .3rem; }\n"
    "p { color: var(--soft); margin: 0; }\n"
    "dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: "
    "1.4rem 0; }\n"
    "dl div, figure, pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }\n"
    "dl div { padding: .6rem .8rem; } dt { color: var(--soft); font-size: .8rem; }\n"
    "dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }\n"
    "figure { margin: 0 0 1rem; padding: .8rem; } figcaption { font-weight: 600; font-size: .95rem; }\n"
    ".key { display: inline-block; width: 1.2em; height: 3px; margin: 0 .2em .25em 1em; }\n"
    ".key.first { background: var(--first); } .key.second { background: var(--second); }\n"
    "svg { display: block; width: 100%; height: auto; margin-top: .4rem; }\n"
    "svg path { fill: none; stroke-linejoin: round; } svg text { fill: var(--soft); font-size: 12px; }\n"
    ".grid { stroke: var(--line); } .axis, .tick { stroke: var(--soft); }\n"
    ".left { text-anchor: end; } .below { text-anchor: middle; }\n"
    "path.first { stroke: var(--first); stroke-width: 2; } path.second { stroke: var(--second); stroke-width: "
    "2; }\n"
    "path.faint { stroke-width: 1; opacity: .35; } circle.first { fill: var(--first); } circle.second { fill: "
    "var(--second); }\n"
    "pre { padding: .8rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; "
    "}\n"
    "</style></head><body>\n";

static void put_figure(html *h, const char *name, const char *format, ...) QP_PRINTF(3, 4);
static void put_figure(html *h, const char *name, const char *format, ...) {
    char    text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    putf(h, "<div><dt>%s</dt><dd>%s</dd></div>\n", name, text);
}

static void put_figures(html *h, const history *t) {
    char   text[32];
    double best = INFINITY, last = NAN;
    for (int64_t i = 0; i < t->count; i++) {
        if (isfinite(t->value[VALIDATION][i])) best = fmin(best, t->value[VALIDATION][i]);
        if (isfinite(t->value[LOSS][i])) last = t->value[LOSS][i];
    }
    put(h, "<dl>\n");
    put_figure(h, "Steps", "%.0f", t->count ? t->step[t->count - 1] : 0);
    put_figure(h, "Tokens", t->tokens >= 1e7 ? "%.1f M" : "%.0f",
               t->tokens >= 1e7 ? t->tokens * 1e-6 : t->tokens);
    put_figure(h, "Last loss", "%.4f", last);
    if (isfinite(best)) {
        put_figure(h, "Best validation loss", "%.4f", best);
        put_figure(h, "its perplexity", "%.2f", exp(best));
    }
    put_figure(h, "Time in steps", "%s", cli_duration(t->seconds, text));
    put_figure(h, "Tokens/s", "%.0f", t->seconds > 0 ? t->tokens / t->seconds : 0);
    put_figure(h, "Memory at most", "%s", cli_bytes(t->peak_bytes, text));
    put(h, "</dl>\n");
}

/* What the system calls its processor. */
static void put_machine(html *h, qp_ctx *ctx) {
    static const char *const isas[] = {[QP_ISA_BEST] = "best",
                                       [QP_ISA_BASE] = "baseline",
                                       [QP_ISA_AVX2] = "AVX2",
                                       [QP_ISA_AVX512] = "AVX-512"};
    char                     line[256];
    qp_stats                 s = qp_stats_of(ctx);
    FILE                    *file = fopen("/proc/cpuinfo", "r");
    bool                     found = false;
    put(h, "<h2>Machine</h2>\n<pre>");
    while (file && !found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        put_escaped(h, colon + 1 + strspn(colon + 1, " "));
        found = true;
    }
    if (file) fclose(file);
    putf(h, "%d threads, %s\nquipu %s</pre>\n", s.threads, isas[s.isa], qp_version());
}

/* The first sample and the newest ones. */
static void put_samples(html *h, const json_t *samples) {
    size_t n = json_array_size(samples);
    bool   given = json_string_length(json_object_get(json_array_get(samples, 0), "prompt"));
    if (n) put(h, "<h2>What it writes</h2>\n");
    if (given) put(h, "<p>It was given the words in bold, the first of the validation data.</p>\n");
    for (size_t i = 0; i < n; i++) {
        const json_t *line = json_array_get(samples, i);
        if (i > 0 && i + MOST_SAMPLES <= n) continue;
        putf(h, "<h3>After step %lld</h3><pre><b>", (long long)json_integer_value(json_object_get(line, "step")));
        const char *prompt = json_string_value(json_object_get(line, "prompt")),
                   *text = json_string_value(json_object_get(line, "text"));
        put_escaped(h, prompt ? prompt : "");
        put(h, "</b>");
        put_escaped(h, text ? text : "");
        put(h, "</pre>\n");
    }
}

static void put_text(html *h, const char *title, const char *text) {
    putf(h, "<h2>%s</h2>\n<pre>", title);
    put_escaped(h, text);
    put(h, "</pre>\n");
}

static void put_page(html *h, qp_model *m, const history *t, const char *command, const json_t *samples) {
    qp_model_info info = qp_model_info_of(m);
    put(h, head);
    put(h, "<h1>");
    put_escaped(h, info.model_type);
    putf(h, ", %.4g %s parameters</h1>\n<p>%lld layers, width %lld, vocabulary %lld: ",
         (double)info.parameters * (info.parameters >= 1000000 ? 1e-6 : 1e-3),
         info.parameters >= 1000000 ? "million" : "thousand", (long long)info.layers, (long long)info.width,
         (long long)info.vocabulary);
    put_escaped(h, info.position);
    put(h, ", ");
    put_escaped(h, info.mixer);
    put(h, ", ");
    put_escaped(h, info.ffn);
    put(h, "</p>\n");
    put_figures(h, t);
    put_losses(h, t);
    put_one(h, t, RATE, "Learning rate");
    put_one(h, t, NORM, "Norm of the gradient, before clipping");
    put_one(h, t, SPEED, "Tokens per second");
    put_samples(h, samples);
    put_machine(h, qp_model_ctx(m));
    put_text(h, "Command", command ? command : "");
    put_text(h, "Config", qp_model_config(m));
    put(h, "</body></html>\n");
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
        if (h.failed)
            qpi_fail_memory(&ctx->error, path);
        else
            qpi_write_file(path, h.data, h.count, &ctx->error);
    }
    free(command);
    history_free(&t);
    qpi_buffer_free(&h);
    return !qp_failed(ctx);
}
