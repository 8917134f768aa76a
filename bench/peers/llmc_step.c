/* Seconds per training step of GPT-2 124M in llm.c (github.com/karpathy/llm.c), with random weights.
 *
 *   cc -Ofast -march=native -fopenmp -DOMP -DTESTING -I LLMC bench/peers/llmc_step.c -o llmc_step -lm
 *   OMP_NUM_THREADS=2 ./llmc_step 4 64 5          B, T, steps: one JSON
 *
 * LLMC is a checkout. A step is forward with loss, zeroed gradients, backward and AdamW, as in its own
 * training loop; the flags are those of its Makefile. */
#include "train_gpt2.c"

static const char checkpoint[] = "llmc_random.bin";

static void write_checkpoint(void) {
    int        header[256] = {20240326, 3, 1024, 50257, 12, 12, 768, 50304};
    GPT2Config config = {1024, 50257, 50304, 12, 12, 768};
    size_t     sizes[NUM_PARAMETER_TENSORS], count = 0;
    uint64_t   state = 1337;
    fill_in_parameter_sizes(sizes, config);
    for (int i = 0; i < NUM_PARAMETER_TENSORS; i++) count += sizes[i];
    FILE *f = fopenCheck(checkpoint, "wb");
    fwrite(header, sizeof(int), 256, f);
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        float x = ((float)(state >> 40) / 16777216.0f - 0.5f) * 0.07f;
        fwrite(&x, sizeof x, 1, f);
    }
    fcloseCheck(f);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int    B = argc > 1 ? atoi(argv[1]) : 4, T = argc > 2 ? atoi(argv[2]) : 64,
           steps = argc > 3 ? atoi(argv[3]) : 5;
    int   *tokens = mallocCheck((size_t)(B * T + 1) * sizeof *tokens);
    double times[1000];
    GPT2   model;
    if (steps > 1000) steps = 1000;
    write_checkpoint();
    gpt2_build_from_checkpoint(&model, checkpoint);
    remove(checkpoint);
    for (int i = 0; i <= B * T; i++) tokens[i] = (int)((unsigned)i * 7919u % 50257u);
    for (int step = -1; step < steps; step++) { /* the first one gets memory */
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        gpt2_forward(&model, tokens, tokens + 1, B, T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.0f, step + 2);
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (step >= 0)
            times[step] = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    }
    qsort(times, (size_t)steps, sizeof *times, by_value);
    printf("{\"peer\": \"llm.c\", \"batch\": %d, \"length\": %d, \"steps\": %d, \"seconds_per_step\": %.4f}\n",
           B, T, steps, times[steps / 2]);
    return 0;
}
