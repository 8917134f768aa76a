/* Every call of the heap and of the operating system fails in turn while a small model is
 * trained, saved, loaded and run: a clean error or success, and nothing leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "../format/in_turn.h"
#include "format/writer.h"
#include "quipu/quipu.h"

#if FAULTS

static char folder[64], text_path[96], out_path[96];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, P_tmpdir "/quipu-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    snprintf(out_path, sizeof out_path, "%s/out", folder);
    FILE *f = fopen(text_path, "w");
    for (int i = 0; f && i < 400; i++) fputc('a' + i * i % 23, f);
    return f ? fclose(f) : -1;
}

static int remove_folder(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    return 0;
}

static const char *const config =
    "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
    " \"max_position_embeddings\": 16, \"tie_word_embeddings\": true,"
    " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2},"
    " \"ffn\": {\"type\": \"swiglu\", \"width\": 8}, \"norm\": {\"type\": \"rms_norm\"}}";

static qp_training_set small_set(qp_ctx *ctx) {
    qp_training_set set = {.model = qp_model_new(ctx, "test", config), .tokenizer = qp_tokenizer_bytes(ctx)};
    const char     *path = text_path;
    qp_data_options options = {.batch = 2, .length = 8, .tokenizer = set.tokenizer, .ahead = -1};
    if (set.model) set.data = qp_data_open(ctx, 1, &path, options);
    if (set.data) set.optim = qp_adamw(qp_model_params(set.model), (qp_adamw_options){.lr = 1e-2});
    return set;
}

static bool train_and_save(qp_ctx *ctx) {
    qp_training_set  set = small_set(ctx);
    qp_train_options run = {
        .schedule = {.lr = 1e-2, .steps = 2}, .out = out_path, .resume = true, .save_every = 1, .keep = 1};
    return set.optim && qp_train(set, run) == QP_OK;
}

static bool load_and_run(qp_ctx *ctx) {
    char path[128];
    snprintf(path, sizeof path, "%s/latest", out_path);
    qp_model     *m = qp_model_load(ctx, path, (qp_model_options){0});
    qp_tokenizer *t = m ? qp_tokenizer_load(ctx, path) : NULL;
    qp_session   *s = t ? qp_session_new(m, 1, 16, (qp_session_options){0}) : NULL;
    qp_generation result;
    return s &&
           qp_generate(s, t, (int32_t[]){97, 98}, 2, (qp_generate_options){.max_tokens = 3}, &result) == QP_OK;
}

static void start_anew(void) { qpi_folder_remove(out_path); }

static void training(void **state) {
    (void)state;
    in_turn(train_and_save, 1, start_anew, NULL);
}

/* Whatever fails, the state that was there can be loaded afterwards. */
static void running(void **state) {
    (void)state;
    qpi_folder_remove(out_path);
    warm(train_and_save, 1);
    in_turn(load_and_run, 1, NULL, NULL);
    warm(load_and_run, 1);
}

static bool restore(qp_ctx *ctx) {
    int64_t         step = 0;
    qp_training_set set = small_set(ctx);
    return set.optim && qp_state_restore(set, out_path, &step) == QP_OK && step == 2;
}

/* A state beside the one that is there, which is then too many. */
static bool restore_and_save(qp_ctx *ctx) {
    int64_t         step = 0;
    qp_training_set set = small_set(ctx);
    return set.optim && qp_state_restore(set, out_path, &step) == QP_OK &&
           qp_state_save(set, out_path, step + 1, 1) == QP_OK;
}

static void resuming(void **state) {
    (void)state;
    qpi_folder_remove(out_path);
    warm(train_and_save, 1);
    in_turn(restore, 1, NULL, NULL);
    in_turn(restore_and_save, 1, NULL, NULL);
    warm(restore_and_save, 1);
}

/* An interrupted read or write goes on. */
static void interrupted(void **state) {
    (void)state;
    for (long n = 1; n < 60; n++) {
        qpi_folder_remove(out_path);
        faults_interrupt_at(n);
        warm(train_and_save, 1);
        warm(load_and_run, 1);
    }
    faults_interrupt_at(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(training), cmocka_unit_test(running),
                                       cmocka_unit_test(resuming), cmocka_unit_test(interrupted)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
#else
int main(void) { return 0; }
#endif
