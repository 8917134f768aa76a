/* Variants: the base's config with one part exchanged, and an inner width that makes parameters equal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/config.h"
#include "core/core.h"
#include "format/checksum.h"
#include "format/json.h"

/* Weights of variance 1 / fan: 0.02, which is usual at widths of 768 and more, leaves a width of 64 all but silent. */
static const char base_config[] =
    "{\"model_type\": \"quipu\", \"vocab_size\": 256, \"hidden_size\": 64, \"num_hidden_layers\": 2, "
    "\"max_position_embeddings\": 256, \"init\": \"lecun_normal\", \"position\": {\"type\": \"rope\"}, "
    "\"mixer\": {\"type\": \"attention\", \"heads\": 4}, \"ffn\": {\"type\": \"mlp\", \"width\": 256}, "
    "\"norm\": {\"type\": \"rms_norm\"}}";

static const struct {
    const char  *key;
    qp_part_kind kind;
} roles[] = {{"mixer", QP_PART_MIXER},       {"ffn", QP_PART_FFN},
             {"position", QP_PART_POSITION}, {"norm", QP_PART_NORM},
             {"block", QP_PART_BLOCK},       {"input", QP_PART_INPUT},
             {"output", QP_PART_OUTPUT},     {"final_norm", QP_PART_NORM},
             {"input_norm", QP_PART_NORM},   {"parametrization", QP_PART_PARAMETRIZATION}};

/* ---- Options of parts ---------------------------------------------------------------------------- */

static const char *type_of(const json_t *object) { return json_string_value(json_object_get(object, "type")); }

/* Has the part that the object names such an option, and may it have this value (NULL: any)? */
static bool takes(qp_ctx *ctx, qp_part_kind kind, const json_t *object, const char *option,
                  const json_t *value) {
    const char    *type = type_of(object);
    const qp_part *part = type ? qp_part_find(ctx, kind, type) : NULL;
    for (const qp_option *o = part ? part->options : NULL; o && o->name; o++)
        if (!strcmp(o->name, option))
            return !json_is_number(value) ||
                   (json_number_value(value) >= o->low && json_number_value(value) <= o->high);
    return false;
}

/* A value that is JSON, or else a string. */
static json_t *value_of(const char *text, size_t n) {
    json_t *value = qpi_json_parse("--parts", text, n, NULL);
    return value ? value : json_stringn(text, n);
}

/* Sets an option of a part; "test.NAME" goes into its object "test". */
static bool set_option(json_t *object, const char *key, json_t *value) {
    if (strncmp(key, "test.", 5)) return json_object_set_new(object, key, value) == 0;
    if (!json_object_get(object, "test")) json_object_set_new(object, "test", json_object());
    return json_object_set_new(json_object_get(object, "test"), key + 5, value) == 0;
}

/* NAME:option=value:..., or a JSON object. */
static json_t *part_object(const char *text, size_t n) {
    if (n && text[0] == '{') return qpi_json_parse("--parts", text, n, NULL);
    size_t name = 0;
    while (name < n && text[name] != ':') name++;
    json_t *object = json_pack("{s:o}", "type", json_stringn(text, name));
    for (size_t at = name; object && at < n;) {
        size_t begin = ++at, equals = 0;
        while (at < n && text[at] != ':') {
            if (text[at] == '=' && !equals) equals = at;
            at++;
        }
        char key[100];
        bool ok = equals > begin && equals - begin < sizeof key;
        if (ok) {
            memcpy(key, text + begin, equals - begin);
            key[equals - begin] = 0;
            ok = set_option(object, key, value_of(text + equals + 1, at - equals - 1));
        }
        if (ok) continue;
        json_decref(object);
        return NULL;
    }
    return object;
}

/* What an exchanged part keeps of the one that stood there: all options where it is the same part, otherwise
 * those that say the same of every mixer. */
static void keep_options(qp_ctx *ctx, qp_part_kind kind, const json_t *old, json_t *object) {
    static const char *const common[] = {"heads", "head_width", "causal"};
    const char              *a = type_of(old), *b = type_of(object), *key;
    json_t                  *value;
    if (a && b && !strcmp(a, b)) {
        qpi_json_members(old, key, value) if (!json_object_get(object, key))
            json_object_set(object, key, value);
        return;
    }
    for (size_t i = 0; kind == QP_PART_MIXER && i < sizeof common / sizeof *common; i++)
        if ((value = json_object_get(old, common[i])) && !json_object_get(object, common[i]) &&
            takes(ctx, kind, object, common[i], value))
            json_object_set(object, common[i], value);
}

