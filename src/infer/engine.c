/* Several texts at once. The queue is shared between threads and locked; rows, replies and the context
 * belong to the thread that steps. */
#define _GNU_SOURCE /* strdup, clock_gettime */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/request.h"

#define ROWS 4
#define QUEUE 1024
#define FORK 16 /* positions more than a free row has that are worth a copy from one in use */

struct qp_engine {
    qp_ctx             *ctx;
    qpi_owned          *owned;
    qp_session         *session;
    const qp_tokenizer *tokenizer;
    qp_engine_options   options;
    qpi_decoder         decoder;
    qpi_request       **seats; /* [rows]; NULL: free */
    uint64_t           *freed; /* [rows]: when, in steps */
    uint64_t            step;
    int64_t             turn; /* whose prompt is next */

    pthread_mutex_t lock;
    pthread_cond_t  wake;
    qpi_request    *first, *last; /* the queue */
    qpi_request    *between;      /* out of the queue, not yet in a seat */
    uint64_t        number;
    bool            woken;
    qp_engine_stats stats;
};

/* ---- Making and closing ------------------------------------------------------------------------- */

static void destroy(void *thing) {
    qp_engine *e = thing;
    for (qpi_request *r = e->first, *next; r; r = next) {
        next = r->next;
        qpi_request_free(r);
    }
    for (int64_t i = 0; e->seats && i < e->options.rows; i++) {
        if (!e->seats[i]) continue;
        qp_text_free(&e->seats[i]->reply.pending); /* its sampler is the context's */
        free(e->seats[i]->reply.logprobs);
        free(e->seats[i]->reply.logits);
        free(e->seats[i]->reply.chances);
        qpi_request_free(e->seats[i]);
    }
    qpi_decoder_close(&e->decoder);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    free(e->seats);
    free(e->freed);
    free(e);
}

static bool open_locks(qp_engine *e) {
    pthread_condattr_t clock;
    if (pthread_mutex_init(&e->lock, NULL)) return false;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    bool ok = pthread_cond_init(&e->wake, &clock) == 0;
    pthread_condattr_destroy(&clock);
    if (!ok) pthread_mutex_destroy(&e->lock);
    return ok;
}

static qp_engine *make(qp_ctx *ctx, const qp_tokenizer *t, qp_engine_options options) {
    qp_engine *e = calloc(1, sizeof *e);
    if (!e || !open_locks(e)) {
        free(e);
        return NULL;
    }
    e->ctx = ctx;
    e->tokenizer = t;
    e->options = options;
    e->seats = calloc((size_t)options.rows, sizeof(qpi_request *));
    e->freed = calloc((size_t)options.rows, sizeof *e->freed);
    if (e->seats && e->freed && (e->owned = qpi_own(ctx, e, destroy))) return e;
    destroy(e);
    return NULL;
}

qp_engine *qp_engine_new(qp_model *m, const qp_tokenizer *t, qp_engine_options options) {
    qp_ctx *ctx = m->ctx;
    if (qp_failed(ctx)) return NULL;
    if (options.rows < 0 || options.rows > 4096 || options.positions < 0 || options.queue < 0 ||
        options.chunk < 0) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "engine: %lld rows, expected at most 4096, and nothing below 0",
                (long long)options.rows);
        return NULL;
    }
    if (!options.rows) options.rows = ROWS;
    if (!options.positions) options.positions = m->positions;
    if (!options.queue) options.queue = QUEUE;
    if (!options.chunk) options.chunk = QPI_CHUNK;
    qp_engine *e = make(ctx, t, options);
    if (!e) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: engine");
        return NULL;
    }
    e->session = qp_session_new(m, options.rows, options.positions, (qp_session_options){.kv = options.kv});
    qp_drafter *drafter = e->session && options.drafter ? options.drafter(options.user, e->session) : NULL;
    if (!qp_failed(ctx) && qpi_decoder_open(&e->decoder, e->session, drafter, options.rows)) {
        e->decoder.forgiving = true;
        e->stats.rows = options.rows;
        e->stats.positions = options.rows * options.positions;
        return e;
    }
    qp_drafter_close(drafter);
    qp_session_close(e->session);
    qpi_disown(e->owned);
    destroy(e);
    return NULL;
}

