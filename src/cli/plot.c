#include "cli/plot.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 760, HEIGHT = 260, LEFT = 64, RIGHT = 24, TOP = 14, BOTTOM = 34, MAX_TICKS = 64, COLOURS = 8 };

/* ---- Points -------------------------------------------------------------------------------------- */

void plot_thin(plot_curve *c, plot_thinning *t, int64_t total, double x, double y) {
    int64_t share = (total + PLOT_POINTS - 1) / PLOT_POINTS;
    t->x += x;
    t->y += y;
    t->seen++;
    if (++t->in_point < share && t->seen < total) return;
    c->x[c->n] = t->x / (double)t->in_point;
    c->y[c->n++] = t->y / (double)t->in_point;
    *t = (plot_thinning){.seen = t->seen};
}

void plot_smooth(const plot_curve *from, plot_curve *to) {
    int reach = from->n / 60;
    *to = *from;
    for (int i = 0; i < from->n; i++) {
        int    near = i < reach ? i : reach, side = from->n - 1 - i < near ? from->n - 1 - i : near;
        double sum = 0;
        for (int k = i - side; k <= i + side; k++) sum += from->y[k];
        to->y[i] = sum / (2 * side + 1);
    }
}

/* ---- Axes ---------------------------------------------------------------------------------------- */

typedef struct {
    bool   log;
    double low, high, step; /* step: between ticks of a linear axis */
    int    count;
    double ticks[MAX_TICKS];
} axis;

/* Where a value is: 0 at the low end, 1 at the high one. */
static double share_of(const axis *a, double v) {
    return a->log ? log(v / a->low) / log(a->high / a->low) : (v - a->low) / (a->high - a->low);
}

