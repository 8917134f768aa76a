/* quipu train: a model from a preset or config on text, with progress and states to resume. */
#define _GNU_SOURCE /* readlink, strdup */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/config.h"
#include "cli/json.h"
#include "cli/report.h"
#include "cli/samples.h"
#include "format/json.h"

typedef struct {
    cli            *c;
    qp_ctx         *ctx;
    qp_training_set set;
    qp_board       *board;
    cli_progress    progress;
    qp_train_event  last;
    double          first_loss, best_validation, started;
    int64_t         best_step, tokens;
    cli_samples     samples;
    bool            talks;
} training;

/* ---- Config ---------------------------------------------------------------------------------- */

/* What the tokenizer and the length of the data say of a preset, under the keys of --set. */
static bool fit_preset(training *t, json_t *config, const qp_tokenizer *tokenizer) {
    const char *positions = json_object_get(config, "n_positions") ? "n_positions" : "max_position_embeddings";
    int64_t     length = cli_int(t->c, "length");
    int32_t     end = qp_tokenizer_end(tokenizer);
    if (json_integer_value(json_object_get(config, positions)) < length)
        json_object_set_new(config, positions, json_integer(length));
    json_object_set_new(config, "vocab_size", json_integer(qp_tokenizer_size(tokenizer)));
    if (end >= 0) {
        json_object_set_new(config, "bos_token_id", json_integer(end));
        json_object_set_new(config, "eos_token_id", json_integer(end));
    }
    return cli_config_set(t->c, config);
}

static qp_model *make_model(training *t, json_t *config, const qp_tokenizer *tokenizer) {
    if (!cli_given(t->c, "config") && !fit_preset(t, config, tokenizer)) return NULL;
    if (cli_int(t->c, "mtp"))
        json_object_set_new(config, "num_nextn_predict_layers", json_integer(cli_int(t->c, "mtp")));
    char     *text = json_dumps(config, JSON_COMPACT);
    qp_model *m =
        text ? qp_model_new(t->ctx, cli_given(t->c, "config") ? cli_text(t->c, "config") : "config", text)
             : NULL;
    free(text);
    if (!m) {
        cli_failed(t->ctx);
        return NULL;
    }
    if (!qp_model_info_of(m).causal) {
        cli_error("%s sees the tokens that it would be trained to predict: it is not causal",
                  qp_model_info_of(m).model_type);
        return NULL;
    }
    if (qp_model_info_of(m).vocabulary < qp_tokenizer_size(tokenizer)) {
        cli_error("the model's vocabulary is %lld, the tokenizer has %lld ids",
                  (long long)qp_model_info_of(m).vocabulary, (long long)qp_tokenizer_size(tokenizer));
        return NULL;
    }
    return m;
}

/* ---- Tokenizer and data ------------------------------------------------------------------------- */

static qp_tokenizer *make_tokenizer(training *t, int count, const char **files) {
    const char *given = cli_text(t->c, "tokenizer");
    char        saved[4096];
    struct stat st;
    snprintf(saved, sizeof saved, "%s/latest/tokenizer.json", cli_text(t->c, "out"));
    if (cli_flag(t->c, "resume") && stat(saved, &st) == 0) return qp_tokenizer_load(t->ctx, saved);
    if (!strcmp(given, "byte")) return qp_tokenizer_bytes(t->ctx);
    if (strcmp(given, "bpe")) return qp_tokenizer_load(t->ctx, given);
    if (t->talks) fprintf(stderr, "training a tokenizer of %lld tokens\n", (long long)cli_int(t->c, "vocab"));
    return qp_tokenizer_train(t->ctx, count, files, (qp_bpe_options){.size = cli_int(t->c, "vocab")});
}

/* ---- Progress -------------------------------------------------------------------------------------- */

static void sample(training *t, int64_t step) {
    const json_t *line = cli_samples_add(&t->samples, step);
    if (line && t->board)
        qp_board_text(t->board, "sample", step, json_string_value(json_object_get(line, "text")));
}

