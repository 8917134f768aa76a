#include "cli/activations.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/config.h"
#include "cli/json.h"
#include "cli/open.h"
#include "cli/plot.h"
#include "cli/watch.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "models/model.h"
#include "ops/attention.h"

#define ROWS 4         /* sequences that are read */
#define LOGIT_ROWS 256 /* queries whose logits are looked at, of each layer */

/* A place in the model: what was there, and its gradient. */
typedef struct {
    int64_t     layer; /* -1: of none */
    const char *where;
    qp_tensor   value, gradient;
} place;

/* Logits of a layer's queries. */
typedef struct {
    int64_t layer, width, rows, count; /* K; queries, and keys that they see in all */
    double  scale, sum, squares;       /* of products, before the scale */
    double  entropy, largest;          /* sums over queries: of the weights, over that of equal ones */
} logits;

typedef struct {
    qp_ctx   *ctx;
    qp_model *m;
    place    *places;
    int       count, capacity;
    int64_t   layer;
    logits   *attention; /* of each layer */
    qp_tensor loss;
} reading;

/* ---- Activations --------------------------------------------------------------------------------- */

static void note(reading *r, int64_t layer, const char *where, qp_tensor x) {
    if (r->count < r->capacity && !qp_failed(r->ctx))
        r->places[r->count++] = (place){layer, where, qp_keep(qp_alias(x)), QP_NONE};
}

static void before_branch(void *user, int64_t layer, bool ffn, qp_tensor x) {
    reading *r = user;
    r->layer = layer;
    note(r, layer, ffn ? "ffn_in" : "mixer_in", x);
}

static void after_branch(void *user, int64_t layer, bool ffn, qp_tensor y) {
    note(user, layer, ffn ? "ffn" : "mixer", y);
}

/* The model's forward pass, layer by layer, and its loss. */
static void read_forward(reading *r, qp_tensor ids, qp_tensor labels) {
    qp_model   *m = r->m;
    qp_record   in = {0}, all = {0};
    int64_t     T = qp_size(ids, 1);
    qp_sequence s = {.length = T, .in = &in, .before = &all};
    qp_record_set(&in, "input_ids", ids);
    s.positions = qp_reshape(qp_arange(r->ctx, QP_I64, T), 2, (int64_t[]){1, T});
    qp_tensor x = m->input.type->forward(m->input.self, ids, &s);
    if (m->position.type && m->position.type->embed) x = m->position.type->embed(m->position.self, x, &s);
    if (m->input_norm.type) x = m->input_norm.type->forward(m->input_norm.self, x);
    note(r, -1, "input", x);
    for (int64_t i = 0; i < m->layers && !qp_failed(r->ctx); i++) {
        qp_record out = {0};
        x = qpi_stack_layer(m, i, x, &s, &out, NULL);
        for (int k = 0; k < out.count; k++) qp_record_set(&all, out.names[k], out.tensors[k]);
        note(r, i, "stream", x);
    }
    if (m->norm.type) x = m->norm.type->forward(m->norm.self, x);
    note(r, -1, "output", x);
    r->loss = qpi_output_loss(&m->output, x, labels, &s);
}

/* Of all places, some at a time. */
static void read_gradients(reading *r) {
    enum { MOST = 32 };
    for (int at = 0; at < r->count && !qp_failed(r->ctx); at += MOST) {
        qp_tensor xs[MOST], dxs[MOST];
        int       n = r->count - at < MOST ? r->count - at : MOST;
        for (int i = 0; i < n; i++) xs[i] = r->places[at + i].value;
        qp_grad(1, &r->loss, n, xs, dxs, (qp_grad_options){.retain = true});
        for (int i = 0; i < n; i++) r->places[at + i].gradient = dxs[i];
    }
}

/* ---- Attention's logits -------------------------------------------------------------------------- */

static double product(const qp_view *q, int64_t qo, const qp_view *k, int64_t ko) {
    double sum = 0;
    for (int64_t i = 0; i < q->shape[3]; i++)
        sum += qp_load(q, qo + i * q->stride[3]) * qp_load(k, ko + i * k->stride[3]);
    return sum;
}

/* Query t of head h in row b, over keys 0 to last. */
static void look_at(logits *l, const qp_view *q, const qp_view *k, int64_t b, int64_t t, int64_t h,
                    int64_t last) {
    int64_t group = h / (q->shape[2] / k->shape[2]);
    double  most = -INFINITY, total = 0, entropy = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t s = 0; s <= last; s++) {
            double x = product(q, b * q->stride[0] + t * q->stride[1] + h * q->stride[2], k,
                               b * k->stride[0] + s * k->stride[1] + group * k->stride[2]);
            double z = x * l->scale;
            if (pass) {
                total += exp(z - most);
                entropy -= exp(z - most) * (z - most);
                continue;
            }
            most = fmax(most, z);
            l->sum += x;
            l->squares += x * x;
            l->count++;
        }
    l->rows++;
    l->entropy += last ? (entropy / total + log(total)) / log((double)last + 1) : 1;
    l->largest += 1 / total;
}

