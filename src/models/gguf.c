/* What a GGUF file says of its model, as the Hugging Face config that amounts to the same. Keys of the
 * architecture that would change the mathematics and are not known here are errors. */
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/os.h"
#include "models/model.h"

typedef struct {
    qp_ctx                *ctx;
    const char            *path;
    const qp_file         *file;
    const qpi_gguf_family *family;
    json_t                *config;
} reading;

static void fail(reading *r, qp_code code, const char *key, const char *what) {
    qp_fail(r->ctx, code, "%s: %s: %s", r->path, key, what);
}

/* "ARCHITECTURE.key", or one of the tokenizer's as it is. */
static const char *full_key(const qpi_gguf_family *f, const char *key, char full[160]) {
    bool own = strncmp(key, "tokenizer.", 10) != 0;
    snprintf(full, 160, "%s%s%s", own ? f->architecture : "", own ? "." : "", key);
    return full;
}

static const qpi_gguf_value *value_of(const reading *r, const char *key) {
    char full[160];
    return qpi_gguf_find(r->file, full_key(r->family, key, full));
}

static double number_of(reading *r, const char *key, double fallback) {
    const qpi_gguf_value *v = value_of(r, key);
    double                x = fallback;
    if (v && !(qpi_gguf_number(v, 0, &x) && isfinite(x))) fail(r, QP_ERR_FORMAT, v->key, "expected a number");
    return x;
}

/* The shortest decimal number that is this f32: configs say 1e-05. */
static double decimal(double x) {
    char text[40];
    int  digits = 0;
    do snprintf(text, sizeof text, "%.*g", ++digits, x);
    while (digits < 9 && (float)strtod(text, NULL) != (float)x);
    return strtod(text, NULL);
}

/* Takes over value. */
static void put(reading *r, json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value) != 0) qpi_fail_memory(&r->ctx->error, key);
}

static void put_real(reading *r, json_t *object, const char *key, double x) {
    put(r, object, key, json_real(decimal(x)));
}

static bool has_tensor(const reading *r, const char *name) { return qp_file_find(r->file, name) >= 0; }

/* One value, or an array of equal ones (of each layer). */
static void read_key(reading *r, const qpi_gguf_key *key) {
    const qpi_gguf_value *v = value_of(r, key->gguf);
    int64_t               first = 0, integer = 0;
    if (!v) return;
    if (!key->integer) {
        if (v->array) fail(r, QP_ERR_FORMAT, v->key, "expected a number");
        else put_real(r, r->config, key->theirs, number_of(r, key->gguf, 0));
        return;
    }
    bool ok = qpi_gguf_integer(v, 0, &first);
    for (uint64_t i = 1; ok && i < v->count; i++) {
        ok = qpi_gguf_integer(v, i, &integer);
        if (!ok || integer == first) continue;
        fail(r, QP_ERR_UNSUPPORTED, v->key, "layers differ");
        return;
    }
    bool off = first == 0 && !strcmp(key->theirs, "sliding_window");
    if (ok) put(r, r->config, key->theirs, off ? json_null() : json_integer(first));
    else fail(r, QP_ERR_FORMAT, v->key, "expected a whole number");
}

/* ---- Every key accounted for -------------------------------------------------------------------------- */

/* Read elsewhere, checked below, or of no effect on what is computed. */
static const char *const other_keys[] = {"vocab_size",
                                         "rope.dimension_count",
                                         "attention.value_length",
                                         "rope.scaling.type",
                                         "rope.scaling.factor",
                                         "rope.scaling.attn_factor",
                                         "rope.scaling.original_context_length",
                                         "rope.scaling.finetuned",
                                         "rope.scaling.yarn_beta_fast",
                                         "rope.scaling.yarn_beta_slow",
                                         "rope.scaling.yarn_log_multiplier",
                                         "rope.scale_linear",
                                         "attention.sliding_window_pattern",
                                         "pooling_type",
                                         "tensor_data_layout",
                                         NULL};

static bool is_off(const qpi_gguf_value *v) {
    double x = 1;
    return !v->array && qpi_gguf_number(v, 0, &x) && x == 0;
}

