#include "cli/samples.h"

#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"

enum { TOKENS = 160 };

/* ---- What is continued ------------------------------------------------------------------------------ */

/* The first tokens of the validation data, which goes back to where it was. */
static void take_prompt(cli_samples *s, qp_ctx *ctx) {
    const int most = (int)(sizeof s->prompt / sizeof *s->prompt);
    int32_t   end = qp_tokenizer_end(s->set->tokenizer);
    qp_data  *data = s->set->validation;
    s->prompt[0] = end >= 0 ? end : 0;
    s->prompt_count = 1;
    if (!data) return;
    uint64_t       position = qp_data_position(data);
    qp_scope       scope = qp_enter(ctx);
    qp_record      batch = qp_data_next(data);
    qp_tensor      ids = qp_record_get(&batch, "input_ids");
    int64_t        n = qp_size(ids, 1) < most ? qp_size(ids, 1) : most;
    const int64_t *p = qp_data_of(ids);
    for (int i = 0; p && i < n; i++) s->prompt[i] = (int32_t)p[i];
    if (p) s->prompt_count = (int)n;
    qp_leave(scope);
    if (qp_data_seek(data, position) != QP_OK) return; /* the failure is stored */
    if (qp_decode(ctx, s->set->tokenizer, s->prompt, s->prompt_count, true, &s->prompt_text) != QP_OK) return;
}

/* ---- The file ----------------------------------------------------------------------------------------- */

/* The lines of steps up to `step`; one that was cut off is no line. */
static bool read_lines(cli_samples *s, int64_t step) {
    char  *line = NULL;
    size_t size = 0;
    FILE  *file = step > 0 ? fopen(s->path, "r") : NULL;
    bool   ok = true;
    while (file && ok && getline(&line, &size, file) > 0) {
        json_t *value = qpi_json_parse(s->path, line, strlen(line), NULL);
        bool    kept = value && json_integer_value(json_object_get(value, "step")) <= step;
        ok = !kept || json_array_append(s->lines, value) == 0;
        json_decref(value);
    }
    free(line);
    if (file) fclose(file);
    return ok;
}

static bool write_lines(cli_samples *s, qp_ctx *ctx) {
    qpi_buffer text = {0};
    for (size_t i = 0; i < json_array_size(s->lines); i++) {
        qpi_json_print(&text, json_array_get(s->lines, i), 0);
        qpi_put_text(&text, "\n");
    }
    bool ok = !text.failed && qpi_put_text(&text, "");
    if (!ok) qpi_fail_memory(&ctx->error, s->path);
    ok = ok && qpi_write_file(s->path, text.data, text.count, &ctx->error);
    qpi_buffer_free(&text);
    return ok;
}

bool cli_samples_open(cli_samples *s, const qp_training_set *set, uint64_t seed, const char *out,
                      int64_t step) {
    qp_ctx *ctx = qp_model_ctx(set->model);
    *s = (cli_samples){.set = set, .seed = seed, .lines = json_array()};
    if (snprintf(s->path, sizeof s->path, "%s/samples.jsonl", out) >= (int)sizeof s->path)
        return !qp_fail(ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", out);
    if (!s->lines || !read_lines(s, step)) return !qpi_fail_memory(&ctx->error, s->path);
    take_prompt(s, ctx);
    return !qp_failed(ctx);
}

void cli_samples_close(cli_samples *s) {
    json_decref(s->lines);
    qp_text_free(&s->prompt_text);
}

/* ---- Writing ------------------------------------------------------------------------------------------ */

static bool add_text(void *user, const char *text, size_t bytes) {
    qpi_buffer *all = user;
    return qpi_buffer_put(all, text, bytes);
}

/* The model's continuation of the prompt; false where it has no step form or after an error. */
static bool continue_prompt(cli_samples *s, int64_t step, qpi_buffer *text) {
    qp_model           *m = s->set->model;
    qp_ctx             *ctx = qp_model_ctx(m);
    int64_t             positions = qp_model_info_of(m).positions, room = positions - s->prompt_count;
    int64_t             tokens = room < TOKENS ? room : TOKENS;
    qp_generate_options options = {.max_tokens = tokens,
                                   .sampling = {.temperature = 0.8, .top_p = 0.95},
                                   .seed = (uint64_t)step,
                                   .on_text = add_text,
                                   .user = text};
    qp_generation       result;
    if (tokens < 1) return false;
    qp_session *session = qp_session_new(m, 1, s->prompt_count + tokens, (qp_session_options){0});
    bool ok = session &&
              qp_generate(session, s->set->tokenizer, s->prompt, s->prompt_count, options, &result) == QP_OK;
    qp_session_close(session);
    if (!session && qp_error_code(ctx) == QP_ERR_UNSUPPORTED) qp_clear(ctx);
    return ok && text->count && !text->failed;
}

const json_t *cli_samples_add(cli_samples *s, int64_t step) {
    qp_model  *m = s->set->model;
    qp_ctx    *ctx = qp_model_ctx(m);
    uint64_t   random = qp_random_position(ctx);
    qpi_buffer text = {0};
    json_t    *line = NULL;
    if (qp_failed(ctx)) return NULL;
    qp_set_training(qp_model_module(m), false);
    if (s->set->ema) qp_ema_swap(s->set->ema);
    bool ok = continue_prompt(s, step, &text);
    if (s->set->ema) qp_ema_swap(s->set->ema);
    qp_set_training(qp_model_module(m), true);
    qp_set_random(ctx, s->seed, random);
    if (ok) {
        line = json_pack("{s:I, s:o, s:o}", "step", (json_int_t)step, "prompt",
                         cli_json_text(s->prompt_text.data, s->prompt_text.count), "text",
                         cli_json_text(text.data, text.count));
        if (!line || json_array_append_new(s->lines, line) != 0) qpi_fail_memory(&ctx->error, s->path);
        else write_lines(s, ctx);
    }
    qpi_buffer_free(&text);
    return qp_failed(ctx) ? NULL : line;
}
