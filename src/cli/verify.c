/* quipu verify: a model against numbers of an independent implementation; without numbers its files alone
 * (lint.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/lint.h"
#include "cli/open.h"
#include "models/model.h"

typedef struct {
    cli     *c;
    qp_ctx  *ctx;
    qp_file *reference;
    double   tolerance, worst;
    int      compared, failed;
    json_t  *rows;
} verification;

/* max|a - b| / max|b|; the largest difference itself where b is all 0. */
static double relative_error(qp_tensor a, qp_tensor b) {
    int64_t n = qp_count(a);
    double *x = malloc((size_t)(2 * n + 1) * sizeof *x), difference = 0, scale = 0;
    if (!x) {
        qp_fail(a.ctx, QP_ERR_MEMORY, "out of memory: verify");
        return NAN;
    }
    if (qp_read(a, QP_F64, x, n) == QP_OK && qp_read(b, QP_F64, x + n, n) == QP_OK)
        for (int64_t i = 0; i < n; i++) {
            double d = fabs(x[i] - x[n + i]);
            difference = d >= difference || d != d ? d : difference;
            scale = fmax(scale, fabs(x[n + i]));
        }
    free(x);
    return scale > 0 ? difference / scale : difference;
}

static bool same_shape(qp_tensor a, qp_tensor b) {
    bool same = qp_ndim(a) == qp_ndim(b);
    for (int i = 0; same && i < qp_ndim(a); i++) same = qp_size(a, i) == qp_size(b, i);
    return same;
}

static void compare(verification *v, const char *name, qp_tensor ours) {
    qp_tensor theirs = qp_file_load(v->ctx, v->reference, name, false);
    if (qp_failed(v->ctx)) return;
    if (!same_shape(ours, theirs)) {
        qp_fail(v->ctx, QP_ERR_SHAPE, "%s: %s has another shape than the model's", cli_text(v->c, "reference"),
                name);
        return;
    }
    double error = relative_error(ours, theirs);
    if (qp_failed(v->ctx)) return;
    bool ok = error <= v->tolerance;
    v->compared++;
    v->failed += !ok;
    if (!(error <= v->worst) && !isnan(v->worst)) v->worst = error;
    if (cli_flag(v->c, "json")) json_object_set_new(v->rows, name, cli_json_number(error));
    else printf("%-10.2e %s %s\n", error, ok ? "ok  " : "FAIL", name);
}

/* Targets of the mean next-token cross-entropy: the ids one to the left; the last has none. */
static qp_tensor next_tokens(qp_tensor ids) {
    int64_t T = qp_size(ids, 1);
    return qp_pad(qp_slice(ids, 1, 1, T, 1), 1, 0, 1, -100);
}

/* The reference's name of a parameter's gradient; false if it has none. Published checkpoints
 * may lack the names' prefix. */
static bool gradient_key(const verification *v, const qp_model *m, const char *name, char key[264]) {
    size_t prefix = strlen(m->preset->prefix);
    snprintf(key, 264, "grad.%s", name);
    if (qp_file_find(v->reference, key) >= 0) return true;
    if (prefix && !strncmp(name, m->preset->prefix, prefix)) snprintf(key, 264, "grad.%s", name + prefix);
    return qp_file_find(v->reference, key) >= 0;
}

/* What the model takes, as far as the reference has it. */
static qp_record inputs_of(const verification *v) {
    static const char *const names[] = {"input_ids", "token_type_ids", "lengths", "positions"};
    qp_record                in = {0};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!i || qp_file_find(v->reference, names[i]) >= 0)
            qp_record_set(&in, names[i], qp_file_load(v->ctx, v->reference, names[i], false));
    return in;
}

/* What it gives: logits and whatever else the reference has. */
static void compare_outputs(verification *v, qp_model *m, qp_record in) {
    qp_record out = qp_forward(m, in);
    int       before = v->compared;
    for (int i = 0; i < out.count; i++)
        if (qp_file_find(v->reference, out.names[i]) >= 0) compare(v, out.names[i], out.tensors[i]);
    if (v->compared == before)
        qp_fail(v->ctx, QP_ERR_FORMAT, "%s: nothing that the model gives (logits, hidden, ..)",
                cli_text(v->c, "reference"));
}

