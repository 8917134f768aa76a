/* The training loop. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "train/log.h"
#include "train/state.h"

/* Labels that count. */
static int64_t counted(qp_ctx *ctx, const qp_record *batch) {
    qp_tensor labels = qp_record_get(batch, "labels");
    if (qp_is_none(labels) || qp_failed(ctx)) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "train: the batch has no labels");
        return 0;
    }
    qp_scope  s = qp_enter(ctx);
    qp_tensor ignored = qp_full(labels.ctx, qp_dtype_of(labels), 0, NULL, -100);
    double    n = qp_item(qp_sum(qp_cast(qp_ne(labels, ignored), QP_F32), 0, NULL, false));
    qp_leave(s);
    return n == n ? (int64_t)n : 0;
}

double qp_validate(qp_model *m, qp_data *data, int64_t batches) {
    qp_ctx *ctx = qp_model_ctx(m);
    bool    training = qp_training(qp_model_module(m)), before = qp_no_grad(ctx, true);
    double  sum = 0, tokens = 0;
    int64_t count = qp_data_batches(data);
    if (batches > 0 && batches < count) count = batches;
    qp_set_training(qp_model_module(m), false);
    if (qp_data_seek(data, 0) != QP_OK) count = 0;
    for (int64_t i = 0; i < count && !qp_failed(ctx); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_record b = qp_data_next(data);
        qp_record out = qp_forward(m, b);
        double    n = (double)counted(ctx, &b);
        sum += qp_item(qp_record_get(&out, "loss")) * n;
        tokens += n;
        qp_leave(s);
    }
    qp_set_training(qp_model_module(m), training);
    qp_no_grad(ctx, before);
    return tokens > 0 && !qp_failed(ctx) ? sum / tokens : NAN;
}

static void scale_gradients(qp_model *m, double factor) {
    qp_scope      s = qp_enter(qp_model_ctx(m));
    bool          before = qp_no_grad(s.ctx, true);
    qp_state_dict params = qp_model_params(m);
    for (int i = 0; i < params.count; i++) {
        qp_tensor g = qp_grad_of(params.entries[i].tensor);
        if (!qp_is_none(g)) qp_copy_to(g, qp_affine(g, factor, 0));
    }
    qp_no_grad(s.ctx, before);
    qp_leave(s);
}

static void drop_stats(qp_train_event *event) {
    for (int i = 0; i < event->stats.count; i++) qp_drop(event->stats.tensors[i]);
    event->stats.count = 0;
}

static void keep_stats(qp_train_event *event, const qp_record *out) {
    qp_record *to = &event->stats;
    drop_stats(event);
    for (int i = 0; i < out->count; i++)
        if (!strncmp(out->names[i], "stat.", 5)) {
            to->names[to->count] = out->names[i];
            to->tensors[to->count++] = qp_keep(qp_alias(out->tensors[i]));
        }
}

/* Forward and backward of the step's batches; gradients are those of the mean over all of their
 * counted tokens, times the loss scale. How many tokens these are is known at the end: until then
 * all batches are taken to count as many as the first, which mostly they do. */
static void accumulate(const qp_training_set *set, const qp_train_options *o, qp_train_event *event) {
    qp_ctx *ctx = qp_model_ctx(set->model);
    int64_t batches = o->accumulate > 0 ? o->accumulate : 1;
    double  sum = 0, expected = 0;
    event->tokens = 0;
    for (int64_t i = 0; i < batches && !qp_failed(ctx); i++) {
        qp_scope s = qp_enter(ctx);
        qp_autocast(ctx, o->precision);
        qp_record b = qp_data_next(set->data), out = qp_forward(set->model, b);
        qp_tensor loss = qp_record_get(&out, "loss");
        double    n = (double)counted(ctx, &b);
        if (i == 0) expected = fmax(n, 1) * (double)batches;
        qp_backward(qp_optim_scaled(set->optim, batches > 1 ? qp_affine(loss, n / expected, 0) : loss));
        sum += qp_item(loss) * n;
        event->tokens += (int64_t)n;
        keep_stats(event, &out);
        qp_leave(s);
    }
    double tokens = fmax((double)event->tokens, 1);
    if (batches > 1 && tokens != expected) scale_gradients(set->model, expected / tokens);
    event->loss = sum / tokens;
    if (!qp_failed(ctx) && !isfinite(event->loss))
        qp_fail(ctx, QP_ERR_STATE, "the loss is %g at step %lld", event->loss, (long long)event->step);
}

