/* Files of a row of a session. A sound one is written into the corpus, which is the first argument. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "quipu/session.h"

static const char config[] = "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 8,"
                             " \"num_hidden_layers\": 1, \"max_position_embeddings\": 16,"
                             " \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": \"attention\", "
                             "\"heads\": 2}, \"ffn\": {\"type\": \"mlp\"},"
                             " \"norm\": {\"type\": \"rms_norm\"}}";

static qp_ctx     *ctx;
static qp_session *session;
static char        path[200];

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static char command[900];
    const char *corpus = "";
    int32_t     ids[12] = {1, 2, 3};
    for (int i = *argc - 1; i > 0; i--)
        if ((*argv)[i][0] != '-') corpus = (*argv)[i];
    ctx = qp_open((qp_options){.threads = 1});
    snprintf(path, sizeof path, "%s/row.safetensors", fuzz_folder());
    qp_model *m = qp_model_new(ctx, "fuzz", config);
    session = m ? qp_session_new(m, 2, 16, (qp_session_options){0}) : NULL;
    if (!session) abort();
    qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 12}, ids),
                    (qp_feed){.rows = (int64_t[]){0}});
    if (qp_session_save(session, 0, path) != QP_OK) abort();
    snprintf(command, sizeof command, "[ ! -d '%s' ] || cp '%s' '%s/seed'", corpus, path, corpus);
    return system(command);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_write(path, data, size);
    qp_status status = qp_session_load(session, 1, path);
    int64_t   length = qp_session_length(session, 1);
    if ((status != QP_OK) != qp_failed(ctx) || (status != QP_OK && length)) __builtin_trap();
    qp_clear(ctx);
    for (int64_t i = 0; i < length; i++)
        if (qp_session_tokens(session, 1)[i] < 0 || qp_session_tokens(session, 1)[i] > 256) __builtin_trap();
    if (qp_session_truncate(session, 1, 0) != QP_OK) __builtin_trap();
    return 0;
}