static void check_keys(reading *r) {
    const qpi_gguf_value *v;
    size_t                n = strlen(r->family->architecture);
    for (size_t i = 0; (v = qpi_gguf_at(r->file, i)) && !qp_failed(r->ctx); i++) {
        if (strncmp(v->key, r->family->architecture, n) || v->key[n] != '.') continue;
        bool known = is_off(v);
        for (int k = 0; other_keys[k] && !known; k++) known = !strcmp(v->key + n + 1, other_keys[k]);
        for (int k = 0; r->family->keys[k].gguf && !known; k++)
            known = !strcmp(v->key + n + 1, r->family->keys[k].gguf);
        if (!known) fail(r, QP_ERR_UNSUPPORTED, v->key, "unknown key: it may change the mathematics");
    }
}

static bool has_key(const qpi_gguf_family *f, const char *theirs) {
    for (const qpi_gguf_key *k = f->keys; k->gguf; k++)
        if (!strcmp(k->theirs, theirs)) return true;
    return false;
}

/* Values are as wide as keys; of a head all features turn, or the first ones. */
static void read_widths(reading *r) {
    double heads = number_of(r, "attention.head_count", 1), width = number_of(r, "embedding_length", 0);
    double keys = number_of(r, "attention.key_length", heads > 0 ? width / heads : 0);
    double turned = number_of(r, "rope.dimension_count", keys), fraction = turned / keys;
    if (!value_of(r, "attention.key_length") && floor(keys) == keys && keys > 0 && keys < 1e9 &&
        has_key(r->family, "head_dim"))
        put(r, r->config, "head_dim", json_integer((json_int_t)keys));
    if (number_of(r, "attention.value_length", keys) != keys)
        fail(r, QP_ERR_UNSUPPORTED, "attention.value_length", "values are not as wide as keys");
    if (turned == keys) return;
    if (r->family->interleaved || !(turned > 0 && turned < keys)) {
        fail(r, QP_ERR_UNSUPPORTED, "rope.dimension_count", "only a part of each head turns");
        return;
    }
    if (floor(keys * fraction) < turned) fraction = nextafter(fraction, 1);
    put(r, r->config, "partial_rotary_factor", json_real(fraction));
}

/* ---- Layers with a window ------------------------------------------------------------------------------- */

/* Which layers have the window: a flag for each, or n: all but each n-th. */
static void read_pattern(reading *r) {
    const qpi_gguf_value *v = value_of(r, "attention.sliding_window_pattern");
    double                layers = number_of(r, "block_count", 0);
    int64_t               x = 0;
    if (!v) return;
    if (!(layers >= 0 && layers <= (double)qp_file_count(r->file)) || (v->array && (double)v->count < layers)) {
        fail(r, QP_ERR_FORMAT, v->key, "expected a value for each layer");
        return;
    }
    json_t *types = json_array();
    for (uint64_t i = 0; (double)i < layers && !qp_failed(r->ctx); i++) {
        if (!qpi_gguf_integer(v, v->array ? i : 0, &x) || x < 0)
            fail(r, QP_ERR_FORMAT, v->key, "expected whole numbers");
        bool window = v->array ? x != 0 : x == 0 || (int64_t)(i % (uint64_t)x) < x - 1;
        if (json_array_append_new(types, json_string(window ? "sliding_attention" : "full_attention")) != 0)
            qpi_fail_memory(&r->ctx->error, v->key);
    }
    put(r, r->config, "layer_types", types);
}

/* What a config says of layer i; period: where it says nothing. */
static bool has_window(const json_t *config, int64_t i, int64_t period) {
    const json_t *types = json_object_get(config, "layer_types"),
                 *given = json_object_get(config, "sliding_window_pattern");
    const char *text = json_string_value(json_array_get(types, (size_t)i));
    if (text) return !strcmp(text, "sliding_attention");
    if (qpi_json_is(given, JSON_INTEGER)) period = json_integer_value(given);
    return period < 1 || (i + 1) % period != 0;
}

/* ---- Rotation beyond the trained length ------------------------------------------------------------------ */

static bool is_text(const qpi_gguf_value *v, const char *text) {
    qpi_gguf_texts t = qpi_gguf_texts_of(v);
    const char    *found;
    size_t         n;
    return qpi_gguf_text(&t, &found, &n) && n == strlen(text) && !memcmp(found, text, n);
}

