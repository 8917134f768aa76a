/* Data sets: which sample goes to which row, and batches as tensors. */
#include "data/dataset.h"

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/permute.h"
#include "format/checksum.h"
#include "format/os.h"

/* ---- Order ---------------------------------------------------------------------------- */

typedef struct {
    uint64_t epoch;
    int64_t  index; /* -1: none */
} sample;

/* The sample in a row of this process's batch at a position. */
static sample sample_at(const qp_data *d, uint64_t position, uint64_t row) {
    const qp_data_options *o = &d->options;
    uint64_t               rows = (uint64_t)o->batch * (uint64_t)o->processes, n = d->samples;
    uint64_t               column = (uint64_t)o->process * (uint64_t)o->batch + row; /* in the common batch */
    if (o->order == QP_STREAMS) {
        uint64_t length = n / rows;
        return (sample){position / length, (int64_t)(column * length + position % length)};
    }
    if (o->order == QP_SEQUENTIAL) {
        uint64_t batches = (n - 1) / rows + 1, index = position % batches * rows + column;
        return (sample){position / batches, index < n ? (int64_t)index : -1};
    }
    /* Samples run on from epoch to epoch; the product may wrap, after 2^64 of them. */
    uint64_t at = position * rows + column;
    return (sample){at / n, (int64_t)qpi_permute(n, o->seed, at / n, at % n)};
}

static const char *fill(void *arg, uint64_t position, uint8_t *data) {
    const qp_data *d = arg;
    for (int64_t row = 0; row < d->options.batch; row++) {
        sample s = sample_at(d, position, (uint64_t)row);
        void  *rows[QP_MAX_FIELDS];
        for (int f = 0; f < d->field_count; f++) rows[f] = data + d->offsets[f] + (size_t)row * d->row_bytes[f];
        const char *failure = d->type->fill(d->source, s.epoch, s.index, rows);
        if (failure) return failure;
    }
    return NULL;
}

/* ---- Life ----------------------------------------------------------------------------- */

static bool check_options(qp_data *d, qpi_error *e) {
    qp_data_options *o = &d->options;
    if (o->batch == 0) o->batch = 1;
    if (o->processes == 0) o->processes = 1;
    o->ahead = o->ahead == 0 ? 2 : o->ahead < 0 ? 0 : o->ahead > 64 ? 64 : o->ahead;
    if (o->batch < 1 || o->batch > INT32_MAX || o->processes < 1 || o->process < 0 ||
        o->process >= o->processes || o->order < QP_SHUFFLED || o->order > QP_STREAMS)
        return qpi_fail(e, QP_ERR_ARGUMENT, "data: batch, process or order out of range") == QP_OK;
    d->samples = (uint64_t)d->type->samples(d->source);
    uint64_t rows = (uint64_t)o->batch * (uint64_t)o->processes;
    if ((int64_t)d->samples < 1) return qpi_fail(e, QP_ERR_ARGUMENT, "data: it has no samples") == QP_OK;
    if (o->order == QP_STREAMS && d->samples < rows)
        return qpi_fail(e, QP_ERR_ARGUMENT, "data: %llu samples are not enough for %llu streams",
                        (unsigned long long)d->samples, (unsigned long long)rows) == QP_OK;
    return true;
}

/* Where each field lies in a slot; false on overflow. */
static bool lay_out(qp_data *d, size_t *slot_bytes) {
    *slot_bytes = 0;
    d->field_count = d->type->fields(d->source, d->fields);
    if (d->field_count < 1 || d->field_count > QP_MAX_FIELDS) return false;
    for (int f = 0; f < d->field_count; f++) {
        const qp_field *x = &d->fields[f];
        size_t          bytes, all;
        bool            whole = (unsigned)x->dtype < QP_DTYPE_COUNT && qp_dtype_block(x->dtype) == 1;
        if (!x->name || !whole || x->ndim < 0 || x->ndim >= QP_MAX_DIMS) return false;
        bytes = qp_dtype_bytes(x->dtype);
        for (int i = 0; i < x->ndim; i++)
            if (x->shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)x->shape[i], &bytes)) return false;
        d->offsets[f] = *slot_bytes;
        d->row_bytes[f] = bytes;
        if (__builtin_mul_overflow(bytes, (size_t)d->options.batch, &all) || all > PTRDIFF_MAX / 32)
            return false;
        *slot_bytes += (all + 63) / 64 * 64;
    }
    return true;
}

static void close_source(const qp_source *type, void *source) {
    if (type->close) type->close(source);
}