static void observe(void *user, const qp_call *call, double seconds) {
    reading       *r = user;
    const qp_view *q = &call->in[0], *k = &call->in[1];
    logits        *l = &r->attention[r->layer];
    (void)seconds;
    if (strcmp(call->op->name, "attention") || !q->data || l->rows) return;
    int64_t B = q->shape[0], T = q->shape[1], H = q->shape[2], all = B * T * H,
            step = all > LOGIT_ROWS ? all / LOGIT_ROWS | 1 : 1;
    *l = (logits){.layer = r->layer, .width = q->shape[3], .scale = qpi_attention_call_scale(call)};
    for (int64_t i = step / 2; i < all; i += step) {
        int64_t t = i / H % T;
        look_at(l, q, k, i / H / T, t, i % H, qpi_attention_call_causal(call) ? t : k->shape[1] - 1);
    }
}

/* ---- As JSON ------------------------------------------------------------------------------------- */

static void put_moments(json_t *o, const char *what, qp_tensor t, qp_ctx *ctx) {
    int64_t n = qp_count(t);
    float  *x = malloc((size_t)n * sizeof *x);
    double  sum = 0, squares = 0;
    char    name[64];
    if (!x) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: activations");
    if (x && qp_read(t, QP_F32, x, n) == QP_OK) {
        for (int64_t i = 0; i < n; i++) sum += x[i];
        double mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
        snprintf(name, sizeof name, "%smean", what);
        json_object_set_new(o, name, cli_json_number(mean));
        snprintf(name, sizeof name, "%svariance", what);
        json_object_set_new(o, name, cli_json_number(squares / (double)n));
    }
    free(x);
}

static json_t *gather_logits(const reading *r) {
    json_t *all = json_array();
    for (int64_t i = 0; i < r->m->layers; i++) {
        const logits *l = &r->attention[i];
        if (!l->rows) continue;
        double mean = l->sum / (double)l->count, variance = l->squares / (double)l->count - mean * mean;
        json_array_append_new(all,
                              json_pack("{s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o, s:o}", "layer", (json_int_t)i,
                                        "head_width", (json_int_t)l->width, "scale", l->scale, "product_mean",
                                        cli_json_number(mean), "product_variance", cli_json_number(variance),
                                        "logit_mean", cli_json_number(mean * l->scale), "logit_variance",
                                        cli_json_number(variance * l->scale * l->scale), "entropy",
                                        cli_json_number(l->entropy / (double)l->rows), "largest_weight",
                                        cli_json_number(l->largest / (double)l->rows)));
    }
    return all;
}

static json_t *gather(const reading *r, const char *path, int64_t tokens) {
    json_t *rows = json_array();
    for (int i = 0; i < r->count && !qp_failed(r->ctx); i++) {
        const place *p = &r->places[i];
        json_t      *o =
            json_pack("{s:o, s:s}", "layer", p->layer < 0 ? json_null() : json_integer((json_int_t)p->layer),
                      "where", p->where);
        put_moments(o, "", p->value, r->ctx);
        put_moments(o, "gradient_", p->gradient, r->ctx);
        json_array_append_new(rows, o);
    }
    return json_pack("{s:s, s:o, s:I, s:o, s:o, s:o}", "kind", "activations", "path", cli_json_name(path),
                     "tokens", (json_int_t)tokens, "loss", cli_json_number(qp_item(r->loss)), "rows", rows,
                     "attention", gather_logits(r));
}

/* ---- Text and page ------------------------------------------------------------------------------- */

static void print(const json_t *all) {
    size_t  i;
    json_t *o;
    printf("loss %.4f over %lld tokens; gradients of their mean loss\n", cli_json_number_in(all, "loss"),
           (long long)cli_json_number_in(all, "tokens"));
    printf("layer where     %11s %11s %14s %14s\n", "mean", "variance", "gradient mean", "variance");
    json_array_foreach(json_object_get(all, "rows"), i, o) {
        char layer[16] = "";
        if (json_is_integer(json_object_get(o, "layer")))
            snprintf(layer, sizeof layer, "%lld", (long long)cli_json_number_in(o, "layer"));
        printf("%-5s %-9s %11.4g %11.4g %14.4g %14.4g\n", layer, cli_json_text_in(o, "where"),
               cli_json_number_in(o, "mean"), cli_json_number_in(o, "variance"),
               cli_json_number_in(o, "gradient_mean"), cli_json_number_in(o, "gradient_variance"));
    }
    if (!json_array_size(json_object_get(all, "attention"))) return;
    printf("\nattention  K     scale  variance of q k  of logits  entropy  largest weight\n");
    json_array_foreach(json_object_get(all, "attention"), i, o) printf(
        "layer %-3lld %3lld %9.4g %16.4g %10.4g %8.3f %15.3f\n", (long long)cli_json_number_in(o, "layer"),
        (long long)cli_json_number_in(o, "head_width"), cli_json_number_in(o, "scale"),
        cli_json_number_in(o, "product_variance"), cli_json_number_in(o, "logit_variance"),
        cli_json_number_in(o, "entropy"), cli_json_number_in(o, "largest_weight"));
}