static void compare_gradients(verification *v, qp_model *m, qp_record in) {
    const char *name;
    char        key[264];
    qp_tensor   gradient;
    int         given = 0, found = 0;
    for (int64_t i = 0; i < qp_file_count(v->reference); i++)
        given += !strncmp(qp_file_at(v->reference, i).name, "grad.", 5);
    if (!given) return;
    qp_record_set(&in, "labels", next_tokens(qp_record_get(&in, "input_ids")));
    qp_record out = qp_forward(m, in);
    if (out.count) qp_backward(qp_record_get(&out, "loss"));
    for (int64_t i = 0; !qp_failed(v->ctx); i++) {
        qp_scope s = qp_enter(v->ctx);
        bool     more = qp_model_weight(m, i, true, &name, &gradient);
        if (more && gradient_key(v, m, name, key)) {
            found++;
            if (qp_is_none(gradient))
                qp_fail(v->ctx, QP_ERR_STATE, "%s: the model gave this parameter no gradient", name);
            else compare(v, key, gradient);
        }
        qp_leave(s);
        if (!more) break;
    }
    if (found < given)
        qp_fail(v->ctx, QP_ERR_FORMAT, "%s: %d of %d gradients are of parameters that the model has not",
                cli_text(v->c, "reference"), given - found, given);
}

static int report(const verification *v) {
    if (cli_flag(v->c, "json")) {
        json_t *all =
            json_pack("{s:b, s:o, s:f, s:i, s:O}", "ok", v->failed == 0, "worst", cli_json_number(v->worst),
                      "tolerance", v->tolerance, "compared", v->compared, "errors", v->rows);
        if (cli_json_print(all)) return 1;
    } else {
        printf("%d compared, worst %.2e, tolerance %.2e: %s\n", v->compared, v->worst, v->tolerance,
               v->failed ? "FAIL" : "ok");
    }
    if (v->failed) return cli_error("%d of %d differ by more than %g", v->failed, v->compared, v->tolerance);
    return 0;
}

/* ---- Top-1 and likelihood over long texts ------------------------------------------------------------ */

typedef struct {
    int64_t agree, count;
    double  ours, theirs; /* negative log likelihood, summed */
    int64_t tokens;
} agreement;

/* Window i: the reference's top1 and nll against the model's logits. */
static void compare_window(const verification *v, qp_model *m, qp_tensor ids, qp_tensor top1, qp_tensor nll,
                           int64_t i, agreement *a) {
    int64_t   T = qp_size(ids, 1);
    qp_scope  s = qp_enter(v->ctx);
    qp_tensor row = qp_slice(ids, 0, i, i + 1, 1), logits = qp_logits(m, row);
    qp_tensor same = qp_eq(qp_argmax(logits, -1, false), qp_cast(qp_slice(top1, 0, i, i + 1, 1), QP_I64));
    a->agree += (int64_t)qp_item(qp_sum(qp_cast(same, QP_F64), 2, (int[]){0, 1}, false));
    a->count += T;
    a->ours += (double)(T - 1) * qp_item(qp_cross_entropy(logits, next_tokens(row), (qp_loss_options){0}));
    a->theirs += qp_item(qp_sum(qp_cast(qp_slice(nll, 0, i, i + 1, 1), QP_F64), 2, (int[]){0, 1}, false));
    a->tokens += T - 1;
    qp_leave(s);
}

static int report_agreement(const verification *v, const agreement *a) {
    double share = (double)a->agree / (double)a->count, ours = exp(a->ours / (double)a->tokens);
    double theirs = exp(a->theirs / (double)a->tokens), error = ours / theirs - 1;
    bool   ok = fabs(error) <= v->tolerance;
    if (cli_flag(v->c, "json")) {
        json_t *all = json_pack("{s:b, s:f, s:I, s:f, s:f, s:f, s:f}", "ok", ok, "top1_agreement", share,
                                "positions", (json_int_t)a->count, "perplexity", ours, "reference_perplexity",
                                theirs, "error", error, "tolerance", v->tolerance);
        if (cli_json_print(all)) return 1;
    } else {
        printf("top-1 agreement %.2f%% of %lld, perplexity %.4f, the reference's %.4f (%+.3f%%): %s\n",
               100 * share, (long long)a->count, ours, theirs, 100 * error, ok ? "ok" : "FAIL");
    }
    return ok ? 0 : cli_error("the perplexity differs by more than %g", v->tolerance);
}

