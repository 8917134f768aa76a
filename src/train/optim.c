#include "train/optim.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/list.h"

/* ---- Making ---------------------------------------------------------------------------------- */

static void destroy(void *thing) {
    qp_optim *o = thing;
    for (int i = 0; i < o->params.count; i++) free((char *)o->params.entries[i].name);
    free((qp_entry *)o->params.entries);
    free(o->states);
    free(o->rates);
    free(o->rate);
    free(o->numbers);
    free(o);
}

static bool copy_params(qp_optim *o, qp_state_dict params) {
    qp_entry *entries = calloc((size_t)params.count + 1, sizeof *entries);
    o->params.entries = entries;
    for (int i = 0; entries && i < params.count; i++) {
        entries[i] = params.entries[i];
        if (!(entries[i].name = strdup(params.entries[i].name))) return false;
        o->params.count++;
    }
    return entries != NULL;
}

static int rate_index(qp_optim *o, qpi_rates r) {
    int i = 0;
    while (i < o->rate_count && (o->rates[i].lr != r.lr || o->rates[i].weight_decay != r.weight_decay)) i++;
    if (i == o->rate_count) o->rates[o->rate_count++] = r;
    return i;
}

static bool matches(const qp_param_group *g, const qp_entry *e) { return fnmatch(g->pattern, e->name, 0) == 0; }

static void assign_rates(qp_optim *o, qpi_optim_common options) {
    for (int i = 0; i < o->params.count; i++) {
        const qp_entry *e = &o->params.entries[i];
        double          factor = o->type->adaptive ? e->rates.adam : e->rates.sgd;
        qpi_rates       r = {1, qp_ndim(e->tensor) >= 2 && !e->rates.steady ? options.weight_decay : 0};
        for (int g = options.groups.count; g-- > 0;)
            if (matches(&options.groups.group[g], e))
                r = (qpi_rates){options.groups.group[g].lr, options.groups.group[g].weight_decay};
        if (factor != 0) r = (qpi_rates){r.lr * factor, r.weight_decay / factor};
        o->rate[i] = rate_index(o, r);
    }
    for (int g = 0; g < options.groups.count; g++) {
        bool used = false;
        for (int i = 0; i < o->params.count && !used; i++)
            used = matches(&options.groups.group[g], &o->params.entries[i]);
        if (!used)
            qp_fail(o->ctx, QP_ERR_ARGUMENT, "%s: no parameter matches the group \"%.200s\"", o->type->name,
                    options.groups.group[g].pattern);
    }
}

static void make_tensors(qp_optim *o) {
    for (int i = 0; i < o->params.count * o->type->state_count; i++) {
        qp_tensor w = o->params.entries[i / o->type->state_count].tensor;
        int64_t   shape[QP_MAX_DIMS];
        for (int axis = 0; axis < qp_ndim(w); axis++) shape[axis] = qp_size(w, axis);
        o->states[i] = qp_keep(qp_zeros(o->ctx, QP_F32, qp_ndim(w), shape));
    }
    for (int i = 0; i < o->rate_count; i++)
        o->numbers[i] = qp_keep(qp_zeros(o->ctx, QP_F32, 1, (int64_t[]){o->type->number_count}));
    o->step_tensor = qp_keep(qp_zeros(o->ctx, QP_I64, 1, (int64_t[]){1}));
    o->square_sum = qp_keep(qp_zeros(o->ctx, QP_F64, 1, (int64_t[]){1}));
    o->scale_tensor = qp_keep(qp_from(o->ctx, QP_F64, 1, (int64_t[]){2}, (double[]){65536, 0}));
}

