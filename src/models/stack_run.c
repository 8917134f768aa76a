/* The forward pass of a stack: input, positions, blocks, norm; layers that run again in backward. */
#include <string.h>

#include "models/model.h"

/* Temporaries that no gradient needs go with the block; its result stays, and what it adds is in out. */
static qp_tensor run_layer(const qpi_layer *l, qp_tensor x, const qp_sequence *given, qp_record *out,
                           qp_state *states) {
    qp_scope    scope = qp_enter(x.ctx);
    qp_sequence s = *given;
    s.out = out;
    s.layer = l->block.layer;
    qp_tensor kept[QP_MAX_FIELDS + 1] = {l->type->forward(&l->block, x, &s, states)};
    if (qp_is_none(kept[0]))
        qp_fail(x.ctx, QP_ERR_STATE, "layer %d: %s gave no result", s.layer, l->type->part.name);
    for (int i = 0; i < out->count; i++) kept[i + 1] = out->tensors[i];
    qp_return_many(scope, kept, out->count + 1);
    for (int i = 0; i < out->count; i++) out->tensors[i] = kept[i + 1];
    return kept[0];
}

/* What a layer needs to be run again: x, positions, the mask, and all fields that it may ask for. */
typedef struct {
    qpi_layer *layer;
    double     dropout;
    int64_t    length;
    int        in, before; /* how many fields of these there are */
} rerun;
enum { X, POSITIONS, SEGMENTS, LENGTHS, FIELDS, MAX_TENSORS = 24 };

static void run_again(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    const rerun *r = data;
    qp_record    in = {.count = r->in}, before = {.count = r->before}, out = {0};
    qp_sequence  s = {.positions = xs[POSITIONS],
                      .length = r->length,
                      .dropout = r->dropout,
                      .in = &in,
                      .before = &before,
                      .asked = r->layer->asked,
                      .mask = {.segments = xs[SEGMENTS], .lengths = xs[LENGTHS]}};
    for (int i = 0; i < r->in + r->before; i++) {
        qp_record *to = i < r->in ? &in : &before;
        int        k = i < r->in ? i : i - r->in;
        to->names[k] = r->layer->seen[i];
        to->tensors[k] = xs[FIELDS + i];
    }
    ys[0] = run_layer(r->layer, xs[X], &s, &out, NULL);
    for (int i = 0; i < out.count && !qp_failed(xs[X].ctx); i++) {
        r->layer->added[i] = out.names[i];
        ys[i + 1] = out.tensors[i];
    }
}

/* The same, keeping only what goes in and what comes out. */
static qp_tensor run_checkpointed(qpi_layer *l, qp_tensor x, const qp_sequence *s, qp_record *out) {
    rerun     r = {l, s->dropout, s->length, s->in->count, s->before->count};
    qp_tensor ys[QP_MAX_OUT],
        xs[MAX_TENSORS] = {
            [X] = x, [POSITIONS] = s->positions, [SEGMENTS] = s->mask.segments, [LENGTHS] = s->mask.lengths};
    int fields = r.in + r.before;
    if (FIELDS + fields > MAX_TENSORS) {
        qp_fail(x.ctx, QP_ERR_UNSUPPORTED, "gradient checkpoint: layers see %d fields, at most %d", fields,
                MAX_TENSORS - FIELDS);
        return qpi_poison(x.ctx);
    }
    for (int i = 0; i < fields; i++) {
        const qp_record *from = i < r.in ? s->in : s->before;
        int              k = i < r.in ? i : i - r.in;
        l->seen[i] = from->names[k];
        xs[FIELDS + i] = from->tensors[k];
    }
    l->asked = s->asked;
    qp_checkpoint(x.ctx, run_again, &r, sizeof r, FIELDS + fields, xs, QP_MAX_OUT, ys);
    l->asked = NULL;
    for (int i = 1; i < QP_MAX_OUT && !qp_failed(x.ctx) && !qp_is_none(ys[i]); i++)
        qp_record_set(out, l->added[i - 1], ys[i]);
    return ys[0];
}

/* What a layer added joins what earlier ones did; losses are summed. */
static void join(qp_record *all, const qp_record *out) {
    for (int i = 0; i < out->count; i++) {
        qp_tensor before = strncmp(out->names[i], "aux.", 4) ? QP_NONE : qp_record_get(all, out->names[i]);
        qp_record_set(all, out->names[i],
                      qp_is_none(before) ? out->tensors[i] : qp_add(before, out->tensors[i]));
    }
}

qp_tensor qpi_stack_layer(qp_model *m, int64_t i, qp_tensor x, const qp_sequence *s, qp_record *out,
                          qp_state *states) {
    return run_layer(&m->blocks[i], x, s, out, states);
}

static qp_tensor norm_of(const qp_norm *n, qp_tensor x) { return n->type ? n->type->forward(n->self, x) : x; }

/* state: of the encoding, where it has one. */
static qp_tensor embedded(const qp_position *p, qp_tensor x, const qp_sequence *s, qp_state *state) {
    if (!p->type || !p->type->embed) return x;
    return state && p->type->step ? p->type->step(p->self, x, s, state) : p->type->embed(p->self, x, s);
}

qp_tensor qpi_stack_forward(qp_model *m, qp_tensor ids, const qp_sequence *given, qp_record *all,
                            qp_state *states) {
    qp_sequence s = *given;
    s.before = all;
    qp_tensor x = m->input.type->forward(m->input.self, ids, &s);
    x = embedded(&m->position, x, &s, states ? &states[2 * m->layers] : NULL);
    x = norm_of(&m->input_norm, x);
    if (s.dropout > 0) x = qp_dropout(x, s.dropout);
    for (int64_t i = 0; i < m->layers && !qp_failed(m->ctx); i++) {
        qp_record out = {0};
        bool      again = m->checkpoint && !m->ctx->mode.no_grad;
        qp_tensor y = again ? run_checkpointed(&m->blocks[i], x, &s, &out)
                            : run_layer(&m->blocks[i], x, &s, &out, states ? &states[2 * i] : NULL);
        join(all, &out);
        if (y.slot != x.slot) qp_drop(x);
        x = y;
    }
    return norm_of(&m->norm, x);
}
