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

const qp_option *qpi_settings_option(const qp_settings *s, const char *name) {
    int i = index_of(s, name);
    return i < 0 ? NULL : &s->part->options[i];
}

/* Lists the options there are, for messages; as many as there is room for. */
static void known(const qp_settings *s, char *out, size_t size) {
    const qp_option *o = s->part->options;
    size_t           used = 0;
    out[0] = 0;
    for (int i = 0; o && o[i].name && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", o[i].name);
}

qp_status qpi_settings_refuse(qp_ctx *ctx, const qp_settings *s, const char *where, const char *name,
                              const char *found) {
    const qp_option *o = qpi_settings_option(s, name);
    char             text[240];
    if (!o) {
        known(s, text, sizeof text);
        return qp_fail(ctx, QP_ERR_ARGUMENT, "%s: %s has no option %s (it has: %s)", where, s->part->name, name,
                       text);
    }
    if (o->kind == QP_OPTION_BOOL) strcpy(text, "true or false");
    else if (o->kind == QP_OPTION_CHOICE) snprintf(text, sizeof text, "one of %s", o->choices);
    else
        snprintf(text, sizeof text, "a %snumber from %.15g to %.15g", o->kind == QP_OPTION_INT ? "whole " : "",
                 o->low, o->high);
    return qp_fail(ctx, o->kind == QP_OPTION_CHOICE ? QP_ERR_UNSUPPORTED : QP_ERR_ARGUMENT,
                   "%s: %s of %s is %s, expected %s", where, name, s->part->name, found, text);
}

qp_status qpi_settings_set(qp_ctx *ctx, qp_settings *s, const char *where, const char *name, double value) {
    const qp_option *o = qpi_settings_option(s, name);
    char             found[32];
    snprintf(found, sizeof found, "%.15g", value);
    if (!o || !(o->kind == QP_OPTION_NUMBER || value == floor(value)) || !(value >= o->low && value <= o->high))
        return qpi_settings_refuse(ctx, s, where, name, found);
    s->values[o - s->part->options] = value;
    s->given[o - s->part->options] = true;
    return QP_OK;
}

qp_status qpi_settings_choose(qp_ctx *ctx, qp_settings *s, const char *where, const char *name,
                              const char *text) {
    const qp_option *o = qpi_settings_option(s, name);
    size_t           n = strlen(text);
    int              index = 0;
    char             found[64];
    for (const char *p = o ? o->choices : NULL; p; index++) {
        const char *end = strchr(p, '|');
        size_t      length = end ? (size_t)(end - p) : strlen(p);
        if (length == n && !memcmp(p, text, n)) return qpi_settings_set(ctx, s, where, name, index);
        p = end ? end + 1 : NULL;
    }
    snprintf(found, sizeof found, "\"%.60s\"", text);
    return qpi_settings_refuse(ctx, s, where, name, found);
}

double qp_setting(const qp_build *b, const char *name) {
    int i = index_of(b->settings, name);
    if (i >= 0) return b->settings->values[i];
    qp_fail(b->ctx, QP_ERR_ARGUMENT, "%s asks for an option %s that its table lacks", b->settings->part->name,
            name);
    return 0;
}

int64_t qp_setting_int(const qp_build *b, const char *name) { return (int64_t)qp_setting(b, name); }
