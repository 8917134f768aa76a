/* Trains a small language model on a text file, saves it and writes a line with it.
 *   train TEXT FOLDER [STEPS] */
#include <quipu/quipu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool print(void *user, const char *text, size_t bytes) {
    (void)user;
    return fwrite(text, 1, bytes, stdout) == bytes;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: train TEXT FOLDER [STEPS]\n"), 2;
    int     steps = argc > 3 ? atoi(argv[3]) : 200;
    qp_ctx *ctx = qp_open((qp_options){.seed = 1});
    if (!ctx) return fprintf(stderr, "out of memory\n"), 1;

    /* a byte tokenizer, a stack of named parts, data in batches, an optimiser */
    qp_tokenizer *tokenizer = qp_tokenizer_bytes(ctx);
    qp_model     *model = qp_model_new(ctx, "example",
                                       "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 96,"
                                       " \"num_hidden_layers\": 2, \"max_position_embeddings\": 256,"
                                       " \"tie_word_embeddings\": true, \"position\": {\"type\": \"rope\"},"
                                       " \"mixer\": {\"type\": \"attention\", \"heads\": 4},"
                                       " \"ffn\": {\"type\": \"swiglu\"}, \"norm\": {\"type\": \"rms_norm\"}}");
    qp_data      *data = qp_data_open(ctx, 1, (const char *[]){argv[1]},
                                      (qp_data_options){.batch = 8, .length = 128, .tokenizer = tokenizer});
    qp_optim     *optim =
        model ? qp_adamw(qp_model_params(model), (qp_adamw_options){.lr = 3e-3, .clip = 1}) : NULL;

    for (int step = 0; step < steps && !qp_failed(ctx); step++) {
        qp_scope  s = qp_enter(ctx);
        qp_record b = qp_data_next(data);
        qp_tensor loss = qp_model_loss(model, qp_record_get(&b, "input_ids"), qp_record_get(&b, "labels"));
        qp_backward(loss);
        qp_step(optim); /* consumes the gradients */
        if (step % 50 == 0 || step + 1 == steps) printf("step %d loss %.4f\n", step + 1, qp_item(loss));
        qp_leave(s); /* frees everything made in this step */
    }

    if (!qp_failed(ctx) && qp_model_save(model, argv[2]) == QP_OK) {
        const int32_t       prompt[] = {'T', 'h', 'e', ' '};
        qp_generate_options options = {.max_tokens = 80, .sampling = {.temperature = 0.8}, .on_text = print};
        qp_generation       result;
        qp_session         *session = qp_session_new(model, 1, 256, (qp_session_options){0});
        if (session && qp_generate(session, tokenizer, prompt, 4, options, &result) == QP_OK)
            printf("\n%lld tokens written\n", (long long)result.tokens);
    }
    int status = qp_failed(ctx);
    if (status) fprintf(stderr, "%s\n", qp_error(ctx));
    qp_close(ctx); /* frees model, optimiser, data and tokenizer with it */
    return status;
}
