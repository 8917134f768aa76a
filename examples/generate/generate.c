/* A trained model within a program: continues a text.   generate MODEL TEXT */
#include <quipu/quipu.h>

#include <stdio.h>
#include <string.h>

static bool print(void *user, const char *text, size_t bytes) {
    (void)user;
    return fwrite(text, 1, bytes, stdout) == bytes;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "generate MODEL TEXT\n"), 2;
    qp_ctx   *ctx = qp_open((qp_options){0});
    qp_model *model =
        qp_model_load(ctx, argv[1], (qp_model_options){.as_stored = true}); /* to run, not to train */
    qp_tokenizer *tokenizer = model ? qp_tokenizer_load(ctx, argv[1]) : NULL;
    qp_session   *session = tokenizer ? qp_session_new(model, 1, 512, (qp_session_options){0}) : NULL;
    qp_ids        ids = {0};
    qp_generation result;
    if (session &&
        qp_encode(ctx, tokenizer, argv[2], strlen(argv[2]), (qp_encode_options){.wrap = true}, &ids) == QP_OK &&
        qp_generate(
            session, tokenizer, ids.data, ids.count,
            (qp_generate_options){.max_tokens = 100, .sampling = {.temperature = 0.8}, .on_text = print},
            &result) == QP_OK)
        printf("\n");
    qp_ids_free(&ids);
    int status = !ctx || qp_failed(ctx);
    if (status) fprintf(stderr, "%s\n", ctx ? qp_error(ctx) : "out of memory");
    qp_close(ctx); /* frees model, tokenizer and session with it */
    return status;
}