/* key of the rows whose `where` is this, by layer; on a logarithmic axis what is above 0. */
static void fill_curve(plot_curve *c, const json_t *rows, const char *where, const char *name, const char *key,
                       int colour, bool log_y) {
    size_t  i;
    json_t *o;
    *c = (plot_curve){.name = name, .colour = colour, .dots = json_array_size(rows) < 400};
    json_array_foreach(rows, i, o) {
        double y = cli_json_number_in(o, key);
        bool   there = !where || !strcmp(cli_json_text_in(o, "where"), where);
        if (!there || !isfinite(y) || (log_y && y <= 0) || c->n == PLOT_POINTS) continue;
        c->x[c->n] = cli_json_number_in(o, "layer");
        c->y[c->n++] = y;
    }
}

static void put_layers(html *h, const json_t *rows, const char *key, const char *title, bool log_y) {
    static const char *const where[] = {"stream", "mixer", "ffn"}, *const names[] = {
                                                                       "behind the block", "the mixer's result",
                                                                       "the feed-forward's result"};
    plot_curve *c = malloc(3 * sizeof *c);
    if (!c) return;
    for (int i = 0; i < 3; i++) fill_curve(&c[i], rows, where[i], names[i], key, i, log_y);
    plot_put(h, (plot_options){.title = title, .log_y = log_y}, 3, (const plot_curve *[]){&c[0], &c[1], &c[2]});
    free(c);
}

static bool write_page(const reading *r, const json_t *all, const char *path, const char *command) {
    html          h = {0};
    const json_t *rows = json_object_get(all, "rows"), *attention = json_object_get(all, "attention");
    plot_curve    a, b;
    html_begin(&h, "quipu: activations");
    html_put(&h, "<h1>");
    html_escaped(&h, cli_json_text_in(all, "path"));
    html_putf(&h, "</h1>\n<p>Loss %.4f over %.0f tokens</p>\n<h2>By layer</h2>\n",
              cli_json_number_in(all, "loss"), cli_json_number_in(all, "tokens"));
    put_layers(&h, rows, "variance", "Variance of activations", true);
    put_layers(&h, rows, "gradient_variance", "Variance of their gradients", true);
    put_layers(&h, rows, "mean", "Mean of activations", false);
    put_layers(&h, rows, "gradient_mean", "Mean of their gradients", false);
    fill_curve(&a, attention, NULL, "products q k", "product_variance", 0, true);
    fill_curve(&b, attention, NULL, "logits: times the scale", "logit_variance", 1, true);
    plot_put(&h, (plot_options){.title = "Variance of attention's logits", .log_y = true}, 2,
             (const plot_curve *[]){&a, &b});
    fill_curve(&a, attention, NULL, "entropy of the weights; 1: equal ones", "entropy", 0, false);
    fill_curve(&b, attention, NULL, "the largest weight", "largest_weight", 1, false);
    plot_put(&h, (plot_options){.title = "Attention's weights, means over queries", .zero = true}, 2,
             (const plot_curve *[]){&a, &b});
    html_machine(&h, r->ctx);
    html_text(&h, "Command", command ? command : "");
    html_text(&h, "Config", qp_model_config(r->m));
    return html_write(&h, path, r->ctx);
}

/* ---- Model and text ------------------------------------------------------------------------------ */

/* f32 parameters, drawn where the path is a config's or a preset's. */
static qp_model *open_model(cli *c, qp_ctx *ctx, const char *path) {
    char        buffer[4096];
    const char *preset = qpi_path_exists(path) ? NULL : qp_preset_config(path);
    path = cli_model_path(path, buffer);
    if (!preset && (qpi_path_is_folder(path) || qpi_path_is_gguf(path))) {
        if (!cli_given(c, "set")) return qp_model_load(ctx, path, (qp_model_options){0});
        cli_usage(c, "--set goes with a config or a preset: %s has weights", path);
        return NULL;
    }
    json_t *config =
        preset ? qpi_json_parse(path, preset, strlen(preset), &ctx->error) : qpi_json_load(path, &ctx->error);
    if (config && !json_is_object(config)) qp_fail(ctx, QP_ERR_FORMAT, "%s: expected an object", path);
    bool      ok = config && !qp_failed(ctx) && cli_config_set(c, config);
    char     *text = ok ? json_dumps(config, JSON_COMPACT) : NULL;
    qp_model *m = text ? qp_model_new(ctx, path, text) : NULL;
    free(text);
    json_decref(config);
    return m;
}