static int compare_texts(const verification *v, qp_model *m, qp_tensor ids) {
    qp_tensor top1 = qp_file_load(v->ctx, v->reference, "top1", false);
    qp_tensor nll = qp_file_load(v->ctx, v->reference, "nll", false);
    agreement a = {0};
    if (!qp_failed(v->ctx) &&
        (qp_ndim(ids) != 2 || qp_size(ids, 1) < 2 || !same_shape(ids, top1) || qp_ndim(nll) != 2 ||
         qp_size(nll, 0) != qp_size(ids, 0) || qp_size(nll, 1) != qp_size(ids, 1) - 1))
        qp_fail(v->ctx, QP_ERR_SHAPE, "%s: expected input_ids and top1 [B, T], nll [B, T - 1]",
                cli_text(v->c, "reference"));
    qp_no_grad(v->ctx, true);
    for (int64_t i = 0; !qp_failed(v->ctx) && i < qp_size(ids, 0); i++)
        compare_window(v, m, ids, top1, nll, i, &a);
    return qp_failed(v->ctx) ? cli_failed(v->ctx) : report_agreement(v, &a);
}

static int compare_numbers(verification *v, qp_model *m) {
    qp_record in = inputs_of(v);
    bool      before = qp_no_grad(v->ctx, true);
    v->rows = json_object();
    compare_outputs(v, m, in);
    qp_no_grad(v->ctx, before);
    compare_gradients(v, m, in);
    int status = qp_failed(v->ctx) ? cli_failed(v->ctx) : report(v);
    json_decref(v->rows);
    return status;
}

static int run(cli *c) {
    char         path[4096];
    verification v = {.c = c, .ctx = cli_open(c), .tolerance = cli_number(c, "tolerance")};
    if (!v.ctx) return 1;
    const char *model = cli_model_path(cli_argument(c, 0), path);
    if (!cli_given(c, "reference")) return cli_lint(c, v.ctx, model);
    v.reference = qp_file_open(v.ctx, cli_text(c, "reference"), (qp_file_options){0});
    if (!v.reference) return cli_failed(v.ctx);
    bool      texts = qp_file_find(v.reference, "top1") >= 0;
    qp_model *m = qp_model_load(v.ctx, model, (qp_model_options){.as_stored = texts});
    if (m) qp_set_training(qp_model_module(m), false);
    int status = !m      ? cli_failed(v.ctx)
                 : texts ? compare_texts(&v, m, qp_file_load(v.ctx, v.reference, "input_ids", false))
                         : compare_numbers(&v, m);
    qp_file_close(v.reference);
    return status;
}

static const cli_option options[] = {
    {"reference", 0, CLI_TEXT, "FILE", NULL,
     "safetensors with input_ids and logits, optionally token_type_ids, lengths, hidden, grad.NAME; or "
     "input_ids, top1 and nll of long texts. Without: the files are looked through",
     0, 0, false},
    {"tolerance", 0, CLI_NUMBER, "X", "1e-4",
     "largest relative error (max|a-b| / max|b| of a tensor; of the perplexity)", 0, 1e9, false},
    {0}};

QP_VERB(verify) = {.name = "verify",
                   .summary = "look through a model's files, or compare what it gives with reference numbers",
                   .arguments = "MODEL",
                   .min_arguments = 1,
                   .max_arguments = 1,
                   .options = options,
                   .examples = "  quipu verify my-model\n"
                               "  quipu verify my-model.Q4_K_M.gguf --json\n"
                               "  quipu verify my-model --reference reference.safetensors --tolerance 2e-5\n",
                   .run = run};
