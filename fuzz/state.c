/* train.json of a training state, whose other files are sound. The state is made here; its train.json
 * is written into the corpus, which is the first argument. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "quipu/train.h"

static const char config[] = "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 8,"
                             " \"num_hidden_layers\": 1, \"max_position_embeddings\": 16,"
                             " \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": \"attention\", "
                             "\"heads\": 2}, \"ffn\": {\"type\": \"mlp\"},"
                             " \"norm\": {\"type\": \"rms_norm\"}}";

static qp_ctx         *ctx;
static qp_training_set set;
static const char     *out;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static char text[200], command[900];
    const char *corpus = "";
    qp_record   batch;
    for (int i = *argc - 1; i > 0; i--)
        if ((*argv)[i][0] != '-') corpus = (*argv)[i];
    ctx = qp_open((qp_options){.threads = 1});
    out = fuzz_folder();
    snprintf(text, sizeof text, "%s/text", out);
    fuzz_write(text, (const uint8_t *)config, sizeof config);
    set.model = qp_model_new(ctx, "fuzz", config);
    if (!set.model) abort();
    set.optim = qp_adamw(qp_model_params(set.model), (qp_adamw_options){0});
    set.data = qp_data_open(ctx, 1, (const char *[]){text}, (qp_data_options){.length = 8, .ahead = -1});
    qp_scope s = qp_enter(ctx);
    batch = qp_data_next(set.data);
    qp_backward(qp_model_loss(set.model, qp_record_get(&batch, "input_ids"), qp_record_get(&batch, "labels")));
    qp_step(set.optim);
    qp_leave(s);
    if (qp_state_save(set, out, 1, 0) != QP_OK) abort();
    snprintf(command, sizeof command, "[ ! -d '%s' ] || cp '%s/latest/train.json' '%s/seed'", corpus, out,
             corpus);
    return system(command);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char    path[200];
    int64_t step = 0;
    snprintf(path, sizeof path, "%s/latest/train.json", out);
    fuzz_write(path, data, size);
    qp_status status = qp_state_restore(set, out, &step);
    if ((status != QP_OK) != qp_failed(ctx)) __builtin_trap();
    qp_clear(ctx);
    return 0;
}