/* ---- Variants ------------------------------------------------------------------------------------ */

/* Exchanges what key names; *given: the value has a width of its own, which is not to be adjusted. */
static bool exchange(compare *k, compare_variant *v, const char *key, const char *text, size_t n, bool *given) {
    json_t *config = v->config;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(roles[i].key, key)) continue;
        json_t *object = part_object(text, n);
        if (!object) return false;
        *given = json_object_get(object, "width");
        v->role = roles[i].key;
        v->test = json_incref(json_object_get(object, "test"));
        json_object_del(object, "test");
        keep_options(k->ctx, roles[i].kind, json_object_get(config, key), object);
        return json_object_set_new(config, key, object) == 0;
    }
    if (!strcmp(key, "init")) {
        size_t name = 0;
        while (name < n && text[name] != ':') name++;
        bool scaled = name < n, sound = !scaled || (n - name > 7 && !memcmp(text + name, ":scale=", 7));
        json_object_set_new(config, "initializer_range",
                            scaled && sound ? value_of(text + name + 7, n - name - 7) : json_integer(1));
        return sound && json_object_set_new(config, key, json_stringn(text, name)) == 0;
    }
    return json_object_set_new(config, key, value_of(text, n)) == 0;
}

/* Of --parts' value the next piece: up to a comma outside of brackets and quotes. */
static size_t piece_of(const char *p) {
    int    depth = 0;
    bool   quoted = false;
    size_t n = 0;
    for (; p[n] && (depth > 0 || quoted || p[n] != ','); n++) {
        if (p[n] == '"') quoted = !quoted;
        if (!quoted && strchr("{[", p[n])) depth++;
        if (!quoted && strchr("}]", p[n])) depth--;
    }
    return n;
}

static bool add_variant(compare *k, const json_t *base, const char *key, const char *text, size_t n,
                        bool *given) {
    compare_variant *v = &k->variants[k->variant_count];
    if (k->variant_count == COMPARE_MOST)
        return !qp_fail(k->ctx, QP_ERR_ARGUMENT, "--parts: more than %d", COMPARE_MOST);
    *v = (compare_variant){.name = malloc(strlen(key) + n + 2), .config = json_deep_copy(base)};
    if (!v->name || !v->config) return !qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: --parts");
    sprintf(v->name, "%s=%.*s", key, (int)n, text);
    k->variant_count++;
    if (n && exchange(k, v, key, text, n, given)) return true;
    return !qp_fail(k->ctx, QP_ERR_ARGUMENT, "--parts %.200s: expected KEY=NAME:option=value:... or KEY=JSON",
                    v->name);
}

/* Keys that follow from the task, and a variant that there is already, have nothing to compare. */
static bool differs(compare *k, const char *key) {
    static const char *const fixed[] = {"model_type", "vocab_size", "max_position_embeddings"};
    const char              *name = k->variants[k->variant_count - 1].name;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!strcmp(fixed[i], key))
            return !qp_fail(k->ctx, QP_ERR_ARGUMENT, "--parts %.200s: %s follows from the task and its lengths",
                            name, key);
    for (int i = 0; i < k->variant_count - 1; i++)
        if (!strcmp(k->variants[i].name, name))
            return !qp_fail(k->ctx, QP_ERR_ARGUMENT, "--parts %.200s is given twice", name);
    return true;
}

/* Mixers and positions may look both ways where the task allows it. */
static void see_both_sides(qp_ctx *ctx, json_t *object) {
    for (int i = 0; i < 2; i++) {
        json_t *part = json_object_get(object, i ? "position" : "mixer");
        if (takes(ctx, i ? QP_PART_POSITION : QP_PART_MIXER, part, "causal", NULL) &&
            !json_object_get(part, "causal"))
            json_object_set_new(part, "causal", json_false());
    }
}

static void complete(compare *k, json_t *config, int64_t positions) {
    json_t *layer;
    size_t  i;
    json_object_set_new(config, "model_type", json_string("quipu"));
    json_object_set_new(config, "vocab_size", json_integer(k->task.about.vocabulary));
    json_object_set_new(config, "max_position_embeddings", json_integer(positions));
    if (!k->task.type->both_sides) return;
    see_both_sides(k->ctx, config);
    json_array_foreach(json_object_get(config, "layers"), i, layer) see_both_sides(k->ctx, layer);
}

