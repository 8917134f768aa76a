/* The thread pool. A job is published by one store of `ticket`; whoever takes a piece off
 * it may read the job, because the caller leaves only when every taken piece is done. A
 * worker that wakes late finds nothing left and delays nobody. */
#define _GNU_SOURCE /* sched_getcpu and affinity */
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define LINE 64      /* bytes that two processors should not both write */
#define SPINS 1500   /* pauses before sleeping: some 50 microseconds */
#define LEFT_BITS 48 /* ticket: workers allowed << 48 | pieces left to take */
#define LEFT_MASK ((UINT64_C(1) << LEFT_BITS) - 1)
#define MAX_THREADS 1024

typedef void piece_fn(void *arg, int64_t begin, int64_t end, int worker);

typedef struct {
    piece_fn *fn;
    void     *arg;
    int64_t   n, grain, pieces;
} job;

typedef struct {
    qp_pool  *pool;
    pthread_t thread;
    int       index;
} worker;

typedef struct {
    _Alignas(LINE) _Atomic int processor; /* that the thread was last seen on; -1: none yet */
} place;

struct qp_pool {
    /* One line, so that a worker has all of it as soon as it sees the ticket. */
    _Alignas(LINE) _Atomic uint64_t ticket;
    _Atomic int64_t pending; /* pieces not yet done */
    job             job;

    _Alignas(LINE) _Atomic bool busy; /* a job runs; what other contexts begin meanwhile runs inline */
    _Alignas(LINE) int threads;
    int             spins;
    _Atomic int     asleep; /* workers that need the condition to wake */
    _Atomic bool    caller_asleep;
    bool            stop; /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t  wake, done;
    worker         *workers; /* 1..threads-1 */
    place          *places;  /* 0..asked-1 */
    int             asked;   /* threads wanted; there may be fewer */
};

static _Thread_local bool inside; /* running a piece: nested calls run inline */
static _Thread_local int  self;   /* this thread's worker number while inside */

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
/* Notes where this thread is. Where no processor is free, because others compute too, the system
 * wakes a worker on that of the caller, and there it runs only while the caller waits: both have
 * one processor and the stranger the other. Such a worker leaves for one that no thread of the
 * pool was seen on. What it may use stays the same. */
