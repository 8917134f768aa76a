#define _POSIX_C_SOURCE 200809L
#include "data/prefetch.h"

#include <signal.h>
#include <stdlib.h>

#include "format/os.h"

typedef qpi_batch_slot slot;

struct qpi_queue {
    pthread_mutex_t lock;
    pthread_cond_t  wake;  /* for the thread: a free slot, another position, the end */
    pthread_cond_t  ready; /* for the taker */
    pthread_t       thread;
    bool            threaded, stop, filling;
    int             ahead, ready_count;
    int             refs; /* the owner, and every slot */
    size_t          slot_bytes;
    slot           *free, *first, *last; /* first..last: ready, in order */
    uint64_t        produce;             /* position of the next batch to fill */
    uint64_t        generation;          /* changes with every seek */
    qpi_fill_fn    *fill;
    void           *arg;
};

/* ---- Slots ---------------------------------------------------------------------------- */

static void unref_locked(qpi_queue *q) {
    bool last = --q->refs == 0;
    pthread_mutex_unlock(&q->lock);
    if (!last) return;
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    pthread_cond_destroy(&q->ready);
    free(q);
}

static void free_slot(slot *s) {
    free(s->data);
    free(s);
}

static slot *new_slot(qpi_queue *q) {
    slot *s = malloc(sizeof *s);
    if (!s) return NULL;
    *s = (slot){.queue = q, .data = aligned_alloc(64, (q->slot_bytes + 63) / 64 * 64 + 64)};
    if (s->data) return s;
    free(s);
    return NULL;
}

void qpi_slot_retain(slot *s) {
    pthread_mutex_lock(&s->queue->lock);
    s->refs++;
    pthread_mutex_unlock(&s->queue->lock);
}

void qpi_slot_drop(void *thing) {
    slot      *s = thing;
    qpi_queue *q = s->queue;
    pthread_mutex_lock(&q->lock);
    if (--s->refs > 0) {
        pthread_mutex_unlock(&q->lock);
    } else if (q->stop) {
        free_slot(s);
        unref_locked(q);
    } else {
        s->next = q->free;
        q->free = s;
        pthread_cond_signal(&q->wake);
        pthread_mutex_unlock(&q->lock);
    }
}

/* ---- Filling -------------------------------------------------------------------------- */

/* Takes a free slot, fills it and puts it into the row of ready ones, unless the position was
 * moved meanwhile. Called and left with the lock held. */
static void fill_one(qpi_queue *q) {
    slot    *s = q->free;
    uint64_t position = q->produce++, generation = q->generation;
    q->free = s->next;
    q->filling = true;
    pthread_mutex_unlock(&q->lock);
    s->failure = q->fill(q->arg, position, s->data);
    pthread_mutex_lock(&q->lock);
    q->filling = false;
    if (generation != q->generation) {
        s->next = q->free;
        q->free = s;
    } else {
        s->next = NULL;
        if (q->last) q->last->next = s;
        else q->first = s;
        q->last = s;
        q->ready_count++;
    }
    pthread_cond_signal(&q->ready);
}

static void *run(void *arg) {
    qpi_queue *q = arg;
    pthread_mutex_lock(&q->lock);
    while (!q->stop) {
        if (q->free && q->ready_count < q->ahead) fill_one(q);
        else pthread_cond_wait(&q->wake, &q->lock);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

/* ---- Life ----------------------------------------------------------------------------- */

/* Signals of the host program stay with its own threads. Without the thread batches are
 * filled when they are asked for. */
static void start_thread(qpi_queue *q) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    q->threaded = pthread_create(&q->thread, NULL, run, q) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool add_slot(qpi_queue *q) {
    slot *s = new_slot(q);
    if (!s) return false;
    s->next = q->free;
    q->free = s;
    q->refs++;
    return true;
}

qpi_queue *qpi_queue_new(size_t slot_bytes, int ahead, qpi_fill_fn *fill, void *arg, qpi_error *e) {
    qpi_queue *q = calloc(1, sizeof *q);
    if (!q) {
        qpi_fail_memory(e, "data");
        return NULL;
    }
    q->slot_bytes = slot_bytes;
    q->ahead = ahead;
    q->fill = fill;
    q->arg = arg;
    q->refs = 1;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->wake, NULL);
    pthread_cond_init(&q->ready, NULL);
    /* One more than are ready: the batch that is out. */
    for (int i = 0; i < ahead + 1; i++) {
        if (add_slot(q)) continue;
        qpi_fail_memory(e, "data");
        qpi_queue_close(q);
        return NULL;
    }
    if (ahead > 0) start_thread(q);
    return q;
}

void qpi_queue_close(qpi_queue *q) {
    if (!q) return;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
    if (q->threaded) pthread_join(q->thread, NULL);
    pthread_mutex_lock(&q->lock);
    if (q->last) {
        q->last->next = q->free;
        q->free = q->first;
    }
    for (slot *s = q->free, *next; s; s = next) {
        next = s->next;
        free_slot(s);
        q->refs--;
    }
    q->free = q->first = q->last = NULL;
    unref_locked(q);
}

/* ---- Taking --------------------------------------------------------------------------- */

static slot *take_ready(qpi_queue *q) {
    slot *s = q->first;
    q->first = s->next;
    if (!q->first) q->last = NULL;
    q->ready_count--;
    pthread_cond_signal(&q->wake);
    return s;
}

qpi_batch_slot *qpi_queue_next(qpi_queue *q, qpi_error *e) {
    slot *s = NULL;
    pthread_mutex_lock(&q->lock);
    while (!q->first) {
        /* All slots are out in tensors that somebody keeps: one more. */
        if (!q->free && !q->filling && !add_slot(q)) {
            qpi_fail_memory(e, "data");
            break;
        }
        if (!q->threaded) {
            fill_one(q);
        } else {
            pthread_cond_signal(&q->wake);
            pthread_cond_wait(&q->ready, &q->lock);
        }
    }
    if (q->first) {
        s = take_ready(q);
        s->refs = 1;
    }
    pthread_mutex_unlock(&q->lock);
    return s;
}

void qpi_queue_seek(qpi_queue *q, uint64_t position) {
    pthread_mutex_lock(&q->lock);
    if (q->last) {
        q->last->next = q->free;
        q->free = q->first;
        q->first = q->last = NULL;
        q->ready_count = 0;
    }
    q->produce = position;
    q->generation++;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}