/* Llama 3's rule for pair i of n: `low` and `high` are those of every published model. */
typedef struct {
    double theta, factor, trained;
} llama3;
#define LOW 1.0
#define HIGH 4.0

static double frequency(const llama3 *x, int64_t i, int64_t n) { return pow(x->theta, -(double)i / (double)n); }

static double divisor(const llama3 *x, int64_t i, int64_t n) {
    double turns = x->trained * frequency(x, i, n) / (2 * M_PI);
    double smooth = fmin(fmax((turns - LOW) / (HIGH - LOW), 0), 1);
    return 1 / ((1 - smooth) / x->factor + smooth);
}

/* The rule that these divisors follow; false if they follow none. The last pair turns slowest and has
 * the whole factor; one between the bounds tells the trained length, otherwise it is any power of two that
 * leaves all of them beyond. */
static bool solve(llama3 *x, const double *d, int64_t n) {
    double between = 0, least = 0, most = INFINITY;
    x->factor = d[n - 1];
    x->trained = 8192;
    for (int64_t i = 0; i < n; i++) {
        double smooth = (1 / d[i] - 1 / x->factor) / (1 - 1 / x->factor);
        double turn = 2 * M_PI / frequency(x, i, n);
        if (smooth > 0.01 && smooth < 0.99) between = round((LOW + smooth * (HIGH - LOW)) * turn);
        else if (smooth > 0.5) least = fmax(least, HIGH * turn);
        else most = fmin(most, LOW * turn);
    }
    if (x->trained < least) x->trained = exp2(ceil(log2(least)));
    if (x->trained > most) x->trained = exp2(floor(log2(most)));
    if (between > 0) x->trained = between;
    bool same = x->factor > 1 && x->trained >= 1 && x->trained < 1e9;
    for (int64_t i = 0; i < n; i++) same = same && fabs(d[i] / divisor(x, i, n) - 1) < 1e-4;
    return same;
}

/* The same of a tensor, for its theta. */
static bool solve_tensor(llama3 *x, qp_tensor divisors) {
    qp_scope      s = qp_enter(divisors.ctx);
    qp_tensor     t = qp_cast(divisors, QP_F64);
    int64_t       n = qp_count(t);
    const double *d = n > 0 && n < 65536 ? qp_data_of(t) : NULL;
    bool          same = d && solve(x, d, n);
    qp_leave(s);
    return same;
}

/* rope_freqs.weight divides the frequencies. */
static void read_divisors(reading *r, json_t *scaling) {
    llama3   x = {.theta = number_of(r, "rope.freq_base", 10000)};
    qp_scope s = qp_enter(r->ctx);
    bool     same = solve_tensor(&x, qp_file_load(r->ctx, r->file, "rope_freqs.weight", false));
    qp_leave(s);
    if (!same) {
        fail(r, QP_ERR_UNSUPPORTED, "rope_freqs.weight", "not the divisors of Llama 3's scaling");
        return;
    }
    put(r, scaling, "rope_type", json_string("llama3"));
    put_real(r, scaling, "factor", x.factor);
    put_real(r, scaling, "low_freq_factor", LOW);
    put_real(r, scaling, "high_freq_factor", HIGH);
    put(r, scaling, "original_max_position_embeddings", json_integer((json_int_t)x.trained));
}