/* ids and labels [B, T]: of --text, or drawn. */
static bool read_ids(cli *c, qp_ctx *ctx, qp_model *m, const char *path, qp_tensor *ids, qp_tensor *labels) {
    qp_ids  all = {0};
    int64_t V = qp_model_info_of(m).vocabulary, T = cli_int(c, "length"), B = ROWS;
    if (T > qp_model_info_of(m).positions) T = qp_model_info_of(m).positions;
    if (cli_text(c, "text")) {
        qp_text       text = {0};
        bool          folder = qpi_path_exists(path) && (qpi_path_is_folder(path) || qpi_path_is_gguf(path));
        qp_tokenizer *t = folder ? cli_tokenizer_open(ctx, path) : qp_tokenizer_bytes(ctx);
        if (t && qp_tokenizer_size(t) > V + (folder ? 0 : 1))
            qp_fail(ctx, QP_ERR_ARGUMENT, "--text: the model's vocabulary of %lld has not all bytes",
                    (long long)V);
        bool ok = t && !qp_failed(ctx) && cli_read_text(ctx, cli_text(c, "text"), &text) &&
                  qp_encode(ctx, t, text.data, text.count, (qp_encode_options){.literal = true}, &all) == QP_OK;
        qp_text_free(&text);
        if (ok && all.count < 3)
            ok = !qp_fail(ctx, QP_ERR_ARGUMENT, "--text %s: %lld tokens, expected 3 at least",
                          cli_text(c, "text"), (long long)all.count);
        if (!ok) return qp_ids_free(&all), false;
        if (all.count - 1 < T) T = all.count - 1;
        if (B > (all.count - 1) / T) B = (all.count - 1) / T;
    } else {
        uint32_t word[4];
        for (int64_t i = 0; i <= B * T && !qp_failed(ctx); i++) {
            qpi_philox((uint64_t)cli_int(c, "seed"), 0, (uint64_t)i, word);
            cli_append_id(ctx, &all, (int32_t)((uint64_t)word[0] * (uint64_t)V >> 32));
        }
    }
    if (!qp_failed(ctx)) {
        *ids = qp_from(ctx, QP_I32, 2, (int64_t[]){B, T}, all.data);
        *labels = qp_cast(qp_from(ctx, QP_I32, 2, (int64_t[]){B, T}, all.data + 1), QP_I64);
        *ids = qp_cast(*ids, QP_I64);
    }
    qp_ids_free(&all);
    return !qp_failed(ctx);
}

/* ---- All ----------------------------------------------------------------------------------------- */

static bool read_all(reading *r, qp_tensor ids, qp_tensor labels) {
    cli_watcher watcher = {before_branch, after_branch, r};
    r->capacity = 5 * (int)r->m->layers + 2;
    r->places = calloc((size_t)r->capacity, sizeof *r->places);
    r->attention = calloc((size_t)r->m->layers + 1, sizeof *r->attention);
    if (!r->places || !r->attention) return !qp_fail(r->ctx, QP_ERR_MEMORY, "out of memory: activations");
    if (!r->m->output.type)
        return !qp_fail(r->ctx, QP_ERR_UNSUPPORTED, "the model has no output, and so no loss");
    qp_set_training(qp_model_module(r->m), false);
    cli_watch *watch = cli_watch_model(r->m, &watcher);
    qp_observe(r->ctx, observe, r);
    if (watch) read_forward(r, ids, labels);
    qp_observe(r->ctx, NULL, NULL);
    read_gradients(r);
    cli_unwatch(watch);
    return !qp_failed(r->ctx);
}

int activations_run(cli *c, qp_ctx *ctx, const char *path) {
    reading   r = {.ctx = ctx, .m = open_model(c, ctx, path)};
    qp_tensor ids, labels;
    json_t   *all = NULL;
    if (!r.m) return qp_failed(ctx) ? cli_failed(ctx) : 2;
    if (read_ids(c, ctx, r.m, path, &ids, &labels) && read_all(&r, ids, labels))
        all = gather(&r, path, qp_count(ids));
    char *command = cli_command(c);
    if (all && !qp_failed(ctx) && cli_text(c, "plot")) write_page(&r, all, cli_text(c, "plot"), command);
    free(command);
    for (int i = 0; i < r.count; i++) qp_drop(r.places[i].value);
    free(r.places);
    free(r.attention);
    if (qp_failed(ctx)) {
        json_decref(all);
        return cli_failed(ctx);
    }
    if (cli_flag(c, "json") || !all) return cli_json_print(all);
    print(all);
    json_decref(all);
    return 0;
}