static bool on_step(void *user, const qp_train_event *e) {
    training *t = user;
    char      memory[32];
    double    speed = e->seconds > 0 ? (double)e->tokens / e->seconds : 0;
    if (t->tokens == 0) t->first_loss = e->loss;
    t->tokens += e->tokens;
    t->last = *e;
    if (isfinite(e->validation) && !(t->best_validation <= e->validation)) {
        t->best_validation = e->validation;
        t->best_step = e->step;
    }
    if (cli_int(t->c, "sample-every") && e->step % cli_int(t->c, "sample-every") == 0 &&
        e->step < t->progress.total)
        sample(t, e->step);
    cli_progress_show(&t->progress, e->step, "loss %.4f  %.0f tokens/s  %s ", e->loss, speed,
                      cli_bytes((double)qp_stats_of(t->ctx).peak_bytes, memory));
    bool line = e->step % 100 == 0 || e->step == t->progress.total || isfinite(e->validation);
    if (!t->talks || !line) return true;
    if (t->progress.on) fputc('\r', stderr);
    fprintf(stderr, "step %-6lld loss %.4f", (long long)e->step, e->loss);
    if (isfinite(e->validation))
        fprintf(stderr, "  validation %.4f (perplexity %.2f)", e->validation, exp(e->validation));
    fprintf(stderr, "  lr %.2e  %.0f tokens/s%*s\n", e->lr, speed, t->progress.on ? 24 : 0, "");
    return true;
}

static int report(training *t, qp_model *m) {
    char   duration[32];
    double seconds = cli_now() - t->started;
    if (cli_flag(t->c, "json")) {
        cli_json_print(json_pack(
            "{s:I, s:o, s:o, s:o, s:I, s:I, s:f, s:I, s:o}", "step", (json_int_t)t->last.step, "first_loss",
            cli_json_number(t->first_loss), "loss", cli_json_number(t->last.loss), "validation_loss",
            cli_json_number(t->best_validation), "tokens", (json_int_t)t->tokens, "parameters",
            (json_int_t)qp_model_info_of(m).parameters, "seconds", seconds, "peak_bytes",
            (json_int_t)qp_stats_of(t->ctx).peak_bytes, "out", cli_json_name(cli_text(t->c, "out"))));
    } else if (t->talks && !t->tokens) {
        fprintf(stderr, "nothing to do: %s has done its %lld steps (--steps counts from the start)\n",
                cli_text(t->c, "out"), (long long)cli_int(t->c, "steps"));
    } else if (t->talks) {
        const char *out = cli_text(t->c, "out");
        if (t->last.step < t->progress.total)
            fprintf(stderr, "stopped early: no lower validation loss in %lld validations\n",
                    (long long)cli_int(t->c, "patience"));
        fprintf(stderr, "%s: loss %.4f -> %.4f in %s; the model is in %s, a report in %s/report.html\n",
                qp_model_info_of(m).model_type, t->first_loss, t->last.loss, cli_duration(seconds, duration),
                out, out);
        if (cli_int(t->c, "patience"))
            fprintf(stderr, "the state of the lowest validation loss is %s/best\n", out);
        if (t->set.ema)
            fprintf(stderr, "the means of the weights, which validation measures, are in %s/latest/ema\n", out);
    }
    return 0;
}

/* ---- The verb ----------------------------------------------------------------------------------------- */

/* PATTERN:lr=X,decay=Y, either of the two or both, into a group; cuts text up. */
static bool read_group(training *t, char *text, qp_param_group *group) {
    char *colon = strrchr(text, ':'), *rest = colon ? colon + 1 : text, *end = rest;
    *group = (qp_param_group){text, 1, cli_number(t->c, "weight-decay")};
    for (; colon && colon > text && *rest; rest = end + (*end == ',')) {
        double *value = !strncmp(rest, "lr=", 3)      ? &group->lr
                        : !strncmp(rest, "decay=", 6) ? &group->weight_decay
                                                      : NULL;
        char   *number = strchr(rest, '=');
        if (!value || !number) break;
        *value = strtod(number + 1, &end);
        if (end == number + 1 || (*end && *end != ',') || !isfinite(*value) || *value < 0) break;
    }
    if (colon && colon > text && colon[1] && !*rest) {
        *colon = 0;
        return true;
    }
    cli_usage(t->c, "--group %s: expected PATTERN:lr=X,decay=Y", text);
    return false;
}

