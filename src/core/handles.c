/* Handles and scopes. A slot is alive while its generation is odd; ctx->live is the stack of
 * slots in order of making, a scope a mark on it. */
#include "core/handles.h"

#include <stdlib.h>
#include <string.h>

static qpi_slot *slot_at(const qp_ctx *ctx, uint32_t i) {
    return &ctx->chunks[i / QPI_SLOT_CHUNK][i % QPI_SLOT_CHUNK];
}

static bool add_chunk(qp_ctx *ctx) {
    qpi_slot **chunks = realloc(ctx->chunks, (ctx->chunk_count + 1) * sizeof *chunks);
    if (!chunks) return false;
    ctx->chunks = chunks;
    qpi_slot *chunk = calloc(QPI_SLOT_CHUNK, sizeof *chunk);
    if (!chunk) return false;
    uint32_t base = ctx->chunk_count * QPI_SLOT_CHUNK;
    for (uint32_t i = QPI_SLOT_CHUNK; i-- > 0;) {
        chunk[i].next_free = ctx->free_slot;
        ctx->free_slot = base + i;
    }
    chunks[ctx->chunk_count++] = chunk;
    return true;
}

/* Closes the holes that drops have left. */
static void squeeze(qp_ctx *ctx) {
    uint32_t kept = 0, scope = 0;
    for (uint32_t i = 0; i <= ctx->live_count; i++) {
        while (scope < ctx->scope_count && ctx->scopes[scope].live_start == i)
            ctx->scopes[scope++].live_start = kept;
        if (i == ctx->live_count || ctx->live[i] == QPI_NO_INDEX) continue;
        slot_at(ctx, ctx->live[i])->live_index = kept;
        ctx->live[kept++] = ctx->live[i];
    }
    ctx->live_count = kept;
}

static bool live_reserve(qp_ctx *ctx) {
    if (ctx->live_count < ctx->live_capacity) return true;
    squeeze(ctx);
    if (ctx->live_count < ctx->live_capacity / 2) return true;
    uint32_t  capacity = ctx->live_capacity ? 2 * ctx->live_capacity : 1024;
    uint32_t *live = realloc(ctx->live, capacity * sizeof *live);
    if (!live) return false;
    ctx->live = live;
    ctx->live_capacity = capacity;
    return true;
}

static bool live_push(qp_ctx *ctx, uint32_t slot) {
    if (!live_reserve(ctx)) return false;
    slot_at(ctx, slot)->live_index = ctx->live_count;
    ctx->live[ctx->live_count++] = slot;
    return true;
}

qp_tensor qpi_poison(qp_ctx *ctx) { return (qp_tensor){ctx, QPI_NO_INDEX, 0}; }
bool qpi_is_poison(qp_tensor t) { return t.ctx && t.slot == QPI_NO_INDEX; }
bool qp_is_none(qp_tensor t) { return !t.ctx; }

qp_tensor qpi_handle(qp_ctx *ctx, qpi_value v) {
    if ((ctx->free_slot == QPI_NO_INDEX && !add_chunk(ctx)) || !live_push(ctx, ctx->free_slot)) {
        qpi_value_release(ctx, &v);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: tensor handles");
        return qpi_poison(ctx);
    }
    uint32_t  i = ctx->free_slot;
    qpi_slot *s = slot_at(ctx, i);
    ctx->free_slot = s->next_free;
    s->generation++;
    s->value = v;
    s->node = NULL;
    s->out = 0;
    s->parameter = false;
    return (qp_tensor){ctx, i, s->generation};
}

static qpi_slot *lookup(qp_tensor t) {
    if (!t.ctx || t.slot >= t.ctx->chunk_count * QPI_SLOT_CHUNK) return NULL;
    qpi_slot *s = slot_at(t.ctx, t.slot);
    return s->generation == t.generation && (t.generation & 1) ? s : NULL;
}

qpi_slot *qpi_resolve(qp_tensor t, const char *who) {
    qpi_slot *s = lookup(t);
    if (qpi_is_poison(t)) qp_fail(t.ctx, QP_ERR_STATE, "%s: poison from an earlier failure", who);
    else if (!s)
        qp_fail(t.ctx, QP_ERR_STATE, "%s: stale tensor: its scope has been left or it was dropped", who);
    return s;
}

static void release_slot(qp_ctx *ctx, uint32_t i) {
    qpi_slot *s = slot_at(ctx, i);
    qpi_node *node = s->node;
    s->generation++;
    s->node = NULL;
    qpi_value_release(ctx, &s->value);
    s->next_free = ctx->free_slot;
    ctx->free_slot = i;
    if (node) qpi_node_release(ctx, node);
}

/* Out of the live stack; a hole stays unless it was on top. */
static void unlive(qp_ctx *ctx, qpi_slot *s) {
    if (s->live_index == QPI_NO_INDEX) return;
    ctx->live[s->live_index] = QPI_NO_INDEX;
    uint32_t floor = ctx->scope_count ? ctx->scopes[ctx->scope_count - 1].live_start : 0;
    while (ctx->live_count > floor && ctx->live[ctx->live_count - 1] == QPI_NO_INDEX) ctx->live_count--;
    s->live_index = QPI_NO_INDEX;
}

