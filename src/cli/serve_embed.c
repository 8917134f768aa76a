/* Embeddings: texts wait in a queue of their own, and the engine's thread takes some between its steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/serve.h"
#include "format/json.h"

#define MOST_INPUTS 2048
#define PIECE 8          /* inputs between two steps of the engine at most */
#define PIECE_BYTES 2048 /* of these, beyond the first: some 500 tokens */

static bool refuse(serve_error *e, int status, const char *code, const char *text) {
    *e = (serve_error){.status = status, .code = code};
    strncpy(e->text, text, sizeof e->text - 1);
    return false;
}

/* ---- Requests ------------------------------------------------------------------------------------- */

/* "text", [1, 2], or a list of either. */
static const json_t *input_of(const serve_job *j, int i) {
    bool several = json_is_array(j->inputs) && !json_is_integer(json_array_get(j->inputs, 0));
    return several ? json_array_get(j->inputs, (size_t)i) : j->inputs;
}

/* Text, or ids that the model has and has room for. */
static bool check_input(const serve_server *s, const json_t *input, serve_error *e) {
    qp_ids ids = {0};
    if (json_is_string(input)) return true;
    if (!json_is_array(input) || !json_array_size(input))
        return refuse(e, 400, NULL, "input: expected a text, token ids, or a list of either");
    bool ok = serve_read_ids(input, s->vocabulary, &ids, e);
    if (ok && ids.count > s->room)
        ok = refuse(e, 413, "context_length_exceeded", "input: more tokens than the model has positions");
    qp_ids_free(&ids);
    return ok;
}

/* How many inputs there are; -1 after an error. */
static int read_input(const serve_server *s, json_t *root, json_t **inputs, bool *base64, serve_error *e) {
    const json_t *encoding = json_object_get(root, "encoding_format"),
                 *size = json_object_get(root, "dimensions");
    const char *format = json_string_value(encoding);
    json_t     *input = json_object_get(root, "input");
    bool        one = !json_is_array(input) || json_is_integer(json_array_get(input, 0));
    size_t      n = one ? 1 : json_array_size(input);
    *inputs = input;
    *base64 = format && !strcmp(format, "base64");
    if (encoding && !json_is_null(encoding) && !*base64 && (!format || strcmp(format, "float")))
        return refuse(e, 400, NULL, "encoding_format: expected \"float\" or \"base64\"") - 1;
    if (size && !json_is_null(size))
        return refuse(e, 400, NULL, "dimensions: vectors are as long as the model makes them") - 1;
    if (n < 1 || n > MOST_INPUTS) return refuse(e, 400, NULL, "input: expected 1 to 2048 of them") - 1;
    for (size_t i = 0; i < n; i++)
        if (!check_input(s, one ? input : json_array_get(input, i), e)) return -1;
    return (int)n;
}