static qp_optim *make_optimizer(training *t, qp_model *m, qp_param_groups groups) {
    double lr = cli_number(t->c, "lr"), clip = cli_number(t->c, "clip"),
           decay = cli_number(t->c, "weight-decay");
    if (cli_choice(t->c, "optimizer") == 1)
        return qp_sgd(
            qp_model_params(m),
            (qp_sgd_options){.lr = lr, .momentum = 0.9, .weight_decay = decay, .clip = clip, .groups = groups});
    return qp_adamw(qp_model_params(m), (qp_adamw_options){.lr = lr,
                                                           .beta1 = cli_number(t->c, "beta1"),
                                                           .beta2 = cli_number(t->c, "beta2"),
                                                           .weight_decay = decay,
                                                           .clip = clip,
                                                           .groups = groups});
}

/* With the groups that are given. False: wrong usage was reported, or an error is stored. */
static bool make_optimizer_and_mean(training *t) {
    int             count;
    const char    **given = cli_list(t->c, "group", &count);
    qp_param_group *groups = calloc((size_t)count + 1, sizeof *groups);
    char          **texts = calloc((size_t)count + 1, sizeof *texts);
    bool            ok = groups && texts;
    if (!ok) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: groups");
    for (int i = 0; ok && i < count; i++) {
        if (!(texts[i] = strdup(given[i]))) qp_fail(t->ctx, QP_ERR_MEMORY, "out of memory: groups");
        ok = texts[i] && read_group(t, texts[i], &groups[i]);
    }
    if (ok) t->set.optim = make_optimizer(t, t->set.model, (qp_param_groups){count, groups});
    if (ok && cli_number(t->c, "ema") > 0) t->set.ema = qp_ema_new(t->set.model, cli_number(t->c, "ema"));
    for (int i = 0; texts && i < count; i++) free(texts[i]);
    free(texts);
    free(groups);
    return ok && !qp_failed(t->ctx);
}

static qp_schedule schedule_of(training *t) {
    return (qp_schedule){.kind = (qp_schedule_kind)cli_choice(t->c, "schedule"),
                         .lr = cli_number(t->c, "lr"),
                         .warmup = cli_int(t->c, "warmup"),
                         .steps = cli_int(t->c, "steps"),
                         .floor = cli_number(t->c, "lr-floor")};
}

/* The last step of the newest state of --resume, 0 without one. */
static int64_t resumed_step(training *t) {
    char    path[4096], target[64] = "";
    ssize_t n;
    snprintf(path, sizeof path, "%s/latest", cli_text(t->c, "out"));
    if (!cli_flag(t->c, "resume") || (n = readlink(path, target, sizeof target - 1)) < 0) return 0;
    target[n] = 0;
    return !strncmp(target, "step-", 5) ? strtoll(target + 5, NULL, 10) : 0;
}

static void open_board(training *t) {
    char path[4096];
    if (!cli_flag(t->c, "tensorboard")) return;
    const char *out = cli_text(t->c, "out");
    if (mkdir(out, 0777) != 0 && errno != EEXIST) return; /* the training reports it */
    snprintf(path, sizeof path, "%s/tensorboard", out);
    t->board = qp_board_open(t->ctx, path, resumed_step(t));
    if (!t->board) return;
    char *text = malloc(strlen(qp_model_config(t->set.model)) + 32);
    if (!text) return;
    sprintf(text, "```\n%s\n```", qp_model_config(t->set.model));
    qp_board_text(t->board, "config", 0, text);
    free(text);
}

static int interrupted(training *t) {
    const char *out = cli_text(t->c, "out");
    cli_error("interrupted after step %lld of %lld; saved in %s/latest: the same command with --resume goes on",
              (long long)t->last.step, (long long)t->progress.total, out);
    return 130;
}