/* ---- Ends ------------------------------------------------------------------------------------------- */

static void count(qp_engine *e, const qp_generation *g) {
    qp_engine_stats *s = &e->stats;
    pthread_mutex_lock(&e->lock);
    s->requests++;
    s->errors += g->reason == QP_STOP_ERROR;
    s->prompt_tokens += (uint64_t)g->prompt_tokens;
    s->reused += (uint64_t)g->reused;
    s->tokens += (uint64_t)g->tokens;
    s->calls += (uint64_t)g->calls;
    s->drafted += (uint64_t)g->drafted;
    s->accepted += (uint64_t)g->accepted;
    pthread_mutex_unlock(&e->lock);
}

/* The last word to the host. The request is in no list any more. */
static void finish(qp_engine *e, qpi_request *r) {
    qpi_reply_finish(&r->reply);
    if (r->reply.result.reason == QP_STOP_ERROR) r->reply.result.error = r->reply.error;
    if (r->of.on_end) r->of.on_end(r->of.options.user, &r->reply.result);
    count(e, &r->reply.result);
    qpi_reply_close(&r->reply);
    qpi_request_free(r);
}

static void stop(qpi_request *r, qp_stop_reason reason) {
    r->reply.stopped = false;
    qpi_reply_stop(&r->reply, reason);
}

/* The context's error becomes the request's. */
static void fail(qp_engine *e, qpi_request *r) {
    strncpy(r->reply.error, qp_failed(e->ctx) ? qp_error(e->ctx) : "failed", sizeof r->reply.error - 1);
    qp_clear(e->ctx);
    stop(r, QP_STOP_ERROR);
}

static void leave(qp_engine *e, int64_t row) {
    pthread_mutex_lock(&e->lock);
    qpi_request *r = e->seats[row];
    e->seats[row] = NULL;
    pthread_mutex_unlock(&e->lock);
    e->freed[row] = ++e->step;
    finish(e, r);
}

void qp_engine_close(qp_engine *e) {
    if (!e) return;
    for (int64_t i = 0; i < e->options.rows; i++)
        if (e->seats[i]) {
            stop(e->seats[i], QP_STOP_CANCELLED);
            leave(e, i);
        }
    for (qpi_request *r = e->first, *next; r; r = next) {
        next = r->next;
        stop(r, QP_STOP_CANCELLED);
        finish(e, r);
    }
    e->first = NULL;
    qp_drafter_close(e->decoder.drafter);
    qp_session_close(e->session);
    qpi_disown(e->owned);
    destroy(e);
}

/* ---- From any thread ---------------------------------------------------------------------------------- */

/* Rows that nobody sits in or is on the way to. The lock is held. */
static int64_t free_rows(const qp_engine *e) {
    int64_t n = e->between ? -1 : 0;
    for (int64_t i = 0; i < e->options.rows; i++) n += !e->seats[i];
    return n;
}

