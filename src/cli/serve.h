/* quipu serve: what its files share. serve.c: the verb, its loop and its watch; serve_http.c: HTTP;
 * serve_access.c: who may ask; serve_request.c: JSON to a request; serve_reply.c: what the engine writes, to JSON. */
#ifndef QUIPU_CLI_SERVE_H
#define QUIPU_CLI_SERVE_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/error.h"
#include "format/buffer.h"
#include "quipu/chat.h"
#include "quipu/embed.h"
#include "quipu/infer.h"

#define SERVE_MOST_CHOICES 16
#define SERVE_MOST_PROMPTS 64
#define SERVE_MOST_TOP 20

/* ---- A request (serve_request.c) ---------------------------------------------------------------- */

typedef struct {
    json_t        *root; /* what texts below belong to */
    bool           chat, stream, usage, echo, logprobs;
    int            top, n;
    int64_t        max_tokens; /* -1: as many as there is room for */
    uint64_t       seed;
    qp_sampling    sampling;
    qp_logit_bias *bias;
    const char    *stop[8];
    int            stop_count;
    json_t        *messages, *tools, *variables; /* chat; content is text */
    json_t        *prompt;                       /* completions: a text, ids, or a list of either */
} serve_params;

/* What an error of a request is told as. */
typedef struct {
    int         status; /* of HTTP */
    char        text[512];
    const char *code; /* OpenAI's, NULL: none */
} serve_error;

typedef struct {
    qp_ids  ids;
    int64_t before, after; /* of these, put around what was sent by the tokenizer */
    qp_text echo;          /* what was sent, as text */
} serve_prompt;

/* False after setting the error. root is taken over. */
bool serve_params_read(json_t *root, bool chat, serve_params *out, serve_error *e);
void serve_params_free(serve_params *p);
bool serve_read_ids(const json_t *list, int64_t vocabulary, qp_ids *out, serve_error *e); /* of an array */
/* The ids of each prompt; at most SERVE_MOST_PROMPTS. A chat has one. */
bool serve_params_prompts(const serve_params *p, qp_ctx *ctx, const qp_tokenizer *t,
                          const qp_chat_template *chat, int64_t vocabulary, int32_t begin,
                          serve_prompt *prompts, int *count, serve_error *e);
void serve_prompts_free(serve_prompt *prompts, int count); /* and the array */

/* ---- A job (serve_reply.c) ------------------------------------------------------------------------- */

typedef struct serve_job serve_job;
typedef struct {
    serve_job    *job;
    int           index;
    uint64_t      number; /* of the engine */
    bool          ended, begun;
    qpi_buffer    text;
    json_t       *tokens, *token_logprobs, *top_logprobs, *offsets; /* completions */
    json_t       *content;                                          /* chat */
    int64_t       read, offset; /* tokens of the prompt; characters that tokens with logprobs have had */
    int32_t       previous;     /* of the tokens that are text, -1: none */
    qp_generation result;
} serve_choice;

struct serve_job {
    pthread_mutex_t     lock;
    int                 refs; /* the connection's and each choice's that is in the engine */
    qp_engine          *engine;
    const qp_tokenizer *tokenizer;
    qp_ctx             *ctx; /* for decoding, of the engine's thread */
    const char         *model;
    serve_params        params;
    serve_prompt       *prompts; /* each of params.n choices */
    int                 prompt_count;
    char                id[40];
    int64_t             created;
    serve_choice       *choices;
    int                 count, left;  /* choices, and those that have not ended */
    bool                failed, gone; /* no memory or an engine's error; the client has left */
    qpi_buffer          out;          /* events to be sent */
    size_t              sent;
    bool                suspended;
    void (*resume)(void *connection);
    void *connection; /* NULL once the client has left */
    int   fd;
    /* of embeddings */
    serve_job    *next;
    const json_t *inputs; /* the request's: texts or arrays of ids; NULL: no embeddings */
    bool          base64;
    float        *vectors; /* [count, width] */
    int64_t       width;
    char          error[256];   /* why there are none */
    int           error_status; /* the request's fault or the model's */
};

serve_job *serve_job_new(serve_params *params, int count); /* takes params over */
void serve_job_release(serve_job *j);
bool serve_client_left(int fd); /* told from its socket, whatever it has sent before */
/* Gives all choices to the engine. False: what there was is cancelled. */
bool serve_job_submit(serve_job *j, const int32_t *ends, int end_count, int64_t positions, serve_error *e);
/* Cancels what is left; from any thread. The lock is held. */
void serve_job_cancel(serve_job *j);
void serve_job_wake(serve_job *j);      /* its connection goes on; the lock is held */
json_t *serve_job_result(serve_job *j); /* once all have ended */

/* ---- Embeddings (serve_embed.c) ------------------------------------------------------------------------ */

struct serve_server;
/* The job, in the queue; NULL after setting the error. root is taken over. */
serve_job *serve_embed_submit(struct serve_server *s, json_t *root, serve_error *e);
/* Some texts of the first in the queue; false: there is none. */
bool serve_embed_step(struct serve_server *s);
json_t *serve_embed_result(serve_job *j);

/* ---- The server ------------------------------------------------------------------------------------- */

typedef struct serve_server {
    qp_engine          *engine;
    qp_ctx             *ctx, *http_ctx; /* the engine's thread's; HTTP's */
    const qp_tokenizer *tokenizer;
    const qp_chat_template *template;
    const int32_t *ends;
    int            end_count;
    int32_t        begin;
    int64_t        positions, vocabulary;
    const char    *model, *key; /* key NULL: none */
    const char    *host; /* an IP address */
    uint16_t       port;
    size_t         most_body;
    double         header_seconds, body_seconds;
    int64_t        started;
    bool           quiet;
    atomic_bool    draining;
    atomic_ullong  answers[6]; /* by the status' first digit */
    atomic_int     connections;
    /* embeddings */
    qp_model        *weights;
    qp_embed_options embed;
    int64_t          width, room; /* of a vector; tokens of an input */
    int              queue;
    atomic_int       embed_waiting;
    serve_job       *embed_first, *embed_last;
    pthread_mutex_t  embed_lock; /* of the queue */
} serve_server;

typedef struct serve_http serve_http;
/* NULL after an error message in `error`. port 0 becomes the one taken. */
serve_http *serve_http_start(serve_server *s, char error[256]);
void serve_http_watch(serve_http *h);  /* deadlines, clients that left: to be called often */
void serve_http_refuse(serve_http *h); /* no new connections */
int serve_http_busy(serve_http *h);    /* requests being answered */
void serve_http_stop(serve_http *h);

/* ---- Who may ask (serve_access.c) ----------------------------------------------------------------- */

struct MHD_Connection;
bool serve_is_local(struct MHD_Connection *c); /* from this machine, and from no page of another site */
bool serve_has_key(struct MHD_Connection *c, const char *key); /* in its header Authorization */

extern const unsigned char serve_page[]; /* page.html */
extern const size_t        serve_page_bytes;

#endif
