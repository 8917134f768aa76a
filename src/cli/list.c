/* quipu list: the registries. Everything is gathered as JSON, which --json prints as it is. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/task.h"
#include "models/model.h"

static json_t *item(const char *name, const char *source, const char *help) {
    json_t *o = json_pack("{s:s}", "name", name);
    if (o && help) json_object_set_new(o, "help", json_string(help));
    if (o && source) json_object_set_new(o, "source", json_string(source));
    return o;
}

/* ---- What there is ---------------------------------------------------------------------------- */

static json_t *ops(void) {
    json_t      *all = json_array();
    const qp_op *op;
    for (int i = 0; (op = qp_op_at(i)); i++) {
        json_t *o = item(op->name, op->source, NULL);
        if (o)
            json_object_update_new(o, json_pack("{s:i, s:i, s:i, s:b, s:b}", "min_inputs", op->min_in,
                                                "max_inputs", op->max_in, "outputs", op->nout, "gradient",
                                                op->backward || op->view, "kernel",
                                                qpi_kernel_for(op, QP_ISA_BASE) != NULL));
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *choices_of(const qp_option *o) {
    json_t *all = json_array();
    for (const char *p = o->choices; p && *p;) {
        size_t n = strcspn(p, "|");
        json_array_append_new(all, json_stringn(p, n));
        p += n + (p[n] == '|');
    }
    return all;
}

static json_t *number(double x, qp_option_kind kind) {
    return kind == QP_OPTION_INT ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *options_of(const qp_part *part) {
    static const char *const kinds[] = {"int", "number", "bool", "choice"};
    json_t                  *all = json_array();
    for (const qp_option *o = part->options; o && o->name; o++) {
        json_t *one = json_pack("{s:s, s:s, s:s}", "name", o->name, "kind", kinds[o->kind], "help", o->help);
        if (o->kind == QP_OPTION_CHOICE) {
            json_t *choices = choices_of(o);
            json_object_set(one, "default", json_array_get(choices, (size_t)o->fallback));
            json_object_set_new(one, "choices", choices);
        } else if (o->kind == QP_OPTION_BOOL) {
            json_object_set_new(one, "default", json_boolean(o->fallback != 0));
        } else {
            json_object_set_new(one, "default", number(o->fallback, o->kind));
            json_object_set_new(one, "low", number(o->low, o->kind));
            json_object_set_new(one, "high", number(o->high, o->kind));
        }
        json_array_append_new(all, one);
    }
    return all;
}

static json_t *part_item(const qp_part *part, bool options) {
    json_t *o = item(part->name, part->source, part->help);
    if (o && options) json_object_set_new(o, "options", options_of(part));
    return o;
}

/* Descriptors begin with the part. */
static json_t *parts(qp_part_kind kind) {
    json_t        *all = json_array();
    const qp_part *part;
    for (int i = 0; (part = qp_part_at(NULL, kind, i)); i++)
        json_array_append_new(all, part_item(part, kind != QP_PART_INIT));
    return all;
}

#define X(kind, folder, type) \
    static json_t *parts_##kind(void) { return parts(QP_PART_##kind); }
QP_PART_KINDS(X)
#undef X

static json_t *presets(void) {
    json_t *all = json_array();
    for (int i = 0; qpi_presets[i]; i++) {
        json_t *o = item(qpi_presets[i]->name, qpi_presets[i]->source, NULL);
        if (o)
            json_object_set_new(
                o, "config",
                qpi_json_parse("preset", qpi_presets[i]->defaults, strlen(qpi_presets[i]->defaults), NULL));
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *verbs(void) {
    json_t *all = json_array();
    for (int i = 0; cli_verbs[i]; i++)
        json_array_append_new(all, item(cli_verbs[i]->name, NULL, cli_verbs[i]->summary));
    return all;
}

static json_t *schedules(void) {
    static const char *const names[] = {
#define X(name, text) text,
        QP_SCHEDULES(X)
#undef X
    };
    static const char *const texts[][2] = {
        {"warm-up, then one rate", NULL},
        {"falls in a straight line to lr * floor", NULL},
        {"half a cosine to lr * floor", "arXiv:1608.03983"},
        {"warm-up, stable, then a linear fall over the last steps", "arXiv:2404.06395"}};
    json_t *all = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        json_array_append_new(all, item(names[i], texts[i][1], texts[i][0]));
    return all;
}

static json_t *tokenizers(void) {
    json_t *all = json_array();
    json_array_append_new(all, item("byte", NULL, "ids 0..255 are the bytes, 256 ends a text"));
    json_array_append_new(
        all, item("bpe", "arXiv:1508.07909", "byte-level pair merges from a tokenizer.json; trainable"));
    return all;
}

static json_t *tasks(void) {
    json_t *all = json_array();
    for (int i = 0; cli_tasks[i]; i++) json_array_append_new(all, part_item(&cli_tasks[i]->part, true));
    return all;
}

static const struct {
    const char *name;
    bool        part;
    json_t *(*gather)(void);
} sections[] = {{"verbs", false, verbs},
                {"presets", false, presets},
#define X(kind, folder, type) {folder, true, parts_##kind},
                QP_PART_KINDS(X)
#undef X
                    {"schedules", false, schedules},
                {"tokenizers", false, tokenizers},
                {"tasks", false, tasks},
                {"ops", false, ops}};

/* ---- As text ------------------------------------------------------------------------------------- */

static void print_value(const json_t *value) {
    if (json_is_string(value)) printf("%s", json_string_value(value));
    else if (json_is_boolean(value)) printf("%s", json_is_true(value) ? "true" : "false");
    else printf("%g", json_number_value(value));
}

static void print_option(const json_t *o) {
    const json_t *choices = json_object_get(o, "choices"), *low = json_object_get(o, "low");
    printf("      %-20s %s", cli_json_text_in(o, "name"), cli_json_text_in(o, "help"));
    for (size_t i = 0; i < json_array_size(choices); i++)
        printf("%s%s", i ? "|" : ": ", json_string_value(json_array_get(choices, i)));
    if (low) printf(", %g..%g", json_number_value(low), json_number_value(json_object_get(o, "high")));
    printf(" [");
    print_value(json_object_get(o, "default"));
    printf("]\n");
}

static void print_item(const json_t *o, bool with_options) {
    const char *help = cli_json_text_in(o, "help"), *source = cli_json_text_in(o, "source");
    size_t      i;
    json_t     *option;
    printf("  %-20s %s", cli_json_text_in(o, "name"), help);
    if (*source) printf(*help ? " (%s)" : "%s", source);
    if (json_object_get(o, "gradient") && !json_is_true(json_object_get(o, "gradient")))
        printf(", no gradient");
    printf("\n");
    if (!with_options) return;
    json_array_foreach(json_object_get(o, "options"), i, option) print_option(option);
}

static int no_section(const cli *c, const char *wanted) {
    char   names[400] = "parts";
    size_t n = strlen(names);
    for (size_t i = 0; i < sizeof sections / sizeof sections[0] && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, ", %s", sections[i].name);
    return cli_usage(c, "list: no section \"%s\": %s", wanted, names);
}

static int run(cli *c) {
    const char *wanted = cli_argument(c, 0);
    bool        any = false, json = cli_flag(c, "json");
    json_t     *all = json_object();
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        bool only = wanted && !strcmp(wanted, sections[i].name);
        if (wanted && !only && !(sections[i].part && !strcmp(wanted, "parts"))) continue;
        json_t *list = sections[i].gather();
        size_t  k;
        json_t *o;
        any = true;
        if (!json) {
            if (!only) printf("%s:\n", sections[i].name);
            json_array_foreach(list, k, o) print_item(o, wanted != NULL);
            if (!only) printf("\n");
        }
        json_object_set_new(all, sections[i].name, list);
    }
    if (any && json) return cli_json_print(all);
    json_decref(all);
    if (any) return 0;
    return no_section(c, wanted);
}

static const cli_option options[] = {{0}};

QP_VERB(list) = {
    .name = "list",
    .summary = "every op, part, preset, task and verb, with its source",
    .arguments = "[SECTION]",
    .max_arguments = 1,
    .options = options,
    .examples =
        "  quipu list\n"
        "  quipu list mixers     with options, their ranges and defaults\n"
        "  quipu list parts      also: ops presets verbs init norms inputs positions ffn blocks outputs\n"
        "                        parametrizations schedules tokenizers tasks\n",
    .run = run};