static bool due(int64_t step, int64_t every, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

/* Where the step that is being computed began: what an interruption goes back to. */
typedef struct {
    uint64_t random, data;
} beginning;

static beginning begin_step(const qp_training_set *set) {
    return (beginning){qp_random_position(qp_model_ctx(set->model)), qp_data_position(set->data)};
}

/* Cancelled amid a step: parameters are those of the last whole step, the rest is put back. */
static void undo_step(const qp_training_set *set, beginning b) {
    qp_ctx       *ctx = qp_model_ctx(set->model);
    qp_state_dict params = qp_model_params(set->model);
    qp_clear(ctx);
    for (int i = 0; i < params.count; i++) qp_zero_grad(params.entries[i].tensor);
    qp_model_stepped(set->model, false);
    qp_set_random(ctx, ctx->seed, b.random);
    if (qp_data_seek(set->data, b.data) != QP_OK) return;
}

static bool save(const qp_training_set *set, const qp_train_options *o, int64_t step, const qpi_progress *p) {
    return !o->out || qpi_state_save(*set, o->out, step, o->keep, p) == QP_OK;
}

/* ---- TensorBoard ------------------------------------------------------------------------------ */

static void show_histograms(const qp_training_set *set, const qp_train_options *o, int64_t step) {
    qp_state_dict params = qp_model_params(set->model);
    char          tag[300];
    for (int i = 0; i < params.count; i++) {
        qp_scope  s = qp_enter(qp_model_ctx(set->model));
        qp_tensor w = params.entries[i].tensor, g = qp_grad_of(w);
        snprintf(tag, sizeof tag, "weights/%s", params.entries[i].name);
        qp_board_histogram(o->board, tag, step, w, 1);
        snprintf(tag, sizeof tag, "gradients/%s", params.entries[i].name);
        if (!qp_is_none(g)) qp_board_histogram(o->board, tag, step, g, 1 / qp_optim_scale(set->optim));
        qp_leave(s);
    }
}

static void show_scalars(qp_board *b, const qp_train_event *e, bool scales) {
    qp_board_scalar(b, "train/loss", e->step, e->loss);
    qp_board_scalar(b, "train/learning_rate", e->step, e->lr);
    if (!e->skipped) qp_board_scalar(b, "train/grad_norm", e->step, e->norm);
    if (e->seconds > 0) qp_board_scalar(b, "train/tokens_per_second", e->step, (double)e->tokens / e->seconds);
    if (scales) qp_board_scalar(b, "train/loss_scale", e->step, e->scale);
    if (isfinite(e->validation)) qp_board_scalar(b, "validation/loss", e->step, e->validation);
    for (int i = 0; i < e->stats.count; i++) {
        char     tag[100];
        qp_scope s = qp_enter(e->stats.tensors[i].ctx);
        snprintf(tag, sizeof tag, "train/largest_%.60s", e->stats.names[i] + 5);
        qp_tensor flat = qp_reshape(e->stats.tensors[i], 1, (int64_t[]){-1});
        if (qp_count(flat)) qp_board_scalar(b, tag, e->step, qp_item(qp_max(flat, 0, false)));
        qp_leave(s);
    }
}

/* ---- Steps ------------------------------------------------------------------------------------ */

/* One step; false: failed, or cancelled before the parameters changed. */
static bool run_step(const qp_training_set *set, const qp_train_options *o, qp_train_event *e) {
    double  start = qpi_now();
    qp_ctx *ctx = qp_model_ctx(set->model);
    accumulate(set, o, e);
    qp_scope s = qp_enter(ctx);
    qpi_shield(ctx); /* from here on parameters, optimiser and means change together */
    if (o->board && o->histogram_every > 0 && e->step % o->histogram_every == 0 && !qp_failed(ctx))
        show_histograms(set, o, e->step);
    e->scale = qp_optim_scale(set->optim);
    qp_step(set->optim);
    e->skipped = qp_optim_skipped(set->optim);
    qp_model_stepped(set->model, !e->skipped);
    e->norm = e->skipped ? NAN : qp_optim_norm(set->optim);
    if (set->ema && !qp_failed(ctx)) qp_ema_update(set->ema, e->step);
    qp_leave(s);
    e->seconds = qpi_now() - start;
    return !qp_failed(ctx);
}

/* Of the means where there are any. Whoever cancels amid it gets a whole step without its loss. */
static double validate(const qp_training_set *set, const qp_train_options *o, bool *cancelled) {
    qp_scope s = qp_enter(qp_model_ctx(set->model));
    qp_autocast(s.ctx, o->precision);
    if (o->patience > 0) qpi_shield(s.ctx); /* the count needs its result */
    if (set->ema) qp_ema_swap(set->ema);
    double loss = qp_validate(set->model, set->validation, o->validate_batches);
    if (qp_error_code(s.ctx) == QP_ERR_CANCELLED) {
        qp_clear(s.ctx);
        *cancelled = true;
    }
    if (set->ema) qp_ema_swap(set->ema);
    qp_leave(s);
    return loss;
}

static void note_validation(qpi_progress *p, qp_train_event *e) {
    e->best = isfinite(e->validation) && (!p->best_step || e->validation < p->best);
    p->waited = e->best ? 0 : p->waited + 1;
    if (!e->best) return;
    p->best = e->validation;
    p->best_step = e->step;
}

static qp_status run_steps(const qp_training_set *set, const qp_train_options *o, qpi_log *log, int64_t step,
                           qpi_progress *p) {
    qp_ctx *ctx = qp_model_ctx(set->model);
    int64_t last = o->schedule.steps;
    bool    stop = false, cancelled = false;
    while (step < last && !stop && !(o->patience > 0 && p->waited >= o->patience)) {
        beginning      b = begin_step(set);
        qp_train_event e = {.step = step + 1, .lr = qp_schedule_at(&o->schedule, step), .validation = NAN};
        qp_optim_set_lr(set->optim, e.lr);
        if (!run_step(set, o, &e)) {
            drop_stats(&e);
            if (qp_error_code(ctx) != QP_ERR_CANCELLED) break;
            undo_step(set, b);
            cancelled = save(set, o, step, p);
            break;
        }
        step++;
        if (set->validation && due(step, o->validate_every, last)) {
            e.validation = validate(set, o, &cancelled);
            if (o->patience > 0) note_validation(p, &e);
        }
        cancelled = stop = cancelled || ctx->cancelled;
        ctx->cancelled = 0;
        bool early = o->patience > 0 && p->waited >= o->patience;
        e.saved = o->out && (stop || early || e.best || due(step, o->save_every, last));
        if (o->board) show_scalars(o->board, &e, o->precision == QP_F16);
        /* the line first: one too many is dropped on resume, a missing one would stay missing */
        bool done = (o->out && !qpi_log_step(log, &e)) || (e.saved && !save(set, o, step, p));
        if (!done && o->on_step && !o->on_step(o->user, &e)) {
            stop = true;
            done = !e.saved && !save(set, o, step, p);
        }
        drop_stats(&e);
        if (done) break;
    }
    if (cancelled) qp_fail(ctx, QP_ERR_CANCELLED, "cancelled after step %lld", (long long)step);
    return qp_error_code(ctx);
}

qp_status qp_train(qp_training_set set, qp_train_options options) {
    qp_ctx      *ctx = qp_model_ctx(set.model);
    int64_t      step = 0;
    qpi_log      log = {.lock = -1};
    qpi_progress progress = {.precision = options.precision};
    qp_status    status = qp_error_code(ctx);
    qp_set_training(qp_model_module(set.model), true);
    if (!status) qp_optim_scale_losses(set.optim, options.precision == QP_F16);
    if (!status && options.out && !qpi_out_lock(&log, options.out, ctx)) status = qp_error_code(ctx);
    if (!status && options.out && options.resume)
        status = qpi_state_restore(set, options.out, &step, &progress);
    if (!status && options.out && !options.resume && qpi_state_exists(ctx, options.out))
        qp_fail(ctx, QP_ERR_STATE, "%s: holds the states of a training: resume it, or choose another folder",
                options.out);
    if (!status) status = qp_error_code(ctx);
    if (!status && options.out && !qpi_log_open(&log, options.out, step)) status = qp_error_code(ctx);
    if (!status) status = run_steps(&set, &options, &log, step, &progress);
    qpi_log_close(&log);
    return status;
}