qp_status qp_engine_submit(qp_engine *e, const qp_request *of, uint64_t *number, char error[256]) {
    char      own[256];
    char     *text = error ? error : own;
    qp_status status = QP_OK;
    if (qpi_request_wrong(of, e->session->m, e->session->reserved, text)) return QP_ERR_ARGUMENT;
    qpi_request *r = qpi_request_new(of);
    if (!r) {
        strcpy(text, "out of memory");
        return QP_ERR_MEMORY;
    }
    r->reply = (qpi_reply){.ctx = e->ctx, .options = &r->of.options, .result.prompt_tokens = of->count};
    r->reply.mark = qpi_now();
    pthread_mutex_lock(&e->lock);
    if (e->stats.waiting >= e->options.queue + free_rows(e)) {
        strcpy(text, "the queue is full");
        status = QP_ERR_STATE;
    } else {
        r->number = ++e->number;
        if (number) *number = r->number;
        if (e->last) e->last->next = r;
        else e->first = r;
        e->last = r;
        e->stats.waiting++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (status != QP_OK) qpi_request_free(r);
    return status;
}

void qp_engine_cancel(qp_engine *e, uint64_t number) {
    pthread_mutex_lock(&e->lock);
    for (qpi_request *r = e->first; r; r = r->next)
        if (r->number == number) r->cancelled = true;
    if (e->between && e->between->number == number) e->between->cancelled = true;
    for (int64_t i = 0; i < e->options.rows; i++)
        if (e->seats[i] && e->seats[i]->number == number) e->seats[i]->cancelled = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

void qp_engine_wake(qp_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->woken = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

static bool seated(const qp_engine *e) {
    for (int64_t i = 0; i < e->options.rows; i++)
        if (e->seats[i]) return true;
    return false;
}

void qp_engine_wait(qp_engine *e, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (seconds > 1e8) seconds = -1;
    if (seconds > 0) {
        until.tv_sec += (time_t)seconds;
        until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    }
    pthread_mutex_lock(&e->lock);
    for (int late = 0; !late && !e->woken && !e->first && !seated(e);)
        late = seconds < 0 ? pthread_cond_wait(&e->wake, &e->lock)
                           : pthread_cond_timedwait(&e->wake, &e->lock, &until);
    e->woken = false;
    pthread_mutex_unlock(&e->lock);
}

qp_engine_stats qp_engine_stats_of(qp_engine *e) {
    pthread_mutex_lock(&e->lock);
    qp_engine_stats s = e->stats;
    pthread_mutex_unlock(&e->lock);
    return s;
}

/* ---- Who sits where -------------------------------------------------------------------------------------- */

/* How much of the prompt row holds already. Its last token is read again, for the logits. */
static int64_t common(const qp_engine *e, const qpi_request *r, int64_t row) {
    const int32_t *held = qpi_row_tokens(e->session, row);
    int64_t        n = e->session->row[row].length, same = 0, most = r->of.count - 1;
    if (e->options.no_reuse || (r->of.options.echo && r->of.options.logprobs)) return 0;
    while (same < n && same < most && held[same] == r->of.ids[same]) same++;
    return qpi_row_cuts(e->session, row, same) ? same : 0;
}

/* The free row that has most of the prompt; of equal ones that which was left longest ago. -1: none. */
static int64_t best_free(const qp_engine *e, const qpi_request *r, bool oldest) {
    int64_t best = -1, most = -1;
    for (int64_t i = 0; i < e->options.rows; i++) {
        if (e->seats[i]) continue;
        int64_t same = oldest ? 0 : common(e, r, i);
        if (same > most || (same == most && e->freed[i] < e->freed[best])) {
            best = i;
            most = same;
        }
    }
    return best;
}

static int64_t best_busy(const qp_engine *e, const qpi_request *r) {
    int64_t best = -1, most = -1;
    for (int64_t i = 0; i < e->options.rows; i++)
        if (e->seats[i] && common(e, r, i) > most) {
            best = i;
            most = common(e, r, i);
        }
    return best;
}

/* Makes the row hold what it can of the prompt. */
static int64_t take_row(qp_engine *e, qpi_request *r) {
    int64_t row = best_free(e, r, false), same = common(e, r, row), other = best_busy(e, r);
    if (other >= 0 && common(e, r, other) > same + FORK) {
        same = common(e, r, other);
        row = best_free(e, r, true);
        if (qp_session_fork(e->session, other, row, same) == QP_OK) {
            r->reply.result.reused = same;
            return row;
        }
        qp_clear(e->ctx);
        same = 0;
    }
    if (qp_session_truncate(e->session, row, same) != QP_OK) fail(e, r);
    r->reply.result.reused = same;
    return row;
}

static void sit(qp_engine *e, qpi_request *r) {
    double mark = r->reply.mark;
    bool   ok = qpi_reply_open(&r->reply, e->ctx, e->tokenizer, &r->of.options, e->session->m->vocabulary,
                               r->of.ids, r->of.count);
    r->reply.mark = mark;
    if (!ok) fail(e, r);
    int64_t row = take_row(e, r);
    r->seat = (qpi_seat){.row = row, .reply = &r->reply, .prompt = r->of.ids, .prompt_count = r->of.count};
    pthread_mutex_lock(&e->lock);
    e->seats[row] = r;
    e->between = NULL;
    pthread_mutex_unlock(&e->lock);
}

/* The next in the queue. */
static qpi_request *next_waiting(qp_engine *e) {
    pthread_mutex_lock(&e->lock);
    qpi_request *r = e->first;
    if (r) {
        e->first = r->next;
        if (!e->first) e->last = NULL;
        e->stats.waiting--;
    }
    e->between = r;
    pthread_mutex_unlock(&e->lock);
    return r;
}

/* What waits and is not wanted any more leaves the queue to others. */
static void drop_waiting(qp_engine *e) {
    for (;;) {
        qpi_request *r, *before = NULL;
        pthread_mutex_lock(&e->lock);
        for (r = e->first; r && !r->cancelled; r = r->next) before = r;
        if (r) {
            *(before ? &before->next : &e->first) = r->next;
            if (e->last == r) e->last = before;
            e->stats.waiting--;
        }
        pthread_mutex_unlock(&e->lock);
        if (!r) return;
        stop(r, QP_STOP_CANCELLED);
        finish(e, r);
    }
}

/* Those that have ended, and those that are not wanted any more, leave. */
static void dismiss(qp_engine *e) {
    for (int64_t i = 0; i < e->options.rows; i++) {
        qpi_request *r = e->seats[i];
        if (!r) continue;
        if (r->cancelled && !r->reply.stopped) stop(r, QP_STOP_CANCELLED);
        if (r->reply.stopped) leave(e, i);
    }
}

static void admit(qp_engine *e) {
    qpi_request *r;
    while (best_free(e, NULL, true) >= 0 && (r = next_waiting(e))) sit(e, r);
    dismiss(e);
}

/* ---- A step ------------------------------------------------------------------------------------------------ */

/* One piece of one prompt, in turn. */
static void read_prompt(qp_engine *e) {
    for (int64_t k = 0; k < e->options.rows; k++) {
        int64_t      i = (e->turn + k) % e->options.rows;
        qpi_request *r = e->seats[i];
        if (!r || r->reply.stopped || qpi_seat_writes(&e->decoder, &r->seat)) continue;
        e->turn = i + 1;
        if (!qpi_decoder_prompt(&e->decoder, &r->seat, e->options.chunk)) fail(e, r);
        else if (e->session->row[i].length == e->session->reserved) qpi_reply_stop(&r->reply, QP_STOP_LENGTH);
        return;
    }
}

/* A token of all that write. If that fails, each by itself: whoever is to blame fails alone. */
static void write_tokens(qp_engine *e) {
    qpi_seat    *seats[4096];
    qpi_request *who[4096];
    int          n = 0;
    for (int64_t i = 0; i < e->options.rows; i++) {
        qpi_request *r = e->seats[i];
        if (!r || r->reply.stopped || !qpi_seat_writes(&e->decoder, &r->seat)) continue;
        who[n] = r;
        seats[n++] = &r->seat;
    }
    if (!n || qpi_decoder_step(&e->decoder, n, seats)) return;
    if (n == 1) {
        fail(e, who[0]);
        return;
    }
    qp_clear(e->ctx);
    for (int i = 0; i < n; i++)
        if (!qpi_decoder_step(&e->decoder, 1, &seats[i])) fail(e, who[i]);
}

static void measure(qp_engine *e) {
    int64_t held = 0, taken = 0;
    for (int64_t i = 0; i < e->options.rows; i++) {
        held += e->session->row[i].length;
        taken += e->seats[i] != NULL;
    }
    pthread_mutex_lock(&e->lock);
    e->stats.held = held;
    e->stats.busy = taken;
    pthread_mutex_unlock(&e->lock);
}

bool qp_engine_step(qp_engine *e) {
    if (qp_failed(e->ctx)) qp_clear(e->ctx);
    drop_waiting(e);
    dismiss(e);
    admit(e);
    bool work = seated(e);
    read_prompt(e);
    write_tokens(e);
    dismiss(e);
    measure(e);
    return work;
}