/* 1, 2 or 5 times a power of ten, so that about `wanted` of them make the range. */
static double round_step(double range, int wanted) {
    double raw = range / wanted, power = pow(10, floor(log10(raw))), share = raw / power;
    return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

static void tick(axis *a, double v) {
    if (a->count < MAX_TICKS) a->ticks[a->count++] = v;
}

/* With round ends where `round`. */
static void lay_linear(axis *a, int wanted, double least_step, bool round) {
    if (!(a->high > a->low)) a->high = a->low + (round && a->low != 0 ? fabs(a->low) : 1);
    a->step = fmax(least_step, round_step(a->high - a->low, wanted));
    if (round) {
        a->low = floor(a->low / a->step + 1e-9) * a->step;
        a->high = ceil(a->high / a->step - 1e-9) * a->step;
    }
    for (double k = ceil(a->low / a->step - 1e-6);
         k * a->step <= a->high + 1e-6 * a->step && a->count < MAX_TICKS; k++)
        tick(a, k * a->step);
}

/* Lengths: their powers of two. */
static void lay_doublings(axis *a) {
    if (!(a->high > a->low)) a->low /= 2, a->high *= 2;
    double every = ceil(log2(a->high / a->low) / 12);
    for (double k = ceil(log2(a->low) - 1e-9); k <= log2(a->high) + 1e-9 && a->count < MAX_TICKS; k += every)
        tick(a, exp2(k));
}

/* Powers of ten, and 2 and 5 times these where there are few. */
static void lay_decades(axis *a) {
    static const double parts[] = {1, 2, 5};
    double              first = floor(log10(a->low) + 1e-9), last = ceil(log10(a->high) - 1e-9), low = a->low,
                        high = a->high;
    int                 each = last - first <= 3 ? 3 : 1;
    a->low = pow(10, first);
    a->high = pow(10, last > first ? last : first + 1);
    for (double k = first; k <= last; k++)
        for (int i = 0; i < each; i++) {
            double v = parts[i] * pow(10, k);
            if (v <= low * (1 + 1e-9) && v > a->low) a->low = v;
            if (v >= high * (1 - 1e-9) && v < a->high && v > a->low) a->high = v;
        }
    for (double k = first; k <= last; k++)
        for (int i = 0; i < each; i++) {
            double v = parts[i] * pow(10, k);
            if (v >= a->low * (1 - 1e-9) && v <= a->high * (1 + 1e-9)) tick(a, v);
        }
}

static void number_text(double x, double step, char out[32]) {
    int digits = (int)fmax(0, -floor(log10(step) + 1e-9));
    if (step < 1e-4) snprintf(out, 32, "%.3g", x == 0 ? 0 : x);
    else if (x != 0 && step >= 1e6) snprintf(out, 32, "%.4gM", x * 1e-6);
    else if (x != 0 && step >= 1e3) snprintf(out, 32, "%.4gk", x * 1e-3);
    else snprintf(out, 32, "%.*f", digits, x == 0 ? 0 : x);
}

/* ---- The figure ---------------------------------------------------------------------------------- */

typedef struct {
    html *h;
    axis  x, y;
} plot;

static double at_x(const plot *p, double x) { return LEFT + share_of(&p->x, x) * (WIDTH - LEFT - RIGHT); }
static double at_y(const plot *p, double y) {
    return HEIGHT - BOTTOM - share_of(&p->y, y) * (HEIGHT - TOP - BOTTOM);
}

static void put_axes(const plot *p) {
    char text[32];
    for (int i = 0; i < p->y.count; i++) {
        double v = p->y.ticks[i], y = at_y(p, v);
        number_text(v, p->y.log ? v : p->y.step, text);
        html_putf(
            p->h,
            "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"left\">%s</text>\n",
            LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, text);
    }
    for (int i = 0; i < p->x.count; i++) {
        double v = p->x.ticks[i], x = at_x(p, v);
        if (p->x.log) snprintf(text, sizeof text, "%.6g", v);
        else number_text(v, p->x.step, text);
        html_putf(
            p->h,
            "<path class=\"tick\" d=\"M%.1f %dv5\"/><text x=\"%.1f\" y=\"%d\" class=\"below\">%s</text>\n", x,
            HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 19, text);
    }
    html_putf(p->h, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
}

static const char *dash_of(const plot_curve *c) { return c->colour / COLOURS % 2 ? " dashed" : ""; }

static void put_curve(const plot *p, const plot_curve *c) {
    int colour = c->colour % COLOURS;
    if (c->n > 1) {
        html_putf(p->h, "<path class=\"curve c%d%s%s\" d=\"", colour, dash_of(c), c->faint ? " faint" : "");
        for (int i = 0; i < c->n; i++)
            html_putf(p->h, "%c%.1f %.1f", i ? 'L' : 'M', at_x(p, c->x[i]), at_y(p, c->y[i]));
        html_put(p->h, "\"/>\n");
    }
    for (int i = 0; i < c->n && (c->dots || c->n == 1); i++) {
        html_putf(p->h, "<circle class=\"c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>", colour,
                  at_x(p, c->x[i]), at_y(p, c->y[i]));
        if (c->name) html_escaped(p->h, c->name);
        html_putf(p->h, " %.6g: %.4g</title></circle>\n", c->x[i], c->y[i]);
    }
}

static void put_legend(html *h, int n, const plot_curve *const *curves) {
    for (int k = 0; k < n; k++) {
        if (!curves[k]->name || !curves[k]->n) continue;
        html_putf(h, " <span class=\"k\"><i class=\"key c%d%s\"></i>", curves[k]->colour % COLOURS,
                  dash_of(curves[k]));
        html_escaped(h, curves[k]->name);
        html_put(h, "</span>");
    }
}

/* The range of all curves. */
static int range_of(plot *p, plot_options o, int n, const plot_curve *const *c) {
    int points = 0;
    p->x.low = INFINITY, p->x.high = -INFINITY;
    p->y.low = o.zero ? 0 : INFINITY, p->y.high = -INFINITY;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < c[k]->n; i++, points++) {
            p->x.low = fmin(p->x.low, c[k]->x[i]);
            p->x.high = fmax(p->x.high, c[k]->x[i]);
            p->y.low = fmin(p->y.low, c[k]->y[i]);
            p->y.high = fmax(p->y.high, c[k]->y[i]);
        }
    return points;
}

void plot_put(html *h, plot_options o, int n, const plot_curve *const *curves) {
    plot p = {.h = h, .x = {.log = o.log_x}, .y = {.log = o.log_y}};
    if (!range_of(&p, o, n, curves)) return;
    if (o.log_x) lay_doublings(&p.x);
    else lay_linear(&p.x, 8, 1, false);
    if (o.log_y) lay_decades(&p.y);
    else lay_linear(&p.y, 5, 0, true);
    html_put(h, "<figure><figcaption>");
    html_escaped(h, o.title);
    put_legend(h, n, curves);
    html_putf(h, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    html_escaped(h, o.title);
    html_put(h, "\">\n");
    put_axes(&p);
    for (int k = 0; k < n; k++) put_curve(&p, curves[k]);
    html_put(h, "</svg></figure>\n");
}
