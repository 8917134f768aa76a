/* Curves as SVG within a page. */
#ifndef QUIPU_CLI_PLOT_H
#define QUIPU_CLI_PLOT_H

#include "cli/html.h"

#define PLOT_POINTS 600 /* of a curve at most */

typedef struct {
    const char *name;   /* in the legend; NULL: not there */
    int         colour; /* from 0; what has the same colour belongs together */
    bool        dots, faint;
    int         n;
    double      x[PLOT_POINTS], y[PLOT_POINTS];
} plot_curve;

typedef struct {
    const char *title;
    bool        log_x, log_y; /* then values are above 0 */
    bool        zero;         /* a linear y begins at 0 */
} plot_options;

/* A figure with all curves on the same axes; nothing where no curve has a point. */
void plot_put(html *h, plot_options o, int n, const plot_curve *const *curves);

/* Means over about a thirtieth of the points around each. */
void plot_smooth(const plot_curve *from, plot_curve *to);

/* Adds a value of a row of `total`: neighbours share a point, their mean, where there are more than
 * PLOT_POINTS. Start with {0}, and with a curve of no points. */
typedef struct {
    int64_t seen, in_point;
    double  x, y;
} plot_thinning;
void plot_thin(plot_curve *c, plot_thinning *t, int64_t total, double x, double y);

#endif