static int train(training *t) {
    static const qp_dtype precisions[] = {QP_F32, QP_BF16, QP_F16}; /* as --precision names them */
    qp_schedule           schedule = schedule_of(t);
    t->started = cli_now();
    t->first_loss = t->best_validation = NAN;
    if (t->talks)
        fprintf(stderr, "%s, %lld parameters, %lld batches an epoch\n",
                qp_model_info_of(t->set.model).model_type, (long long)qp_model_info_of(t->set.model).parameters,
                (long long)qp_data_batches(t->set.data));
    open_board(t);
    cli_samples_open(&t->samples, &t->set, (uint64_t)cli_int(t->c, "seed"), cli_text(t->c, "out"),
                     resumed_step(t));
    t->progress = cli_progress_start(t->c, schedule.steps);
    qp_status status =
        qp_train(t->set, (qp_train_options){.schedule = schedule,
                                            .accumulate = cli_int(t->c, "accumulate"),
                                            .validate_every = cli_int(t->c, "validate-every"),
                                            .validate_batches = cli_int(t->c, "validate-batches"),
                                            .save_every = cli_int(t->c, "save-every"),
                                            .keep = (int)cli_int(t->c, "keep"),
                                            .out = cli_text(t->c, "out"),
                                            .resume = cli_flag(t->c, "resume"),
                                            .patience = cli_int(t->c, "patience"),
                                            .precision = precisions[cli_choice(t->c, "precision")],
                                            .board = t->board,
                                            .histogram_every = cli_int(t->c, "histograms"),
                                            .on_step = on_step,
                                            .user = t});
    cli_progress_end(&t->progress);
    if (!status && t->tokens) sample(t, t->last.step);
    if (!status && t->tokens) report_write(t->set.model, t->c, t->samples.lines);
    cli_samples_close(&t->samples);
    qp_board_close(t->board);
    if (status == QP_ERR_CANCELLED) return interrupted(t);
    return qp_failed(t->ctx) ? cli_failed(t->ctx) : report(t, t->set.model);
}

static int run(cli *c) {
    training t = {.c = c, .ctx = cli_open(c), .talks = !cli_flag(c, "quiet") && !cli_flag(c, "json")};
    if (!t.ctx) return 1;
    int          count, validation_count;
    const char **files = cli_list(c, "data", &count),
               **validation = cli_list(c, "validation", &validation_count);
    json_t *config = cli_config_read(c, NULL);
    if (!config) return 1;
    qp_tokenizer *tokenizer = make_tokenizer(&t, count, files);
    t.set.tokenizer = tokenizer;
    if (tokenizer) t.set.model = make_model(&t, config, tokenizer);
    json_decref(config);
    if (!tokenizer) return cli_failed(t.ctx);
    if (!t.set.model) return 1;
    qp_set_grad_checkpoint(t.set.model, cli_flag(c, "grad-checkpoint"));
    t.set.data = qp_data_open(t.ctx, count, files,
                              (qp_data_options){.batch = cli_int(c, "batch"),
                                                .length = cli_int(c, "length"),
                                                .tokenizer = tokenizer,
                                                .seed = (uint64_t)cli_int(c, "seed"),
                                                .field = cli_text(c, "field"),
                                                .validation = validation_count ? 0 : cli_number(c, "holdout"),
                                                .validation_paths = validation,
                                                .validation_count = validation_count});
    if (t.set.data) t.set.validation = qp_data_validation(t.set.data);
    if (!qp_failed(t.ctx) && !make_optimizer_and_mean(&t)) return qp_failed(t.ctx) ? cli_failed(t.ctx) : 2;
    return qp_failed(t.ctx) ? cli_failed(t.ctx) : train(&t);
}

static const char schedules[] = ""
#define X(name, text) "|" text
    QP_SCHEDULES(X)
#undef X
    ;