qp_optim *qpi_optim_new(const qpi_optim_type *type, qp_state_dict params, qpi_optim_common options) {
    qp_ctx *ctx = params.ctx;
    if (!ctx || qp_failed(ctx)) return NULL;
    if (params.count == 0) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "%s: no parameter to train (all frozen, or loaded as stored?)",
                type->name);
        return NULL;
    }
    qp_optim *o = calloc(1, sizeof *o);
    size_t    n = (size_t)params.count;
    bool      made = o && (o->states = calloc(n * (size_t)type->state_count, sizeof *o->states)) &&
                     (o->rates = calloc(n, sizeof *o->rates)) && (o->rate = calloc(n, sizeof *o->rate)) &&
                     (o->numbers = calloc(n, sizeof *o->numbers)) && copy_params(o, params) &&
                     (o->owned = qpi_own(ctx, o, destroy));
    if (!made) {
        if (o) destroy(o);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %s", type->name);
        return NULL;
    }
    o->ctx = ctx;
    o->type = type;
    o->lr = options.lr;
    o->scale = 1;
    o->clip = options.clip;
    assign_rates(o, options);
    make_tensors(o);
    return qp_failed(ctx) ? NULL : o;
}

/* ---- A step ---------------------------------------------------------------------------------- */

/* None for what was frozen since. */
static qp_tensor gradient(qp_tensor w) { return qp_requires_grad(w) ? qp_grad_of(w) : QP_NONE; }

/* All are written, or none. */
static bool writable(qp_optim *o) {
    for (int i = 0; i < o->params.count && !qp_failed(o->ctx); i++) {
        qp_tensor       w = o->params.entries[i].tensor;
        const qpi_slot *s = qp_requires_grad(w) ? qpi_resolve(w, o->type->name) : NULL;
        bool            ok = !s || (s->value.storage && !s->value.storage->read_only);
        for (int k = 0; s && ok && k < s->value.view.ndim; k++)
            ok = s->value.view.stride[k] != 0 || s->value.view.shape[k] < 2;
        if (!ok)
            qp_fail(o->ctx, QP_ERR_STATE, "%s: %s cannot be written: read-only or broadcast memory",
                    o->type->name, o->params.entries[i].name);
    }
    return !qp_failed(o->ctx);
}

static void measure(qp_optim *o) {
    qpi_list l = {&qp_op_add_square_sum, {o->square_sum}, 1, 1};
    qp_write(o->square_sum, QP_F64, (double[]){0}, 1);
    for (int i = 0; i < o->params.count; i++) {
        qp_tensor g = gradient(o->params.entries[i].tensor);
        if (!qp_is_none(g)) qpi_list_add(&l, 1, &g);
    }
    qpi_list_run(&l);
    o->norm = sqrt(qp_item(o->square_sum)) / o->scale;
    o->skipped = o->scaling && !isfinite(o->norm);
    if (!qp_failed(o->ctx) && !isfinite(o->norm) && !o->scaling)
        qp_fail(o->ctx, QP_ERR_STATE, "%s: the gradient's norm is %s at step %lld: nothing was changed",
                o->type->name, isnan(o->norm) ? "nan" : "inf", (long long)o->steps + 1);
}

/* torch.amp.GradScaler: half after gradients that are not finite, twice after 2000 good steps. */
static void adapt_scale(qp_optim *o) {
    if (!o->scaling) return;
    o->good = o->skipped ? 0 : o->good + 1;
    if (o->skipped) o->scale *= 0.5;
    if (o->good == 2000) {
        o->scale *= 2;
        o->good = 0;
    }
    qp_write(o->scale_tensor, QP_F64, (double[]){o->scale, (double)o->good}, 2);
    if (!qp_failed(o->ctx) && o->scale < 0x1p-24)
        qp_fail(o->ctx, QP_ERR_STATE,
                "%s: gradients are not finite at step %lld, whatever the loss is scaled by", o->type->name,
                (long long)o->steps + 1);
}

static void write_numbers(qp_optim *o) {
    double clip = o->clip > 0 ? fmin(1, o->clip / (o->norm + 1e-6)) : 1;
    for (int i = 0; i < o->rate_count; i++) {
        float h[QPI_MAX_NUMBERS];
        o->type->numbers(o, o->steps + 1, (qpi_rates){o->lr * o->rates[i].lr, o->rates[i].weight_decay}, h);
        h[o->type->clip_number] = (float)(clip / o->scale);
        qp_write(o->numbers[i], QP_F32, h, o->type->number_count);
    }
}