static bool read_variants(compare *k, const json_t *base, int64_t positions, bool *given) {
    int          count;
    const char **items = cli_list(k->c, "parts", &count);
    for (int i = 0; i < count; i++) {
        const char *equals = strchr(items[i], '=');
        char        key[100];
        if (!equals || equals == items[i] || (size_t)(equals - items[i]) >= sizeof key) {
            cli_usage(k->c, "--parts %.200s: expected KEY=NAME,NAME,...", items[i]);
            return false;
        }
        memcpy(key, items[i], (size_t)(equals - items[i]));
        key[equals - items[i]] = 0;
        for (const char *p = equals + 1;; p++) {
            size_t n = piece_of(p);
            if (!add_variant(k, base, key, p, n, &given[k->variant_count]) || !differs(k, key)) return false;
            complete(k, k->variants[k->variant_count - 1].config, positions);
            p += n;
            if (!*p) break;
        }
    }
    return true;
}

/* ---- Equal parameters ---------------------------------------------------------------------------- */

/* Of the model that a config makes; -1: it makes none, and why. Memory for it is bounded. */
static int64_t count_parameters(const json_t *config, char why[400]) {
    char     *text = json_dumps(config, JSON_COMPACT);
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .memory_cap = (size_t)4 << 30});
    qp_model *m = text && ctx ? qp_model_new(ctx, "config", text) : NULL;
    int64_t   count = m ? qp_model_info_of(m).parameters : -1;
    if (!m && why) snprintf(why, 400, "%s", ctx ? qp_error(ctx) : "out of memory");
    qp_close(ctx);
    free(text);
    return count;
}

typedef struct {
    json_t     *object; /* that holds the width */
    const char *key, *knob;
    int64_t     unit;
} knob;

/* The feed-forward's inner width where it has one, otherwise the model's width, in whole heads. */
static knob knob_of(compare *k, compare_variant *v) {
    json_t *ffn = json_object_get(v->config, "ffn"),
           *heads = json_object_get(json_object_get(v->config, "mixer"), "heads");
    if (takes(k->ctx, QP_PART_FFN, ffn, "width", NULL)) return (knob){ffn, "width", "ffn.width", 8};
    return (knob){v->config, "hidden_size", "hidden_size", heads ? 2 * json_integer_value(heads) : 8};
}

static int64_t count_at(const knob *b, const compare_variant *v, int64_t units) {
    json_object_set_new(b->object, b->key, json_integer(units * b->unit));
    return count_parameters(v->config, NULL);
}

/* Sets the knob to the multiple of its unit that brings the count nearest to the target. False: none. */
static bool turn(const knob *b, compare_variant *v, int64_t target) {
    int64_t low = 0, high = 1, at = 0; /* count(low) < target <= count(high) */
    while ((at = count_at(b, v, high)) >= 0 && at < target && high < 1 << 20) low = high, high *= 2;
    if (at < 0) return false;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (count_at(b, v, middle) >= target) high = middle;
        else low = middle;
    }
    int64_t above = count_at(b, v, high), below = low > 0 ? count_at(b, v, low) : INT64_MIN / 2;
    int64_t best = above - target <= target - below ? high : low;
    v->parameters = count_at(b, v, best);
    v->inner = best * b->unit;
    return v->parameters >= 0;
}

/* To within a half percent by whole eights, or else by ones. */
static void equalise(compare *k, compare_variant *v, int64_t target) {
    knob    b = knob_of(k, v);
    json_t *before = json_copy(json_object_get(b.object, b.key));
    if (v->parameters == target) {
        json_decref(before);
        return;
    }
    int64_t own = v->parameters;
    bool    ok = turn(&b, v, target);
    if (ok && !strcmp(b.key, "width") && llabs((long long)(v->parameters - target)) * 200 > target) {
        b.unit = 1;
        ok = turn(&b, v, target);
    }
    v->knob = ok ? b.knob : NULL;
    if (!ok) {
        v->parameters = own;
        if (before) json_object_set(b.object, b.key, before);
        else json_object_del(b.object, b.key);
    }
    json_decref(before);
}

static bool mixes_by_attention(const compare_variant *v) {
    const char *type = type_of(json_object_get(v->config, "mixer"));
    return type && !strcmp(type, "attention") && !json_object_get(v->config, "layers");
}