static const cli_option options[] = {
    {"preset", 0, CLI_TEXT, "NAME", "llama", "start from this preset's config (quipu list presets)", 0, 0,
     false},
    {"config", 0, CLI_TEXT, "FILE", NULL, "start from a config.json instead", 0, 0, false},
    {"set", 0, CLI_LIST, "KEY=VALUE", NULL, "change a key of the config", 0, 0, false},
    {"data", 0, CLI_LIST, "FILE", NULL, "text, or .jsonl with a text field", 0, 0, true},
    {"field", 0, CLI_TEXT, "NAME", "text", "field of JSON lines", 0, 0, false},
    {"validation", 0, CLI_LIST, "FILE", NULL, "validation data of its own", 0, 0, false},
    {"holdout", 0, CLI_NUMBER, "SHARE", "0.02", "without --validation: this share of the data", 0, 0.9, false},
    {"tokenizer", 0, CLI_TEXT, "WHAT", "bpe", "byte, bpe (trained from the data), or a tokenizer.json", 0, 0,
     false},
    {"vocab", 0, CLI_INT, "N", "4096", "tokens of a trained bpe", 257, 10000000, false},
    {"out", 0, CLI_TEXT, "DIR", NULL, "folder for model, states and log.jsonl", 0, 0, true},
    {"steps", 'n', CLI_INT, "N", "1000", "length of the training", 1, 1e12, false},
    {"batch", 'b', CLI_INT, "B", "8", "sequences in a batch", 1, 1e6, false},
    {"length", 0, CLI_INT, "T", "256", "tokens in a sequence", 2, 1e7, false},
    {"accumulate", 0, CLI_INT, "N", "1", "batches for each step", 1, 1e6, false},
    {"optimizer", 0, CLI_CHOICE, "adamw|sgd", "adamw", "sgd has a momentum of 0.9", 0, 0, false},
    {"lr", 0, CLI_NUMBER, "X", "1e-3", "peak learning rate", 0, 1e6, false},
    {"schedule", 0, CLI_CHOICE, &schedules[1], "cosine", "of the learning rate behind the warmup", 0, 0, false},
    {"warmup", 0, CLI_INT, "N", "0", "steps of linear rise", 0, 1e12, false},
    {"lr-floor", 0, CLI_NUMBER, "SHARE", "0.1", "share of the peak at the end", 0, 1, false},
    {"weight-decay", 0, CLI_NUMBER, "X", "0.1", "of matrices; not of biases and norms", 0, 1e6, false},
    {"group", 0, CLI_LIST, "PATTERN:lr=X,decay=Y", NULL,
     "parameters of these names: lr times X, weight decay Y; the first holds", 0, 0, false},
    {"beta1", 0, CLI_NUMBER, "X", "0.9", "adamw", 0, 0.999999, false},
    {"beta2", 0, CLI_NUMBER, "X", "0.95", "adamw", 0, 0.999999, false},
    {"clip", 0, CLI_NUMBER, "X", "1", "largest gradient norm; 0: any", 0, 1e9, false},
    {"validate-every", 0, CLI_INT, "N", "0", "steps; 0: at the end only", 0, 1e12, false},
    {"validate-batches", 0, CLI_INT, "N", "20", "at most; 0: all", 0, 1e12, false},
    {"save-every", 0, CLI_INT, "N", "0", "steps; 0: at the end only", 0, 1e12, false},
    {"patience", 0, CLI_INT, "N", "0",
     "stop after N validations without a lower loss, keep that state as best; 0: never", 0, 1e6, false},
    {"ema", 0, CLI_NUMBER, "DECAY", "0", "mean of the weights, validated and saved as latest/ema; 0: none", 0,
     0.9999999, false},
    {"grad-checkpoint", 0, CLI_FLAG, NULL, NULL,
     "blocks keep only their input and run again in backward: less memory, a third more work", 0, 0, false},
    {"mtp", 0, CLI_INT, "N", "0",
     "modules that learn to predict so many tokens further, for generate --draft mtp", 0, 8, false},
    {"precision", 0, CLI_CHOICE, "fp32|bf16|fp16", "fp32", "that matrix products round their inputs to", 0, 0,
     false},
    {"keep", 0, CLI_INT, "N", "2", "newest states to keep; 0: all", 0, 1e6, false},
    {"sample-every", 0, CLI_INT, "N", "0",
     "steps; text that the model writes, for the report; 0: at the end only", 0, 1e12, false},
    {"tensorboard", 0, CLI_FLAG, NULL, NULL, "event files in DIR/tensorboard", 0, 0, false},
    {"histograms", 0, CLI_INT, "N", "0", "with --tensorboard: steps; weights and gradients; 0: none", 0, 1e12,
     false},
    {"resume", 0, CLI_FLAG, NULL, NULL, "go on from the newest state in --out", 0, 0, false},
    {0}};

QP_VERB(train) = {
    .name = "train",
    .summary = "train a model on text",
    .arguments = "",
    .options = options,
    .examples =
        "  quipu train --data book.txt --out my-model\n"
        "  quipu train --preset gpt2 --set n_layer=6 --set n_embd=384 --set n_head=6 \\\n"
        "      --data train.jsonl --validation valid.jsonl --out small-gpt2 --steps 5000 --save-every 500\n"
        "  quipu train --data book.txt --out my-model --resume\n",
    .run = run};