static void update(qp_optim *o) {
    qpi_list l = {.op = o->type->op};
    for (int i = 0; i < o->params.count; i++) {
        qp_tensor group[5] = {o->params.entries[i].tensor}, g = gradient(group[0]);
        int       n = 1;
        if (qp_is_none(g)) continue;
        for (int k = 0; k < o->type->state_count; k++) group[n++] = o->states[i * o->type->state_count + k];
        group[n++] = g;
        group[n++] = o->numbers[o->rate[i]];
        qpi_list_add(&l, n, group);
    }
    qpi_list_run(&l);
}

void qp_step(qp_optim *o) {
    qp_ctx *ctx = o->ctx;
    if (qp_failed(ctx)) return;
    qp_scope scope = qp_enter(ctx);
    bool     before = qp_no_grad(ctx, true);
    if (writable(o)) measure(o);
    if (!qp_failed(ctx)) write_numbers(o);
    qpi_shield(ctx); /* all parameters or none */
    if (!qp_failed(ctx) && !o->skipped) {
        update(o);
        if (!qp_failed(ctx)) qp_write(o->step_tensor, QP_I64, &(int64_t){++o->steps}, 1);
    }
    if (!qp_failed(ctx)) adapt_scale(o);
    for (int i = 0; i < o->params.count && !qp_failed(ctx); i++)
        if (qp_requires_grad(o->params.entries[i].tensor)) qp_zero_grad(o->params.entries[i].tensor);
    qp_no_grad(ctx, before);
    qp_leave(scope);
}

/* ---- The rest --------------------------------------------------------------------------------- */

void qp_optim_set_lr(qp_optim *o, double lr) { o->lr = lr; }
double qp_optim_norm(const qp_optim *o) { return o->norm; }

bool qp_optim_skipped(const qp_optim *o) { return o->skipped; }
double qp_optim_scale(const qp_optim *o) { return o->scale; }

/* What the tensors say, which a restored state has changed. */
void qp_optim_restored(qp_optim *o) {
    double scale[2] = {1, 0};
    o->steps = (int64_t)qp_item(o->step_tensor);
    if (o->scaling && qp_read(o->scale_tensor, QP_F64, scale, 2) == QP_OK &&
        !(scale[0] > 0 && isfinite(scale[0])))
        qp_fail(o->ctx, QP_ERR_FORMAT, "%s: the loss scale is %g", o->type->name, scale[0]);
    o->scale = scale[0];
    o->good = (int64_t)scale[1];
}

void qp_optim_scale_losses(qp_optim *o, bool on) {
    o->scaling = on;
    qp_optim_restored(o);
}

qp_tensor qp_optim_scaled(qp_optim *o, qp_tensor loss) {
    return o->scale == 1 ? loss : qp_affine(loss, o->scale, 0);
}

/* Each parameter's tensors, then those of the optimiser as a whole. */
bool qp_optim_state(qp_optim *o, int index, char name[256], qp_tensor *t) {
    int count = o->type->state_count, all = o->params.count * count;
    if (index < 0 || index > all + o->scaling) return false;
    if (index >= all) {
        snprintf(name, 256, index == all ? "step" : "scale");
        *t = index == all ? o->step_tensor : o->scale_tensor;
    } else {
        snprintf(name, 256, "%s.%s", o->type->state_names[index % count],
                 o->params.entries[index / count].name);
        *t = o->states[index];
    }
    return true;
}

void qp_optim_close(qp_optim *o) {
    if (!o) return;
    for (int i = 0; i < o->params.count * o->type->state_count; i++) qp_drop(o->states[i]);
    for (int i = 0; i < o->rate_count; i++) qp_drop(o->numbers[i]);
    qp_drop(o->step_tensor);
    qp_drop(o->square_sum);
    qp_drop(o->scale_tensor);
    qpi_disown(o->owned);
    destroy(o);
}
