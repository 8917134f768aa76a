/* Embeddings: texts wait in a queue of their own, and the engine's thread takes some between its steps. */
#include <stdlib.h>
#include <string.h>

#include "cli/serve.h"
#include "format/json.h"

#define MOST_TEXTS 2048
#define PIECE 8 /* texts between two steps of the engine */

static bool refuse(serve_error *e, int status, const char *code, const char *text) {
    *e = (serve_error){.status = status, .code = code};
    strncpy(e->text, text, sizeof e->text - 1);
    return false;
}

/* ---- Requests ------------------------------------------------------------------------------------- */

static const json_t *text_of(const serve_job *j, int i) {
    return json_is_array(j->texts) ? json_array_get(j->texts, (size_t)i) : j->texts;
}

/* The texts of {"input": TEXT or [TEXT..]}; -1 after an error. */
static int read_input(json_t *root, json_t **texts, bool *base64, serve_error *e) {
    const char *format = json_string_value(json_object_get(root, "encoding_format"));
    json_t     *input = json_object_get(root, "input");
    size_t      n = json_is_array(input) ? json_array_size(input) : 1;
    *texts = input;
    *base64 = format && !strcmp(format, "base64");
    if (json_is_integer(json_object_get(root, "dimensions")))
        return refuse(e, 400, NULL, "dimensions: vectors are as long as the model makes them") - 1;
    if (n < 1 || n > MOST_TEXTS) return refuse(e, 400, NULL, "input: expected 1 to 2048 texts") - 1;
    for (size_t i = 0; i < n; i++)
        if (!json_is_string(json_is_array(input) ? json_array_get(input, i) : input))
            return refuse(e, 400, NULL, "input: expected a text or a list of texts") - 1;
    return (int)n;
}

serve_job *serve_embed_submit(serve_server *s, json_t *root, serve_error *e) {
    bool         base64;
    json_t      *texts;
    serve_params p = {.root = root, .n = 1};
    int          count = read_input(root, &texts, &base64, e);
    serve_job   *j = count > 0 ? serve_job_new(&p, count) : NULL;
    if (count < 0) serve_params_free(&p);
    if (count > 0 && !j) refuse(e, 503, NULL, "out of memory");
    if (!j) return NULL;
    j->texts = texts;
    j->base64 = base64;
    j->width = s->width;
    j->model = s->model;
    j->vectors = calloc((size_t)count * (size_t)s->width + 1, sizeof *j->vectors);
    pthread_mutex_lock(&s->embed_lock);
    bool full = s->embed_waiting >= s->queue;
    if (j->vectors && !full) {
        *(s->embed_last ? &s->embed_last->next : &s->embed_first) = j;
        s->embed_last = j;
        s->embed_waiting++;
        j->refs++;
    }
    pthread_mutex_unlock(&s->embed_lock);
    if (j->vectors && !full) {
        if (s->engine) qp_engine_wake(s->engine);
        return j;
    }
    refuse(e, full ? 429 : 503, full ? "queue_full" : NULL, full ? "the queue is full" : "out of memory");
    serve_job_release(j);
    return NULL;
}

/* ---- Vectors -------------------------------------------------------------------------------------- */

static void finish(serve_server *s, serve_job *j) {
    pthread_mutex_lock(&s->embed_lock);
    s->embed_first = j->next;
    if (!j->next) s->embed_last = NULL;
    s->embed_waiting--;
    pthread_mutex_unlock(&s->embed_lock);
    pthread_mutex_lock(&j->lock);
    j->left = 0;
    serve_job_wake(j);
    pthread_mutex_unlock(&j->lock);
    serve_job_release(j);
}

bool serve_embed_step(serve_server *s) {
    pthread_mutex_lock(&s->embed_lock);
    serve_job *j = s->embed_first;
    pthread_mutex_unlock(&s->embed_lock);
    if (!j) return false;
    pthread_mutex_lock(&j->lock);
    int  first = j->count - j->left, n = j->left < PIECE ? j->left : PIECE;
    bool gone = j->gone;
    pthread_mutex_unlock(&j->lock);
    const char *texts[PIECE];
    size_t      bytes[PIECE];
    int64_t     tokens = 0;
    for (int i = 0; i < n; i++) {
        texts[i] = json_string_value(text_of(j, first + i));
        bytes[i] = json_string_length(text_of(j, first + i));
    }
    bool ok = !gone && qp_embed(s->weights, s->tokenizer, n, texts, bytes, s->embed,
                                j->vectors + (size_t)first * (size_t)j->width, &tokens) == QP_OK;
    pthread_mutex_lock(&j->lock);
    if (ok) j->left -= n, j->choices[0].result.prompt_tokens += tokens;
    if (!ok && !gone) strncpy(j->error, qp_error(s->ctx), sizeof j->error - 1);
    bool done = !ok || !j->left;
    if (done) j->left = 1; /* finish tells */
    pthread_mutex_unlock(&j->lock);
    qp_clear(s->ctx);
    if (done) finish(s, j);
    return true;
}

/* ---- Results -------------------------------------------------------------------------------------- */

static json_t *in_base64(const float *v, int64_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t    *p = (const uint8_t *)v; /* little-endian, as all machines that this is built for */
    size_t            bytes = (size_t)n * sizeof *v, at = 0;
    char             *out = malloc(bytes / 3 * 4 + 8);
    for (size_t i = 0; out && i < bytes; i += 3) {
        size_t   left = bytes - i;
        uint32_t x =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        out[at++] = digits[x >> 18];
        out[at++] = digits[x >> 12 & 63];
        out[at++] = left > 1 ? digits[x >> 6 & 63] : '=';
        out[at++] = left > 2 ? digits[x & 63] : '=';
    }
    json_t *text = out ? json_stringn(out, at) : NULL;
    free(out);
    return text;
}

static json_t *in_numbers(const float *v, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real(v[i]));
    return list;
}

json_t *serve_embed_result(serve_job *j) {
    json_t    *data = json_array();
    json_int_t tokens = j->choices[0].result.prompt_tokens;
    for (int i = 0; i < j->count; i++) {
        const float *v = j->vectors + (size_t)i * (size_t)j->width;
        json_array_append_new(data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", i, "embedding",
                                              j->base64 ? in_base64(v, j->width) : in_numbers(v, j->width)));
    }
    return json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", j->model,
                     "usage", "prompt_tokens", tokens, "total_tokens", tokens);
}