static void take_place(qp_pool *pool, int index) {
    int  cpu = sched_getcpu();
    bool alone = true;
    if (atomic_load_explicit(&pool->places[index].processor, memory_order_relaxed) != cpu)
        atomic_store_explicit(&pool->places[index].processor, cpu, memory_order_relaxed);
    for (int i = 0; i < index; i++)
        alone = alone && atomic_load_explicit(&pool->places[i].processor, memory_order_relaxed) != cpu;
    cpu_set_t allowed, rest;
    if (alone || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    rest = allowed;
    for (int i = 0; i < pool->asked; i++) {
        int taken = atomic_load_explicit(&pool->places[i].processor, memory_order_relaxed);
        if (taken >= 0 && taken < CPU_SETSIZE) CPU_CLR(taken, &rest);
    }
    if (CPU_COUNT(&rest) > 0 && sched_setaffinity(0, sizeof rest, &rest) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static void take_place(qp_pool *pool, int index) { (void)pool, (void)index; }
#endif

static bool has_work(uint64_t ticket, int index) {
    return (ticket & LEFT_MASK) != 0 && (uint64_t)index < ticket >> LEFT_BITS;
}

static void run_piece(const job *j, int64_t piece, int index) {
    int64_t begin = piece * j->grain;
    int64_t end = j->n - begin < j->grain ? j->n : begin + j->grain;
    j->fn(j->arg, begin, end, index);
}

/* Takes and runs pieces until none is left. */
static void work(qp_pool *pool, int index) {
    int64_t  count = 0;
    uint64_t t = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    inside = true;
    self = index;
    while (has_work(t, index)) {
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &t, t - 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        run_piece(&pool->job, pool->job.pieces - (int64_t)(t & LEFT_MASK), index);
        count++;
        t = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    }
    inside = false;
    if (count == 0 || atomic_fetch_sub(&pool->pending, count) != count) return;
    if (atomic_load(&pool->caller_asleep)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Sleeps until there is work; false when the pool is closing. */
static bool sleep_until_work(qp_pool *pool, int index) {
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->asleep, 1);
    while (!pool->stop && !has_work(atomic_load(&pool->ticket), index))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->asleep, 1);
    bool go = !pool->stop;
    pthread_mutex_unlock(&pool->lock);
    return go;
}

static void *worker_main(void *arg) {
    worker  *w = arg;
    qp_pool *pool = w->pool;
    for (;;) {
        int spin = 0;
        while (spin < pool->spins &&
               !has_work(atomic_load_explicit(&pool->ticket, memory_order_relaxed), w->index)) {
            pause_briefly();
            spin++;
        }
        if (spin == pool->spins && !sleep_until_work(pool, w->index)) return NULL;
        if (pool->spins > 0) take_place(pool, w->index);
        work(pool, w->index);
    }
}

static void wait_for_pending(qp_pool *pool) {
    for (int spin = 0; spin < pool->spins; spin++) {
        if (atomic_load(&pool->pending) == 0) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_asleep, true);
    while (atomic_load(&pool->pending) != 0) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_asleep, false);
    pthread_mutex_unlock(&pool->lock);
}

static void run_inline(const job *j, int threads) {
    int index = inside && self < threads ? self : 0;
    for (int64_t piece = 0; piece < j->pieces; piece++) run_piece(j, piece, index);
}

void qp_parallel(const qp_exec *exec, int64_t n, int64_t grain, piece_fn *fn, void *arg) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    qp_pool *pool = exec->pool;
    job      j = {fn, arg, n, grain, (n - 1) / grain + 1};
    int      threads = exec->threads;
    if (pool && threads > pool->threads) threads = pool->threads;
    if (!pool || threads <= 1 || j.pieces == 1 || inside || atomic_exchange(&pool->busy, true)) {
        run_inline(&j, exec->threads);
        return;
    }
    if (pool->spins > 0) take_place(pool, 0);
    pool->job = j;
    atomic_store_explicit(&pool->pending, j.pieces, memory_order_relaxed);
    atomic_store(&pool->ticket, (uint64_t)threads << LEFT_BITS | (uint64_t)j.pieces);
    if (atomic_load(&pool->asleep) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    work(pool, 0);
    wait_for_pending(pool);
    atomic_store_explicit(&pool->busy, false, memory_order_release);
}

/* Starts the workers; signals of the host program stay with its own threads. */
static void start_workers(qp_pool *pool, int threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads; i++) {
        worker *w = &pool->workers[i - 1];
        *w = (worker){.pool = pool, .index = i};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
        pool->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

qp_pool *qpi_pool_new(int threads) {
    if (threads < 1) threads = 1;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    qp_pool *pool = aligned_alloc(LINE, sizeof *pool);
    worker  *workers = calloc((size_t)threads, sizeof *workers);
    place   *places = aligned_alloc(LINE, (size_t)threads * sizeof *places);
    if (!pool || !workers || !places) {
        free(pool);
        free(workers);
        free(places);
        return NULL;
    }
    for (int i = 0; i < threads; i++) atomic_init(&places[i].processor, -1);
    *pool = (qp_pool){.threads = 1, .workers = workers, .places = places, .asked = threads};
    /* With more workers than processors a spinning one keeps another from working. */
    pool->spins = threads <= sysconf(_SC_NPROCESSORS_ONLN) ? SPINS : 0;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    start_workers(pool, threads);
    return pool;
}

void qpi_pool_free(qp_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->threads - 1; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    free(pool->workers);
    free(pool->places);
    free(pool);
}

int qpi_pool_threads(const qp_pool *pool) { return pool->threads; }