serve_job *serve_embed_submit(serve_server *s, json_t *root, serve_error *e) {
    bool         base64;
    json_t      *inputs;
    serve_params p = {.root = root, .n = 1};
    int          count = read_input(s, root, &inputs, &base64, e);
    serve_job   *j = count > 0 ? serve_job_new(&p, count) : NULL;
    if (count < 0) serve_params_free(&p);
    if (count > 0 && !j) refuse(e, 503, NULL, "out of memory");
    if (!j) return NULL;
    j->inputs = inputs;
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

/* Out of the queue, and told. */
static void finish(serve_server *s, serve_job *j) {
    serve_job *before = NULL;
    pthread_mutex_lock(&s->embed_lock);
    for (serve_job *k = s->embed_first; k != j; k = k->next) before = k;
    *(before ? &before->next : &s->embed_first) = j->next;
    if (!j->next) s->embed_last = before;
    s->embed_waiting--;
    pthread_mutex_unlock(&s->embed_lock);
    pthread_mutex_lock(&j->lock);
    j->left = 0;
    serve_job_wake(j);
    pthread_mutex_unlock(&j->lock);
    serve_job_release(j);
}

static bool is_gone(serve_job *j) {
    pthread_mutex_lock(&j->lock);
    bool gone = j->gone;
    pthread_mutex_unlock(&j->lock);
    return gone;
}

/* The first; whoever has left leaves the queue to others. Only this thread takes jobs out of it. */
static serve_job *next_job(serve_server *s) {
    pthread_mutex_lock(&s->embed_lock);
    serve_job *first = s->embed_first;
    pthread_mutex_unlock(&s->embed_lock);
    for (serve_job *j = first, *next; j; j = next) {
        pthread_mutex_lock(&s->embed_lock);
        next = j->next;
        pthread_mutex_unlock(&s->embed_lock);
        if (!is_gone(j)) continue;
        if (j == first) first = next;
        finish(s, j);
    }
    return first;
}

static bool embed_ids(serve_server *s, const json_t *list, float *out, int64_t *tokens) {
    qp_ids      ids = {0};
    serve_error e;
    if (!serve_read_ids(list, s->vocabulary, &ids, &e)) {
        qp_ids_free(&ids);
        return !qp_fail(s->ctx, QP_ERR_MEMORY, "%s", e.text);
    }
    bool      no_grad = qp_no_grad(s->ctx, true);
    qp_scope  scope = qp_enter(s->ctx);
    qp_tensor x = qp_from(s->ctx, QP_I32, 2, (int64_t[]){1, ids.count}, ids.data);
    qp_status status =
        qp_read(qp_contiguous(qp_embed_ids(s->weights, x, NULL, s->embed)), QP_F32, out, s->width);
    qp_leave(scope);
    qp_no_grad(s->ctx, no_grad);
    *tokens += ids.count;
    qp_ids_free(&ids);
    return status == QP_OK;
}

static bool embed_piece(serve_server *s, serve_job *j, int first, int n, int64_t *tokens) {
    const char *texts[PIECE];
    size_t      bytes[PIECE];
    int         count = 0; /* texts in a row */
    for (int i = 0; i < n; i++) {
        const json_t *input = input_of(j, first + i);
        int64_t       read = 0;
        float        *out = j->vectors + (size_t)(first + i - count) * (size_t)j->width;
        if (json_is_array(input)) {
            if (!embed_ids(s, input, out, tokens)) return false;
            continue;
        }
        texts[count] = json_string_value(input);
        bytes[count++] = json_string_length(input);
        if (i + 1 < n && json_is_string(input_of(j, first + i + 1))) continue;
        if (qp_embed(s->weights, s->tokenizer, count, texts, bytes, s->embed, out, &read) != QP_OK)
            return false;
        *tokens += read;
        count = 0;
    }
    return true;
}

/* An error of the context's, or vectors that JSON cannot say. */
static bool check_vectors(qp_ctx *ctx, const serve_job *j, int first, int n) {
    for (int64_t i = first * j->width; i < (first + n) * j->width && !qp_failed(ctx); i++)
        if (!isfinite(j->vectors[i]))
            qp_fail(ctx, QP_ERR_STATE,
                    "input %lld: the model's vector is not finite (`quipu verify` looks for "
                    "spoilt weights)",
                    (long long)(i / j->width));
    return !qp_failed(ctx);
}

/* How many inputs from the first on are taken at once: texts that are being written wait meanwhile. */
static int piece_of(const serve_server *s, const serve_job *j, int first, int left) {
    size_t bytes = 0;
    int    n = 0, most = left < PIECE ? left : PIECE;
    for (; n < most; n++) {
        const json_t *input = input_of(j, first + n);
        bytes += json_is_array(input) ? 4 * json_array_size(input) : json_string_length(input);
        if (n && s->engine && bytes > PIECE_BYTES) break;
    }
    return n;
}

bool serve_embed_step(serve_server *s) {
    serve_job *j = next_job(s);
    if (!j) return false;
    pthread_mutex_lock(&j->lock);
    int first = j->count - j->left, n = piece_of(s, j, first, j->left);
    pthread_mutex_unlock(&j->lock);
    int64_t tokens = 0;
    bool    ok = embed_piece(s, j, first, n, &tokens) && check_vectors(s->ctx, j, first, n);
    qp_code code = qp_error_code(s->ctx);
    pthread_mutex_lock(&j->lock);
    if (ok) j->left -= n, j->choices[0].result.prompt_tokens += tokens;
    if (!ok) strncpy(j->error, qp_error(s->ctx), sizeof j->error - 1);
    j->error_status = code == QP_ERR_STATE || code == QP_ERR_MEMORY ? 500 : 400;
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
    return json_pack("{s:s, s:o, s:o, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                     cli_json_name(j->model), "usage", "prompt_tokens", tokens, "total_tokens", tokens);
}
