/* quipu generate: a prompt continued, token by token. */
#define _GNU_SOURCE /* isatty */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/json.h"
#include "cli/open.h"

typedef struct {
    cli      *c;
    qp_ctx   *ctx;
    cli_model m;
    bool      ids_only, json;
    qp_ids    prompt;
    qp_text   text; /* of --json */
    json_t   *ids, *logprobs;
    int64_t   tokens;
    qp_ids    written;
    bool      compared;
    double    plain; /* tokens/s without drafts */
    int64_t   same;  /* tokens at the beginning that are the same without drafts */
    char      last;  /* byte written */
} job;

/* ---- The prompt ---------------------------------------------------------------------------------- */

/* A table of positions ends; other encodings go on, if not well, and transformers lets them. */
static int64_t positions_of(const job *j) {
    static const char *const ending[] = {"learned", "multiplicative", "floater"};
    bool                     ends = false;
    for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) ends |= !strcmp(j->m.info.position, ending[i]);
    return ends ? j->m.info.positions : INT64_MAX / 2;
}

static bool read_prompt(job *j) {
    const char *given = cli_text(j->c, "prompt");
    qp_text     text = {0};
    bool        ok = !given || !strcmp(given, "-") ? cli_read_text(j->ctx, "-", &text)
                                                   : cli_append(j->ctx, &text, given, strlen(given));
    if (ok && j->ids_only)
        ok = cli_append(j->ctx, &text, "", 1) &&
             cli_parse_ids(j->ctx, text.data, j->m.info.vocabulary, "prompt", &j->prompt);
    else if (ok)
        ok = qp_encode(j->ctx, j->m.tokenizer, text.data ? text.data : "", text.count,
                       (qp_encode_options){.wrap = true}, &j->prompt) == QP_OK;
    qp_text_free(&text);
    /* an empty prompt: what stands before a text, else what ends the one before it */
    int32_t first = j->m.begin >= 0 ? j->m.begin : j->m.end_count ? j->m.ends[0] : -1;
    if (ok && !j->prompt.count && first >= 0 && first < j->m.info.vocabulary)
        ok = cli_append_id(j->ctx, &j->prompt, first);
    if (ok && !j->prompt.count)
        qp_fail(j->ctx, QP_ERR_ARGUMENT, "the prompt is empty, and the model has no token for that");
    if (ok && j->prompt.count > positions_of(j))
        qp_fail(j->ctx, QP_ERR_ARGUMENT, "the prompt has %" PRId64 " tokens, the model %" PRId64 " positions",
                j->prompt.count, j->m.info.positions);
    return !qp_failed(j->ctx);
}

/* ---- Writing -------------------------------------------------------------------------------------- */

static bool on_text(void *user, const char *text, size_t bytes) {
    job *j = user;
    if (j->json) return cli_append(j->ctx, &j->text, text, bytes);
    if (j->ids_only) return true;
    j->last = text[bytes - 1];
    return fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
}

/* {"id": .., "logprob": .., "top": [{"id": .., "logprob": ..}, ..]} */
static bool note_logprobs(job *j, const qp_token *token) {
    json_t *top = json_array();
    for (int i = 0; i < token->top_count; i++)
        json_array_append_new(top, json_pack("{s:i, s:o}", "id", token->top[i].id, "logprob",
                                             cli_json_logprob(token->top[i].logprob)));
    return json_array_append_new(j->logprobs, json_pack("{s:i, s:o, s:o}", "id", token->id, "logprob",
                                                        cli_json_logprob(token->logprob), "top", top)) == 0;
}

static bool on_token(void *user, const qp_token *token) {
    job    *j = user;
    int32_t id = token->id;
    if (cli_flag(j->c, "compare") && !cli_append_id(j->ctx, &j->written, id)) return false;
    if (j->logprobs && !note_logprobs(j, token)) return false;
    if (j->ids) return json_array_append_new(j->ids, json_integer(id)) == 0;
    if (!j->ids_only) return true;
    j->last = '0';
    return printf(j->tokens++ ? " %" PRId32 : "%" PRId32, id) > 0 && fflush(stdout) == 0;
}