void qp_drop(qp_tensor t) {
    qpi_slot *s = lookup(t);
    if (!s) return;
    unlive(t.ctx, s);
    release_slot(t.ctx, t.slot);
}

qp_tensor qp_keep(qp_tensor t) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "keep") : NULL;
    if (s) unlive(t.ctx, s);
    return t;
}

qp_tensor qp_alias(qp_tensor t) {
    qpi_slot *s = t.ctx ? qpi_resolve(t, "alias") : NULL;
    if (!s) return t;
    qpi_value v = s->value;
    qpi_storage_retain(v.storage);
    qp_tensor y = qpi_handle(t.ctx, v);
    qpi_slot *d = lookup(y);
    if (d && s->node) {
        qpi_node_retain(s->node);
        d->node = s->node;
        d->out = s->out;
    }
    return y;
}

/* A scope that could not be entered carries the mode in its depth. */
static uint32_t mode_number(qpi_mode m) {
    return (uint32_t)m.autocast << 2 | (uint32_t)m.shielded << 1 | m.no_grad;
}
static qpi_mode mode_of(uint32_t number) {
    return (qpi_mode){number & 1, number >> 1 & 1, (qp_dtype)(number >> 2)};
}

qp_scope qp_enter(qp_ctx *ctx) {
    if (!ctx) return (qp_scope){0};
    if (ctx->scope_count == ctx->scope_capacity) {
        uint32_t        capacity = ctx->scope_capacity ? 2 * ctx->scope_capacity : 64;
        qpi_scope_mark *scopes = realloc(ctx->scopes, capacity * sizeof *scopes);
        if (!scopes) {
            qp_fail(ctx, QP_ERR_MEMORY, "out of memory: scopes");
            return (qp_scope){ctx, mode_number(ctx->mode), 0};
        }
        ctx->scopes = scopes;
        ctx->scope_capacity = capacity;
    }
    if (++ctx->scope_serial == 0) ctx->scope_serial = 1; /* 0: no scope */
    ctx->scopes[ctx->scope_count++] = (qpi_scope_mark){ctx->live_count, ctx->scope_serial, ctx->mode};
    return (qp_scope){ctx, ctx->scope_count, ctx->scope_serial};
}

void qp_leave(qp_scope s) {
    qp_ctx *ctx = s.ctx;
    if (!ctx) return;
    if (s.serial == 0) {
        ctx->mode = mode_of(s.depth);
        return;
    }
    if (s.depth > ctx->scope_count || ctx->scopes[s.depth - 1].serial != s.serial) {
        qp_fail(ctx, QP_ERR_STATE, "leave: this scope has been left already");
        return;
    }
    uint32_t start = ctx->scopes[s.depth - 1].live_start;
    ctx->mode = ctx->scopes[s.depth - 1].mode;
    ctx->scope_count = s.depth - 1;
    while (ctx->live_count > start) {
        uint32_t i = ctx->live[--ctx->live_count];
        if (i != QPI_NO_INDEX) release_slot(ctx, i);
    }
}

void qp_return_many(qp_scope s, qp_tensor *ys, int n) {
    qp_ctx *ctx = s.ctx;
    if (!ctx || s.serial == 0) {
        qp_leave(s);
        return;
    }
    bool     valid = s.depth <= ctx->scope_count && ctx->scopes[s.depth - 1].serial == s.serial;
    uint32_t start = valid ? ctx->scopes[s.depth - 1].live_start : 0;
    for (int i = 0; i < n; i++) {
        if (ys[i].ctx != ctx) continue; /* none, or another context's */
        qpi_slot *slot = qpi_is_poison(ys[i]) ? NULL : qpi_resolve(ys[i], "return");
        if (!slot) ys[i] = qpi_poison(ctx);
        if (!slot || slot->live_index == QPI_NO_INDEX || slot->live_index < start) continue;
        unlive(ctx, slot);
        slot->moving = true;
    }
    qp_leave(s);
    for (int i = 0; i < n; i++) {
        qpi_slot *slot = ys[i].ctx == ctx ? lookup(ys[i]) : NULL;
        if (!slot || !slot->moving) continue;
        slot->moving = false;
        if (!live_push(ctx, ys[i].slot)) {
            release_slot(ctx, ys[i].slot);
            qp_fail(ctx, QP_ERR_MEMORY, "out of memory: tensor handles");
            ys[i] = qpi_poison(ctx);
        }
    }
}

qp_tensor qp_return(qp_scope s, qp_tensor y) {
    qp_return_many(s, &y, 1);
    return y;
}

void qpi_handles_close(qp_ctx *ctx) {
    for (uint32_t i = 0; i < ctx->chunk_count * QPI_SLOT_CHUNK; i++)
        if (slot_at(ctx, i)->generation & 1) release_slot(ctx, i);
    for (uint32_t i = 0; i < ctx->chunk_count; i++) free(ctx->chunks[i]);
    free(ctx->chunks);
    free(ctx->live);
    free(ctx->scopes);
}
