#include "parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

json_t *parts_base(void) {
    return json_loads(
        "{\"model_type\": \"quipu\", \"vocab_size\": 7, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
        " \"max_position_embeddings\": 8, \"tie_word_embeddings\": false, \"initializer_range\": 0.4,"
        " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2},"
        " \"ffn\": {\"type\": \"swiglu\", \"width\": 5}, \"norm\": {\"type\": \"rms_norm\"}}",
        0, NULL);
}

/* The options that the base config gives, or none may do without; as many heads as the width of 8 has room
 * for; mixers of sizes that fit 6 positions; narrow feed-forwards, since each parameter is moved by itself. */
static json_t *start_of(const char *role, const qp_part *of) {
    json_t     *base = parts_base(), *part = json_object_get(base, role);
    const char *type = json_string_value(json_object_get(part, "type"));
    json_t     *start = type && !strcmp(type, of->name) ? json_incref(part) : json_object();
    json_object_set_new(start, "type", json_string(of->name));
    for (const qp_option *o = of->options; o && o->name; o++)
        if (!strcmp(role, "ffn") && !strcmp(o->name, "width"))
            json_object_set_new(start, "width", json_integer(5));
        else if (!strcmp(o->name, "states")) json_object_set_new(start, "states", json_integer(3));
        else if (!strcmp(o->name, "heads"))
            json_object_set_new(start, "heads", json_integer((int)fmin(2, o->high)));
        else if (!strcmp(role, "mixer") && o->kind == QP_OPTION_INT && o->fallback > 16)
            json_object_set_new(start, o->name, json_integer(4));
    json_decref(base);
    return start;
}

static void visit_with(const char *role, json_t *part, const char *what,
                       void (*visit)(json_t *config, const char *what)) {
    json_t *config = parts_base();
    if (strcmp(role, "outputs")) json_object_set(config, role, part);
    else json_object_set_new(config, role, json_pack("{s:O}", "extra", part));
    visit(config, what);
    json_decref(config);
}

/* What a number is to be instead of its fallback: 2 where that is in its range. */
static double other_number(const qp_option *o) { return fmin(fmax(2, o->low), o->high); }

void parts_walk_one(const char *role, const qp_part *part, void (*visit)(json_t *config, const char *what)) {
    char    what[200];
    json_t *start = start_of(role, part);
    visit_with(role, start, part->name, visit);
    for (const qp_option *o = part->options; o && o->name; o++) {
        bool few = o->kind == QP_OPTION_CHOICE || o->kind == QP_OPTION_BOOL;
        int  first = few ? 0 : (int)other_number(o), last = few ? (int)o->high : first;
        for (int value = first; value <= last; value++) {
            if (value == o->fallback) continue;
            json_t *changed = json_copy(start);
            json_object_set_new(changed, o->name,
                                o->kind == QP_OPTION_NUMBER ? json_real(other_number(o)) : json_integer(value));
            if (o->kind == QP_OPTION_CHOICE) json_object_set_new(changed, "factor", json_integer(2));
            if (strcmp(part->name, "rope")) json_object_del(changed, "factor");
            if (o->kind == QP_OPTION_BOOL && !strcmp(o->name, "causal"))
                json_object_set_new(changed, o->name, json_false());
            snprintf(what, sizeof what, "%s with %s %d", part->name, o->name, value);
            visit_with(role, changed, what, visit);
            json_decref(changed);
        }
    }
    json_decref(start);
}

void parts_walk(qp_part_kind kind, const char *role, void (*visit)(json_t *config, const char *what)) {
    const qp_part *part;
    for (int i = 0; (part = qp_part_at(NULL, kind, i)); i++) parts_walk_one(role, part, visit);
}