static void read_yarn(reading *r, json_t *scaling) {
    static const char *const keys[][2] = {{"rope.scaling.yarn_beta_fast", "beta_fast"},
                                          {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    double                   length = number_of(r, "rope.scaling.original_context_length", 0);
    if (length < 0 || length > 1e12)
        fail(r, QP_ERR_FORMAT, "rope.scaling.original_context_length", "expected a length");
    else if (length > 0) put(r, scaling, "original_max_position_embeddings", json_integer((json_int_t)length));
    for (int i = 0; i < 2; i++)
        if (value_of(r, keys[i][0])) put_real(r, scaling, keys[i][1], number_of(r, keys[i][0], 0));
    if (number_of(r, "rope.scaling.attn_factor", 1) != 1)
        fail(r, QP_ERR_UNSUPPORTED, "rope.scaling.attn_factor", "expected 1");
    if (number_of(r, "rope.scaling.yarn_log_multiplier", 0) != 0)
        fail(r, QP_ERR_UNSUPPORTED, "rope.scaling.yarn_log_multiplier", "expected 0");
}

static void read_scaling(reading *r) {
    const qpi_gguf_value *type = value_of(r, "rope.scaling.type");
    double                factor = number_of(r, "rope.scaling.factor", number_of(r, "rope.scale_linear", 0));
    json_t               *scaling = json_object();
    if (has_tensor(r, "rope_freqs.weight")) {
        read_divisors(r, scaling);
    } else if (is_text(type, "yarn")) {
        put(r, scaling, "rope_type", json_string("yarn"));
        put_real(r, scaling, "factor", factor);
        read_yarn(r, scaling);
    } else if (factor > 0 && factor != 1 && (!type || is_text(type, "linear"))) {
        put(r, scaling, "rope_type", json_string("linear"));
        put_real(r, scaling, "factor", factor);
    } else if (type && !is_text(type, "none") && !is_text(type, "linear")) {
        fail(r, QP_ERR_UNSUPPORTED, type->key, "expected none, linear or yarn");
    }
    if (json_object_size(scaling)) put(r, r->config, "rope_scaling", json_incref(scaling));
    json_decref(scaling);
}

/* ---- The config ------------------------------------------------------------------------------------------- */

extern const qpi_preset qpi_preset_mistral, qpi_preset_mixtral; /* which hold their models as llama does */

/* The preset of an architecture. */
static const qpi_preset *preset_of(const qpi_gguf_value *architecture) {
    for (int i = 0; qpi_presets[i]; i++) {
        const qpi_preset *p = qpi_presets[i];
        if (p->gguf && p != &qpi_preset_mistral && p != &qpi_preset_mixtral &&
            is_text(architecture, p->gguf->architecture))
            return p;
    }
    return NULL;
}

static void read_vocabulary(reading *r) {
    static const char *const tokens[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                            {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                            {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    int64_t                  at = qp_file_find(r->file, "token_embd.weight"), id;
    qp_file_entry            e = qp_file_at(r->file, at);
    if (at < 0 || e.ndim != 2) {
        fail(r, QP_ERR_FORMAT, "token_embd.weight", "expected a matrix");
        return;
    }
    put(r, r->config, "vocab_size", json_integer(e.shape[0]));
    put(r, r->config, "tie_word_embeddings", json_boolean(!has_tensor(r, "output.weight")));
    put(r, r->config, "pad_token_id", json_null()); /* or transformers has one of its own for some types */
    for (int i = 0; i < 3; i++)
        if (qpi_gguf_integer(qpi_gguf_find(r->file, tokens[i][0]), 0, &id) && id >= 0 && id < e.shape[0])
            put(r, r->config, tokens[i][1], json_integer(id));
}

/* What the preset's own starting text says of the class and of what GGUF takes for granted. */
static json_t *begin(reading *r, const qpi_preset *preset) {
    static const char *const kept[] = {"architectures", "model_type", "hidden_act", "hidden_activation",
                                       "activation_function"};
    json_t *defaults = qpi_json_parse(preset->name, preset->defaults, strlen(preset->defaults), &r->ctx->error);
    json_t *config = json_object();
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        json_t *value = json_object_get(defaults, kept[i]);
        if (value) put(r, config, kept[i], json_incref(value));
    }
    json_decref(defaults);
    return config;
}

json_t *qpi_gguf_config(qp_ctx *ctx, const char *path, const qp_file *file) {
    const qpi_gguf_value *architecture = qpi_gguf_find(file, "general.architecture");
    const qpi_preset     *preset = preset_of(architecture);
    if (!preset) {
        char           shown[QPI_SHOWN];
        qpi_gguf_texts t = qpi_gguf_texts_of(architecture);
        const char    *text = "";
        size_t         n = 0;
        qpi_gguf_text(&t, &text, &n);
        qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: general.architecture \"%s\" is none that quipu has", path,
                qpi_shown(shown, text, n));
        return NULL;
    }
    reading r = {.ctx = ctx, .path = path, .file = file, .family = preset->gguf};
    if (!strcmp(preset->name, "llama") && number_of(&r, "attention.sliding_window", 0) > 0)
        preset = &qpi_preset_mistral;
    if (!strcmp(preset->gguf->architecture, "llama") && number_of(&r, "expert_count", 0) > 0)
        preset = &qpi_preset_mixtral;
    r.family = preset->gguf;
    r.config = begin(&r, preset);
    if (!qp_failed(ctx)) check_keys(&r);
    if (!qp_failed(ctx)) read_widths(&r);
    if (!qp_failed(ctx)) read_pattern(&r);
    for (const qpi_gguf_key *k = r.family->keys; k->gguf && !qp_failed(ctx); k++) read_key(&r, k);
    for (int i = 0; r.family->flags && r.family->flags[i][0]; i++)
        put(&r, r.config, r.family->flags[i][1], json_boolean(has_tensor(&r, r.family->flags[i][0])));
    if (!qp_failed(ctx)) read_vocabulary(&r);
    if (!qp_failed(ctx)) read_scaling(&r);
    if (!qp_failed(ctx) && r.family->complete) r.family->complete(r.config);
    if (!qp_failed(ctx)) return r.config;
    json_decref(r.config);
    return NULL;
}

/* ---- And back ------------------------------------------------------------------------------------------------ */

typedef struct {
    qp_model              *m;
    const qpi_gguf_family *family;
    qpi_gguf_pairs        *pairs;
} writing;

static void put_integer(writing *w, const char *key, int64_t x) {
    char full[160];
    qpi_gguf_put_integer(w->pairs, full_key(w->family, key, full), QPI_GGUF_U32, x);
}

static void put_number(writing *w, const char *key, double x) {
    char full[160];
    qpi_gguf_put_f32(w->pairs, full_key(w->family, key, full), (float)x);
}

static void refuse(writing *w, const char *key) {
    qp_fail(w->m->ctx, QP_ERR_UNSUPPORTED, "%s: GGUF has no place for %s", w->m->preset->name, key);
}

static double number_in(const json_t *object, const char *key, double fallback) {
    const json_t *x = json_object_get(object, key);
    return qpi_json_is_number(x) ? json_number_value(x) : fallback;
}

static bool scaled_by(const json_t *rope, const char *kind) {
    const char *scaling = json_string_value(json_object_get(rope, "scaling"));
    return !strcmp(scaling ? scaling : "default", kind);
}

static void describe_yarn(writing *w, const json_t *rope) {
    if (number_in(rope, "attention_factor", 0) != 0 || number_in(rope, "mscale", 0) != 0)
        qp_fail(w->m->ctx, QP_ERR_UNSUPPORTED,
                "yarn with a factor of its own (attention_factor, mscale) in GGUF");
    if (!has_key(w->family, "original_max_position_embeddings"))
        put_integer(w, "rope.scaling.original_context_length",
                    (int64_t)number_in(rope, "trained_positions", (double)w->m->positions));
    put_number(w, "rope.scaling.yarn_beta_fast", number_in(rope, "beta_fast", 32));
    put_number(w, "rope.scaling.yarn_beta_slow", number_in(rope, "beta_slow", 1));
}

static void describe_rope(writing *w, const json_t *rope) {
    const char *kind = json_string_value(json_object_get(rope, "scaling"));
    double      fraction = number_in(rope, "fraction", 1);
    char        key[160];
    put_integer(w, "attention.value_length", w->m->head_width);
    put_integer(w, "rope.dimension_count", (int64_t)((double)w->m->head_width * fraction));
    put_number(w, "rope.freq_base", number_in(rope, "theta", 10000));
    if (fraction != 1 && w->family->interleaved) refuse(w, "partial_rotary_factor");
    if (scaled_by(rope, "default") || scaled_by(rope, "llama3")) return;
    if (!scaled_by(rope, "linear") && !scaled_by(rope, "yarn")) {
        qp_fail(w->m->ctx, QP_ERR_UNSUPPORTED, "GGUF has no rope scaling \"%s\"", kind);
        return;
    }
    qpi_gguf_put_text(w->pairs, full_key(w->family, "rope.scaling.type", key), kind, strlen(kind));
    put_number(w, "rope.scaling.factor", number_in(rope, "factor", 1));
    if (scaled_by(rope, "yarn")) describe_yarn(w, rope);
}

/* Only where a reader would take other layers. */
static void describe_pattern(writing *w) {
    const json_t *config = w->m->config;
    char          key[160];
    bool          usual = true;
    for (int64_t i = 0; i < w->m->layers && w->family->windows && number_in(config, "sliding_window", 0) > 0;
         i++)
        usual &= has_window(config, i, w->family->period) == has_window(NULL, i, w->family->period);
    if (usual) return;
    if (!w->family->period) {
        refuse(w, "layer_types");
        return;
    }
    qpi_gguf_put_array(w->pairs, full_key(w->family, "attention.sliding_window_pattern", key), QPI_GGUF_BOOL,
                       (uint64_t)w->m->layers);
    for (int64_t i = 0; i < w->m->layers; i++)
        qpi_gguf_add_bool(w->pairs, has_window(config, i, w->family->period));
}

static void describe_keys(writing *w) {
    for (const qpi_gguf_key *k = w->family->keys; k->gguf; k++) {
        const json_t *x = json_object_get(w->m->config, k->theirs);
        if (!strcmp(k->gguf, "rope.freq_base") || (!strcmp(k->theirs, "sliding_window") && !w->family->windows))
            continue;
        if (qpi_json_is_number(x) && k->integer) put_integer(w, k->gguf, (int64_t)json_number_value(x));
        else if (qpi_json_is_number(x)) put_number(w, k->gguf, json_number_value(x));
        else if (!strcmp(k->theirs, "n_inner"))
            put_integer(w, k->gguf, 4 * w->m->width); /* null stands for this */
    }
    put_integer(w, "vocab_size", w->m->vocabulary);
}

bool qpi_gguf_describe(qp_model *m, qpi_gguf_pairs *p) {
    const qpi_gguf_family *f = m->preset->gguf;
    const char            *lost = f && f->lost ? f->lost(m->config) : NULL;
    writing                w = {.m = m, .family = f, .pairs = p};
    char                   key[160];
    if (!f)
        return qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "quipu knows no %s in GGUF files", m->preset->name) == QP_OK;
    if (lost) refuse(&w, lost);
    if (m->mtp_count) refuse(&w, "num_nextn_predict_layers");
    qpi_gguf_put_text(p, "general.architecture", f->architecture, strlen(f->architecture));
    describe_keys(&w);
    describe_pattern(&w);
    if (m->rope && !json_object_get(m->config, "head_dim"))
        put_integer(&w, "attention.key_length", m->head_width);
    if (m->rope) describe_rope(&w, m->rope);
    if (f->describe) f->describe(m->config, p);
    if (!qp_model_info_of(m).causal)
        qpi_gguf_put_integer(p, full_key(f, "attention.causal", key), QPI_GGUF_BOOL, 0);
    return !qp_failed(m->ctx);
}

bool qpi_gguf_divisors(qp_model *m, qp_tensor *t) {
    const json_t *rope = m->rope;
    bool          wanted = rope && scaled_by(rope, "llama3");
    if (wanted &&
        (number_in(rope, "low_freq_factor", 1) != LOW || number_in(rope, "high_freq_factor", 4) != HIGH))
        wanted = qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                         "GGUF: Llama 3's scaling with other factors than 1 and 4") == QP_OK;
    llama3  x = {number_in(rope, "theta", 10000), number_in(rope, "factor", 1),
                 number_in(rope, "trained_positions", 8192)};
    int64_t n = m->head_width / 2;
    if (!wanted) return false;
    *t = qp_empty(m->ctx, QP_F32, 1, &n);
    float *d = qp_data_write(*t);
    for (int64_t i = 0; d && i < n; i++) d[i] = (float)divisor(&x, i, n);
    if (d && !solve_tensor(&(llama3){.theta = x.theta}, *t))
        return !qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                        "GGUF: Llama 3's scaling with a head of %lld cannot be told from its divisors",
                        (long long)m->head_width);
    return d;
}