static void match(compare *k, const bool *given) {
    bool equal = cli_choice(k->c, "match") == 0;
    for (int i = 0; i < k->variant_count; i++) {
        compare_variant *v = &k->variants[i];
        v->parameters = count_parameters(v->config, v->why);
    }
    for (int i = k->variant_count - 1; i >= 0; i--)
        if (!k->variants[i].why[0] && mixes_by_attention(&k->variants[i])) k->reference = i;
    for (int i = 0; i < k->variant_count && equal && !k->variants[k->reference].why[0]; i++)
        if (i != k->reference && !given[i] && !k->variants[i].why[0])
            equalise(k, &k->variants[i], k->variants[k->reference].parameters);
}

/* ---- Configs of runs ----------------------------------------------------------------------------- */

char *compare_config(const compare *k, const compare_variant *v, int64_t length, int64_t positions, bool test) {
    json_t *config = json_deep_copy(v->config), *position = json_object_get(config, "position");
    if (!config) return NULL;
    if (positions) json_object_set_new(config, "max_position_embeddings", json_integer(positions));
    if (takes(k->ctx, QP_PART_POSITION, position, "trained_positions", NULL) &&
        !json_object_get(position, "trained_positions"))
        json_object_set_new(position, "trained_positions", json_integer(length));
    if (test && v->test) json_object_update(json_object_get(config, v->role), v->test);
    char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(config);
    return text;
}

/* Name without what holds in tests only, fit for a path. */
static void plain_name(const compare_variant *v, char out[64]) {
    int n = 0;
    for (const char *p = v->name; *p && n < 60;) {
        if (v->test && !strncmp(p, ":test.", 6)) {
            p += 6 + strcspn(p + 6, ":");
            continue;
        }
        out[n++] = strchr("{}[]\"'/\\ ,:", *p) || (unsigned char)*p < 33 || (unsigned char)*p > 126 ? '_' : *p;
        p++;
    }
    out[n] = 0;
}

static uint64_t add_text(uint64_t hash, char *text) {
    if (text) hash = qpi_checksum_of(hash, text, strlen(text));
    free(text);
    return hash;
}

/* The folder is named for all that the training depends on, the result for what the tests do. */
static void name_run(const compare *k, compare_run *r) {
    const compare_variant *v = &k->variants[r->variant];
    const task            *t = &k->task;
    char                   plain[64], what[512];
    plain_name(v, plain);
    snprintf(what, sizeof what, "%s %016llx %lld %lld %.9g %.9g %.9g %s %lld", t->type->part.name,
             (unsigned long long)t->about.fingerprint, (long long)cli_int(k->c, "steps"),
             (long long)compare_batch(k, r->length), r->lr, cli_number(k->c, "weight-decay"),
             cli_number(k->c, "clip"), cli_text(k->c, "precision"), (long long)r->seed);
    uint64_t hash = qpi_checksum_of(0, what, strlen(what));
    hash = qpi_checksum_of(hash, t->settings.values, sizeof t->settings.values);
    hash = add_text(hash, compare_config(k, v, r->length, 0, false));
    snprintf(r->folder, sizeof r->folder, "%.3000s/runs/%s-%lld-%lld-%08llx", cli_text(k->c, "out"), plain,
             (long long)r->length, (long long)r->seed, (unsigned long long)(hash & 0xffffffff));
    int64_t samples = cli_int(k->c, "test-samples");
    hash = qpi_checksum_of(hash, &samples, sizeof samples);
    hash = qpi_checksum_of(hash, k->tests.at, (size_t)k->tests.count * sizeof *k->tests.at);
    hash = add_text(hash, compare_config(k, v, r->length, 0, true));
    snprintf(r->file, sizeof r->file, "result-%08llx.json", (unsigned long long)(hash & 0xffffffff));
}

/* ---- Lists of numbers ---------------------------------------------------------------------------- */

/* Numbers with commas between them, all different, between low and high (not themselves); *count of them. */
static bool read_numbers(const char *p, double low, double high, double out[COMPARE_MOST], int64_t *count) {
    for (*count = 0; *count < COMPARE_MOST; p++) {
        char  *end;
        double x = strtod(p, &end);
        if (end == p || !(x > low && x < high)) return false;
        for (int64_t i = 0; i < *count; i++)
            if (out[i] == x) return false;
        out[(*count)++] = x;
        p = end;
        if (*p != ',') return !*p;
    }
    return false;
}