qp_data *qpi_data_new(qp_ctx *ctx, const qp_source *type, void *source, const qp_data_options *options,
                      qpi_error *e) {
    qp_data *d = calloc(1, sizeof *d);
    size_t   bytes;
    if (!d) {
        qpi_fail_memory(e, "data");
        close_source(type, source);
        return NULL;
    }
    *d = (qp_data){.ctx = ctx, .type = type, .source = source, .options = *options};
    bool ok = check_options(d, e);
    if (ok && !lay_out(d, &bytes))
        ok = qpi_fail(e, QP_ERR_ARGUMENT, "data: the fields of kind \"%s\" are malformed or too large",
                      type->name) == QP_OK;
    if (ok) d->queue = qpi_queue_new(bytes, d->options.ahead, fill, d, e);
    if (d->queue) return d;
    qpi_data_free(d);
    return NULL;
}

void qpi_data_free(void *data) {
    qp_data *d = data;
    if (!d) return;
    qpi_data_free(d->validation);
    qpi_queue_close(d->queue);
    close_source(d->type, d->source);
    qpi_buffer_free(&d->state);
    free(d);
}

qp_data *qpi_data_give(qp_ctx *ctx, qp_data *d, const qpi_error *e) {
    if (!d) {
        qp_fail(ctx, e->code, "%s", e->text);
        return NULL;
    }
    d->owned = qpi_own(ctx, d, qpi_data_free);
    if (d->owned) return d;
    qpi_data_free(d);
    return NULL;
}

qp_data *qp_data_new(qp_ctx *ctx, const qp_source *type, void *source, qp_data_options options) {
    qpi_error e = {0};
    return qpi_data_give(ctx, qpi_data_new(ctx, type, source, &options, &e), &e);
}

void qp_data_close(qp_data *d) {
    if (!d || !d->owned) return; /* a validation part goes with its owner */
    qpi_disown(d->owned);
    qpi_data_free(d);
}

/* ---- Batches -------------------------------------------------------------------------- */

static qp_tensor attach(qp_data *d, int field, qpi_batch_slot *s) {
    const qp_field *x = &d->fields[field];
    int64_t         shape[QP_MAX_DIMS] = {d->options.batch};
    for (int i = 0; i < x->ndim; i++) shape[i + 1] = x->shape[i];
    qpi_slot_retain(s);
    return qp_attach(d->ctx, x->dtype, x->ndim + 1, shape, s->data + d->offsets[field], false, qpi_slot_drop,
                     s);
}

qp_record qp_data_next(qp_data *d) {
    qpi_error       e = {0};
    qp_record       b = {0};
    qpi_batch_slot *s = qpi_queue_next(d->queue, &e);
    if (!s) {
        qp_fail(d->ctx, e.code, "%s", e.text);
        return b;
    }
    if (s->failure) {
        qp_fail(d->ctx, QP_ERR_FORMAT, "data: batch %llu: %s", (unsigned long long)d->position, s->failure);
    } else {
        for (int f = 0; f < d->field_count; f++) {
            b.names[f] = d->fields[f].name;
            b.tensors[f] = attach(d, f, s);
        }
        b.count = d->field_count;
        d->position++;
    }
    bool failed = s->failure != NULL;
    qpi_slot_drop(s);
    if (failed) qpi_queue_seek(d->queue, d->position);
    return b;
}

uint64_t qp_data_position(const qp_data *d) { return d->position; }

qp_status qp_data_seek(qp_data *d, uint64_t position) {
    qpi_queue_seek(d->queue, position);
    d->position = position;
    return QP_OK;
}

/* ---- Asking --------------------------------------------------------------------------- */

qp_data *qp_data_validation(qp_data *d) { return d->validation; }

int64_t qp_data_samples(const qp_data *d) { return (int64_t)d->samples; }

int64_t qp_data_batches(const qp_data *d) {
    uint64_t rows = (uint64_t)d->options.batch * (uint64_t)d->options.processes;
    return (int64_t)(d->options.order == QP_STREAMS ? d->samples / rows : (d->samples - 1) / rows + 1);
}

int64_t qp_data_tokens(const qp_data *d) {
    return d->type == &qpi_text_source ? qpi_text_tokens(d->source) : 0;
}
int64_t qp_data_bytes(const qp_data *d) { return d->type == &qpi_text_source ? qpi_text_bytes(d->source) : 0; }

uint64_t qp_data_fingerprint(const qp_data *d) {
    const qp_data_options *o = &d->options;
    uint64_t parts[] = {d->type->fingerprint(d->source), (uint64_t)o->batch, (uint64_t)o->order, o->seed,
                        (uint64_t)o->processes};
    return qpi_checksum_of(0, parts, sizeof parts);
}
