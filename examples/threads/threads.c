/* Several threads, each with a context of its own, write with one set of weights; then what a server
 * needs besides: progress, a cancel flag, a memory cap.   threads FOLDER */
#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include <pthread.h>
#include <quipu/quipu.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { THREADS = 4, TOKENS = 48, POSITIONS = 512 };

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 128,"
    " \"intermediate_size\": 352, \"num_hidden_layers\": 4, \"num_attention_heads\": 4,"
    " \"max_position_embeddings\": 512, \"eos_token_id\": 256}";

static const int32_t prompt[] = {'O', 'n', 'c', 'e'};

/* ---- One set of weights ------------------------------------------------------------------------- */

/* Gives model (made without elements) the memory of owner's parameters: nothing is copied, and each
 * context counts its own storages. Owner's weights must stay as they are, and outlive these. */
static bool share_weights(qp_model *model, qp_model *owner) {
    qp_ctx       *ctx = qp_model_ctx(model);
    qp_state_dict mine = qp_module_state(qp_model_module(model)),
                  theirs = qp_module_state(qp_model_module(owner));
    for (int i = 0; i < mine.count; i++) {
        const qp_entry *e = &theirs.entries[i];
        int64_t         shape[QP_MAX_DIMS];
        if (mine.entries[i].tied) continue;
        for (int k = 0; k < qp_ndim(e->tensor); k++) shape[k] = qp_size(e->tensor, k);
        qp_scope  s = qp_enter(ctx);
        qp_tensor view = qp_attach(ctx, qp_dtype_of(e->tensor), qp_ndim(e->tensor), shape,
                                   (void *)qp_data_of(e->tensor), true, NULL, NULL);
        qp_status status = qp_param_set(mine.entries[i].tensor, view);
        qp_leave(s);
        if (status != QP_OK) return false;
    }
    return true;
}

/* ---- A thread ------------------------------------------------------------------------------------ */

typedef struct {
    qp_model       *owner;
    const char     *folder;
    int64_t         tokens;
    bool            endless; /* writes until it is cancelled */
    pthread_mutex_t lock;    /* of what the threads both touch */
    qp_ctx         *ctx;
    bool            done;
    int64_t         progress; /* tokens so far */
    int32_t         ids[POSITIONS];
    qp_code         code;
    size_t          bytes;
} job;

/* The progress callback: the thread's own, between tokens. */
static bool on_token(void *user, const qp_token *token) {
    job *j = user;
    pthread_mutex_lock(&j->lock);
    j->ids[j->progress++] = token->id;
    if (j->endless && j->progress == POSITIONS - 8) j->progress = 0; /* it is cancelled long before */
    pthread_mutex_unlock(&j->lock);
    return true;
}

static void write_with(job *j, qp_model *model) {
    qp_generation       result;
    qp_session         *session = qp_session_new(model, 1, POSITIONS, (qp_session_options){0});
    qp_generate_options options = {.max_tokens = j->tokens, .on_token = on_token, .user = j};
    if (!session) return;
    do {
        if (qp_session_truncate(session, 0, 0) != QP_OK ||
            qp_generate(session, NULL, prompt, 4, options, &result) != QP_OK)
            return;
    } while (j->endless);
}

static void *run(void *user) {
    job    *j = user;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    pthread_mutex_lock(&j->lock);
    j->ctx = ctx;
    j->code = QP_ERR_MEMORY;
    j->done = !ctx;
    pthread_mutex_unlock(&j->lock);
    if (!ctx) return NULL;
    qp_model *model = qp_model_load(ctx, j->folder, (qp_model_options){.empty = true});
    if (model && share_weights(model, j->owner)) write_with(j, model);
    qp_code code = qp_error_code(ctx);
    if (code != QP_OK && code != QP_ERR_CANCELLED) fprintf(stderr, "%s\n", qp_error(ctx));
    pthread_mutex_lock(&j->lock);
    j->code = code;
    j->bytes = qp_stats_of(ctx).peak_bytes;
    j->ctx = NULL;
    j->done = true;
    pthread_mutex_unlock(&j->lock);
    qp_close(ctx);
    return NULL;
}

static bool start(job *j, pthread_t *thread) {
    pthread_mutex_init(&j->lock, NULL);
    return pthread_create(thread, NULL, run, j) == 0;
}

/* ---- What main shows ------------------------------------------------------------------------------- */

/* All threads write the same as the first. */
static bool parallel(qp_model *owner, const char *folder) {
    static job jobs[THREADS];
    pthread_t  threads[THREADS];
    bool       good = true;
    int        started = 0;
    for (; started < THREADS; started++) {
        jobs[started] = (job){.owner = owner, .folder = folder, .tokens = TOKENS};
        if (!start(&jobs[started], &threads[started])) break;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        good = good && jobs[i].code == QP_OK && jobs[i].progress == TOKENS &&
               !memcmp(jobs[i].ids, jobs[0].ids, TOKENS * sizeof jobs[0].ids[0]);
    }
    size_t weights = (size_t)qp_model_info_of(owner).parameters * sizeof(float);
    printf("%d threads wrote %s tokens; the weights are %zu KB, a thread holds %zu KB at most\n", started,
           good ? "the same" : "DIFFERENT", weights / 1024, jobs[0].bytes / 1024);
    return good && started == THREADS && jobs[0].bytes < weights;
}

/* A thread that would never end is cancelled once it has written a few tokens. */
static bool cancelled(qp_model *owner, const char *folder) {
    static job j;
    pthread_t  thread;
    j = (job){.owner = owner, .folder = folder, .tokens = POSITIONS - 8, .endless = true};
    if (!start(&j, &thread)) return false;
    for (bool done = false; !done;) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pthread_mutex_lock(&j.lock);
        if (j.progress >= 8 && j.ctx) qp_cancel(j.ctx);
        done = j.done;
        pthread_mutex_unlock(&j.lock);
    }
    pthread_join(thread, NULL);
    printf("cancelled: %s\n", j.code == QP_ERR_CANCELLED ? "yes" : "NO");
    return j.code == QP_ERR_CANCELLED;
}

/* What does not fit below the cap is an error; the context goes on. */
static bool capped(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .memory_cap = 8 << 20});
    if (!ctx) return false;
    qp_zeros(ctx, QP_F32, 2, (int64_t[]){4096, 4096});
    bool refused = qp_error_code(ctx) == QP_ERR_MEMORY;
    printf("capped: %s\n", qp_error(ctx));
    qp_clear(ctx);
    bool goes_on = qp_item(qp_sum(qp_full(ctx, QP_F32, 1, (int64_t[]){1000}, 2), 0, NULL, false)) == 2000;
    qp_close(ctx);
    return refused && goes_on;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: threads FOLDER\n"), 2;
    qp_ctx *ctx = qp_open((qp_options){.seed = 1});
    if (!ctx) return fprintf(stderr, "out of memory\n"), 1;
    qp_model *owner = qp_model_new(ctx, "threads", config);
    bool      good = owner && qp_model_save(owner, argv[1]) == QP_OK;
    good = good && parallel(owner, argv[1]) && cancelled(owner, argv[1]) && capped();
    if (qp_failed(ctx)) fprintf(stderr, "%s\n", qp_error(ctx));
    qp_close(ctx);
    return !good;
}