static bool read_lengths(compare *k, const char *option, compare_lengths *out) {
    const char *text = cli_text(k->c, option);
    double      x[COMPARE_MOST];
    bool        ok = !text || read_numbers(text, 0.5, (1 << 24) + 0.5, x, &out->count);
    for (int64_t i = 0; i < out->count && ok; i++) {
        out->at[i] = (int64_t)x[i];
        ok = (double)out->at[i] == x[i];
    }
    if (!ok)
        cli_usage(k->c, "--%s is \"%.200s\", expected different lengths from 1 to %d, %d at most, as 256,1024",
                  option, text, 1 << 24, COMPARE_MOST);
    return ok;
}

static bool read_rates(compare *k) {
    const char *text = cli_text(k->c, "lr");
    int64_t     count;
    bool        ok = read_numbers(text, 0, 1e6, k->rates, &count);
    k->rate_count = (int)count;
    if (!ok)
        cli_usage(k->c, "--lr is \"%.200s\", expected different learning rates, %d at most, as 1e-3,3e-3", text,
                  COMPARE_MOST);
    return ok;
}

static int64_t longest(const compare_lengths *l, int64_t most) {
    for (int64_t i = 0; i < l->count; i++)
        if (l->at[i] > most) most = l->at[i];
    return most;
}

static void add_length(compare_lengths *l, int64_t T) {
    int64_t at = l->count;
    for (int64_t i = 0; i < l->count; i++)
        if (l->at[i] == T) return;
    if (l->count == COMPARE_MOST) return;
    for (l->count++; at > 0 && l->at[at - 1] > T; at--) l->at[at] = l->at[at - 1];
    l->at[at] = T;
}

/* Those given, or doublings to four times the longest; and those of the runs. In order. */
static void list_costs(compare *k) {
    compare_lengths given = k->costs;
    int64_t         end = 4 * longest(&k->lengths, 256);
    k->costs.count = 0;
    for (int64_t i = 0; i < given.count; i++) add_length(&k->costs, given.at[i]);
    for (int64_t T = 64; !given.count && T <= end; T *= 2) add_length(&k->costs, T);
    for (int64_t i = 0; i < k->lengths.count; i++) add_length(&k->costs, k->lengths.at[i]);
}

static bool read_lists(compare *k) {
    if (!read_lengths(k, "length", &k->lengths) || !read_lengths(k, "test-length", &k->tests) ||
        !read_lengths(k, "cost-length", &k->costs) || !read_rates(k))
        return false;
    if (!k->lengths.count) k->lengths = (compare_lengths){1, {k->task.type->length}};
    list_costs(k);
    return true;
}

/* ---- All of it ----------------------------------------------------------------------------------- */

static bool list_runs(compare *k) {
    int64_t seeds = cli_int(k->c, "seeds"), first = cli_int(k->c, "seed");
    k->runs = calloc((size_t)(k->variant_count * k->lengths.count * seeds * k->rate_count), sizeof *k->runs);
    if (!k->runs) return !qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: runs");
    for (int64_t s = 0; s < seeds; s++)
        for (int64_t l = 0; l < k->lengths.count; l++)
            for (int v = 0; v < k->variant_count; v++)
                for (int i = 0; i < k->rate_count; i++) {
                    compare_run *r = &k->runs[k->run_count++];
                    *r = (compare_run){
                        .variant = v, .length = k->lengths.at[l], .seed = first + s, .lr = k->rates[i]};
                    name_run(k, r);
                }
    return true;
}

bool compare_plan(compare *k) {
    bool given[COMPARE_MOST + 1] = {0};
    if (!read_lists(k)) return false;
    k->variants = calloc(COMPARE_MOST + 1, sizeof *k->variants);
    json_t *config = cli_config_read(k->c, base_config), *base = NULL;
    if (!k->variants) qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: --parts");
    if (config)
        base = cli_config_stack(k->ctx, cli_text(k->c, "config") ? cli_text(k->c, "config") : "config", config);
    json_decref(config);
    bool ok = base && k->variants && read_variants(k, base, longest(&k->tests, longest(&k->lengths, 1)), given);
    json_decref(base);
    if (!ok) return false;
    match(k, given);
    return list_runs(k);
}

void compare_free(compare *k) {
    for (int i = 0; i < k->variant_count; i++) {
        free(k->variants[i].name);
        json_decref(k->variants[i].config);
        json_decref(k->variants[i].test);
    }
    for (int i = 0; i < k->run_count; i++) json_decref(k->runs[i].result);
    free(k->variants);
    free(k->runs);
    json_decref(k->cost);
    task_close(&k->task);
}