static double rate(double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

/* Tokens that one reading of the weights gave: 1 without drafts. */
static double per_call(const qp_generation *g) {
    return g->calls ? (double)(g->calls + g->accepted) / (double)g->calls : 0;
}

static json_t *describe_drafts(const job *j, const qp_generation *g, double speed) {
    return json_pack("{s:I, s:I, s:I, s:f, s:o, s:o}", "calls", (json_int_t)g->calls, "drafted",
                     (json_int_t)g->drafted, "accepted", (json_int_t)g->accepted, "tokens_per_call",
                     per_call(g), "speedup", cli_json_number(j->plain > 0 ? speed / j->plain : NAN),
                     "same_text", j->compared ? json_boolean(j->same == g->tokens) : json_null());
}

/* On stderr. What --compare asks for is no remark: it is told wherever that goes. */
static void tell_drafts(const job *j, const qp_generation *g, double speed) {
    char text[160];
    snprintf(text, sizeof text,
             "drafts: %" PRId64 " of %" PRId64 " tokens kept, %.2f tokens for each reading of the weights",
             g->accepted, g->drafted, per_call(g));
    if (j->compared)
        fprintf(stderr, "quipu: %s\nquipu: without: %.1f tokens/s, so %.2f times as fast; %s text\n", text,
                j->plain, rate(speed, j->plain), j->same == g->tokens ? "the same" : "another");
    else cli_remark(j->c, "%s", text);
}

static int report(job *j, const qp_generation *g) {
    static const char *const reasons[] = {[QP_STOP_LENGTH] = "length",
                                          [QP_STOP_END_TOKEN] = "end",
                                          [QP_STOP_TEXT] = "stop",
                                          [QP_STOP_CALLBACK] = "output"};
    double                   speed = rate((double)g->tokens, g->seconds);
    if (j->json) {
        json_t *all = json_pack("{s:I, s:I, s:f, s:f, s:f, s:s}", "prompt_tokens", (json_int_t)g->prompt_tokens,
                                "tokens", (json_int_t)g->tokens, "prompt_seconds", g->prompt_seconds, "seconds",
                                g->seconds, "tokens_per_second", speed, "reason", reasons[g->reason]);
        if (all) json_object_set(all, "ids", j->ids);
        if (all && j->logprobs) json_object_set(all, "logprobs", j->logprobs);
        if (all && cli_given(j->c, "draft")) json_object_set_new(all, "draft", describe_drafts(j, g, speed));
        if (all && !j->ids_only) json_object_set_new(all, "text", cli_json_text(j->text.data, j->text.count));
        return cli_json_print(all);
    }
    /* the text is the whole output; only a terminal's prompt wants a line of its own */
    if (j->last && j->last != '\n' && (j->ids_only || isatty(1))) putchar('\n');
    cli_remark(j->c, "%" PRId64 " tokens, %.1f tokens/s (prompt: %" PRId64 ", %.1f tokens/s)", g->tokens, speed,
               g->prompt_tokens, rate((double)g->prompt_tokens, g->prompt_seconds));
    if (cli_given(j->c, "draft")) tell_drafts(j, g, speed);
    return 0;
}

static bool on_same(void *user, const qp_token *token) {
    job *j = user;
    if (j->same < j->written.count && j->written.data[j->same] == token->id) j->same++;
    return true;
}

/* Once more without drafts, for its speed. */
static bool compare(job *j, qp_session *session, qp_generate_options options) {
    qp_generation g;
    options.drafter = NULL;
    options.on_text = NULL;
    options.on_token = on_same;
    if (qp_session_truncate(session, 0, 0) != QP_OK ||
        qp_generate(session, j->m.tokenizer, j->prompt.data, j->prompt.count, options, &g) != QP_OK)
        return false;
    j->plain = rate((double)g.tokens, g.seconds);
    j->compared = true;
    return true;
}

static qp_drafter *open_medusa(qp_session *session, const char *path, qp_drafter_options options) {
    qp_medusa *m = qp_medusa_load(qp_session_model(session), path, false);
    return m ? qp_drafter_medusa(session, m, options) : NULL;
}

static qp_drafter *open_mtp(qp_session *session, const char *path, qp_drafter_options options) {
    qp_mtp *m = qp_mtp_load(qp_session_model(session), path, false);
    return m ? qp_drafter_mtp(session, m, options) : NULL;
}

typedef qp_drafter *(*opener)(qp_session *session, const char *path, qp_drafter_options options);

/* What finetune made: a folder with a file of either name, or Medusa's heads as such a file or beside the model. */
static opener find_learnt(const job *j, const char *name, char path[4096]) {
    char        buffer[4096];
    bool        beside = !strcmp(name, "medusa");
    const char *folder = beside ? cli_model_path(cli_text(j->c, "model"), buffer) : name;
    size_t      n = strlen(name), suffix = strlen(".safetensors");
    if (n > suffix && n < 4096 && !strcmp(name + n - suffix, ".safetensors"))
        return strcpy(path, name), open_medusa;
    if (snprintf(path, 4096, "%s/mtp.safetensors", folder) < 4096 && !beside && access(path, R_OK) == 0)
        return open_mtp;
    bool fits = snprintf(path, 4096, "%s/medusa_lm_head.safetensors", folder) < 4096;
    return fits && (beside || access(path, R_OK) == 0) ? open_medusa : NULL;
}

/* What --draft asks for, in *drafter. */
static bool open_drafter(job *j, qp_session *session, qp_drafter **drafter) {
    const char        *name = cli_text(j->c, "draft");
    qp_drafter_options options = {.depth = cli_int(j->c, "draft-depth")};
    cli_model          draft;
    char               path[4096];
    opener             learnt;
    if (!name) return true;
    if (!strcmp(name, "lookup")) *drafter = qp_drafter_lookup(session, options);
    else if (!strcmp(name, "mtp")) *drafter = qp_drafter_mtp(session, NULL, options);
    else if ((learnt = find_learnt(j, name, path))) *drafter = learnt(session, path, options);
    else if (cli_model_open(j->ctx, name, false, &draft))
        *drafter = qp_drafter_model(session, draft.model, options);
    return *drafter != NULL;
}

static int generate(job *j) {
    cli        *c = j->c;
    int64_t     n = cli_int(c, "tokens"), room = positions_of(j) - j->prompt.count + 1;
    qp_sampling sampling = {.temperature = cli_number(c, "temp"),
                            .top_k = cli_int(c, "top-k"),
                            .top_p = cli_number(c, "top-p"),
                            .min_p = cli_number(c, "min-p"),
                            .typical_p = cli_number(c, "typical-p"),
                            .frequency_penalty = cli_number(c, "frequency-penalty"),
                            .presence_penalty = cli_number(c, "presence-penalty"),
                            .repetition_penalty = cli_number(c, "repeat-penalty")};
    if (n > room) {
        cli_remark(c, "the model has %" PRId64 " positions: at most %" PRId64 " tokens", j->m.info.positions,
                   room);
        n = room;
    } else if (j->prompt.count + n > j->m.info.positions) {
        cli_remark(c, "the model was made for %" PRId64 " positions", j->m.info.positions);
    }
    qp_generate_options options = {.max_tokens = n,
                                   .sampling = sampling,
                                   .seed = (uint64_t)cli_int(c, "seed"),
                                   .ends = j->m.ends,
                                   .end_count = cli_flag(c, "no-end") ? 0 : j->m.end_count,
                                   .on_text = on_text,
                                   .on_token = on_token,
                                   .accept = cli_text(c, "accept"),
                                   .logprobs = cli_given(c, "logprobs"),
                                   .top = (int)cli_int(c, "logprobs"),
                                   .user = j};
    options.stop = cli_list(c, "stop", &options.stop_count);
    qp_generation result;
    qp_session   *session = cli_session(j->m.model, 1, j->prompt.count + n, cli_text(c, "kv"));
    if (!session || !open_drafter(j, session, &options.drafter) ||
        qp_generate(session, j->m.tokenizer, j->prompt.data, j->prompt.count, options, &result) != QP_OK ||
        (cli_flag(c, "compare") && !compare(j, session, options))) {
        if (j->last && j->last != '\n') putchar('\n');
        return cli_failed(j->ctx);
    }
    return report(j, &result);
}

static int run(cli *c) {
    static const char *const of_drafts[] = {"compare", "accept", "draft-depth"};
    for (int i = 0; i < 3 && !cli_given(c, "draft"); i++)
        if (cli_given(c, of_drafts[i])) return cli_usage(c, "generate: --%s goes with --draft", of_drafts[i]);
    if (cli_given(c, "logprobs") && !cli_flag(c, "json"))
        return cli_usage(c, "generate: --logprobs goes with --json");
    job j = {.c = c, .ids_only = cli_flag(c, "ids"), .json = cli_flag(c, "json")};
    if (j.ids_only && cli_given(c, "stop"))
        return cli_usage(c, "generate: --stop is a text and does not go with --ids");
    if (!(j.ctx = cli_open(c))) return 1;
    if (j.json) j.ids = json_array();
    if (j.json && cli_given(c, "logprobs")) j.logprobs = json_array();
    bool ok = cli_model_open(j.ctx, cli_text(c, "model"), !j.ids_only, &j.m) && read_prompt(&j);
    if (ok) cli_round_products(j.ctx, j.m.model);
    int status = ok ? generate(&j) : cli_failed(j.ctx);
    qp_ids_free(&j.prompt);
    qp_ids_free(&j.written);
    qp_text_free(&j.text);
    json_decref(j.ids);
    json_decref(j.logprobs);
    return status;
}

static const cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model folder or GGUF file", 0, 0, true},
    {"prompt", 'p', CLI_TEXT, "TEXT", NULL, "what is continued [stdin, also for \"-\"]", 0, 0, false},
    {"tokens", 'n', CLI_INT, "N", "128", "tokens to write at most", 0, 1e9, false},
    {"temp", 0, CLI_NUMBER, "X", "0.8", "temperature; 0: always the likeliest token", 0, 1e5, false},
    {"top-k", 0, CLI_INT, "K", "0", "of the K likeliest only; 0: all", 0, 1e9, false},
    {"top-p", 0, CLI_NUMBER, "P", "1", "of the likeliest that hold this share only; 1: all", 0, 1, false},
    {"min-p", 0, CLI_NUMBER, "P", "0", "of those at least P times the likeliest only; 0: all", 0, 1, false},
    {"repeat-penalty", 0, CLI_NUMBER, "X", "1", "above 1: what has occurred gets less likely", 0, 1e5, false},
    {"stop", 0, CLI_LIST, "TEXT", NULL, "end before any of these texts", 0, 0, false},
    {"typical-p", 0, CLI_NUMBER, "P", "1", "of the least surprising that hold this share only; 1: all", 0, 1,
     false},
    {"frequency-penalty", 0, CLI_NUMBER, "X", "0",
     "taken from a logit for each time that its token was written", -1e5, 1e5, false},
    {"presence-penalty", 0, CLI_NUMBER, "X", "0", "taken once if its token was written", -1e5, 1e5, false},
    {"kv", 0, CLI_CHOICE, "f32|bf16|f16|q8_0", "f32", "what keys and values are kept in", 0, 0, false},
    {"draft", 0, CLI_TEXT, "KIND", NULL,
     "guess ahead, same text: lookup, mtp, medusa, a folder of finetune, or a smaller MODEL", 0, 0, false},
    {"draft-depth", 0, CLI_INT, "N", "0", "tokens of a guess at most; 0: what suits the kind", 0, 63, false},
    {"compare", 0, CLI_FLAG, NULL, NULL,
     "with --draft: write it again without, and tell how much faster it was", 0, 0, false},
    {"accept", 0, CLI_CHOICE, "match|rejection|typical", "match",
     "guesses that stay: same text, same distribution, or whatever is not improbable", 0, 0, false},
    {"logprobs", 0, CLI_INT, "N", "0", "with --json: of each token and the N likeliest", 0, 1000, false},
    {"no-end", 0, CLI_FLAG, NULL, NULL, "go on behind the model's end token", 0, 0, false},
    {"ids", 0, CLI_FLAG, NULL, NULL, "prompt and output are token ids", 0, 0, false},
    {0}};

QP_VERB(generate) = {.name = "generate",
                     .summary = "continue a text",
                     .arguments = "",
                     .options = options,
                     .examples = "  quipu generate -m my-model -p \"In the beginning\" -n 200\n"
                                 "  quipu generate -m my-model -p \"The answer is\" -n 20 --temp 0\n"
                                 "  quipu generate -m my-model -p \"To be\" --draft lookup --kv bf16\n"
                                 "  quipu generate -m my-model --stop \"Q:\" < prompt.txt\n",
                     .run = run};
