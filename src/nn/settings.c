#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "nn/part.h"

void qpi_settings_init(qp_settings *s, const qp_part *part) {
    *s = (qp_settings){.part = part};
    for (int i = 0; part->options && part->options[i].name; i++) /* at most QPI_MAX_SETTINGS: registry.c */
        s->values[i] = part->options[i].fallback;
}

static int index_of(const qp_settings *s, const char *name) {
    const qp_option *o = s->part->options;
    for (int i = 0; o && o[i].name; i++)
        if (!strcmp(o[i].name, name)) return i;
    return -1;
}

bool qpi_settings_has(const qp_settings *s, const char *name) { return index_of(s, name) >= 0; }

/* Lists the options there are, for messages; as many as there is room for. */
static void known(const qp_settings *s, char *out, size_t size) {
    const qp_option *o = s->part->options;
    size_t           used = 0;
    out[0] = 0;
    for (int i = 0; o && o[i].name && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", o[i].name);
}

qp_status qpi_settings_set(qp_ctx *ctx, qp_settings *s, const char *where, const char *name, double value) {
    int i = index_of(s, name);
    if (i < 0) {
        char text[240];
        known(s, text, sizeof text);
        return qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %s has no option %s (it has: %s)", where, s->part->name, name,
                       text);
    }
    const qp_option *o = &s->part->options[i];
    bool             whole = o->kind == QP_OPTION_NUMBER || value == floor(value);
    if (!whole || !(value >= o->low && value <= o->high))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %s of %s is %g, expected %s from %g to %g", where, name,
                       s->part->name, value, o->kind == QP_OPTION_NUMBER ? "a number" : "a whole number",
                       o->low, o->high);
    s->values[i] = value;
    s->given[i] = true;
    return QP_OK;
}

qp_status qpi_settings_choose(qp_ctx *ctx, qp_settings *s, const char *where, const char *name,
                              const char *text) {
    int i = index_of(s, name);
    if (i < 0) return qpi_settings_set(ctx, s, where, name, 0);
    if (s->part->options[i].kind != QP_OPTION_CHOICE)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %s of %s is \"%s\", expected a number", where, name,
                       s->part->name, text);
    const char *choices = s->part->options[i].choices;
    size_t      n = strlen(text);
    int         index = 0;
    for (const char *p = choices; p; index++) {
        const char *end = strchr(p, '|');
        size_t      length = end ? (size_t)(end - p) : strlen(p);
        if (length == n && !memcmp(p, text, n)) {
            s->values[i] = index;
            s->given[i] = true;
            return QP_OK;
        }
        p = end ? end + 1 : NULL;
    }
    return qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: %s of %s is \"%s\", expected one of %s", where, name,
                   s->part->name, text, choices);
}

double qp_setting(const qp_build *b, const char *name) {
    int i = index_of(b->settings, name);
    if (i >= 0) return b->settings->values[i];
    qp_fail(b->ctx, QP_ERR_ARGUMENT, "%s asks for an option %s that its table lacks", b->settings->part->name,
            name);
    return 0;
}

int64_t qp_setting_int(const qp_build *b, const char *name) { return (int64_t)qp_setting(b, name); }
