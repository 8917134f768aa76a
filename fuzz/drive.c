/* Feeds a fuzz target where libFuzzer is not at hand (gcc), with the same command line:
 *   fuzz_NAME [-max_total_time=SECONDS] [-max_len=BYTES] [-seed=N] CORPUS [FOLDER or FILE]...
 * Inputs are mutated at random; those that reach new code (gcc's -fsanitize-coverage=trace-pc) are
 * mutated further and written into CORPUS. The input at hand lies in CORPUS/last, whatever kills the
 * process. One file alone: that input once, to see a failure again. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { LONGEST = 1 << 16, EDGES = 1 << 16, HANG_SECONDS = 30 };

typedef struct {
    uint8_t *data;
    size_t   size;
} input;

static input   *corpus;
static size_t   corpus_count, corpus_room;
static uint64_t random_state = 1;
static size_t   longest = LONGEST; /* mutated inputs; seeds may be longer */
static uint8_t  edges[EDGES], known[EDGES];

/* Called by the instrumented code at each branch target. */
void __sanitizer_cov_trace_pc(void) {
    uint64_t at = (uint64_t)(uintptr_t)__builtin_return_address(0);
    edges[(at * 0x9e3779b97f4a7c15u) >> 48] = 1;
}

static uint64_t draw(uint64_t below) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

/* ---- Corpus ------------------------------------------------------------------------------------- */

static void add(const uint8_t *data, size_t size) {
    if (corpus_count == corpus_room) {
        corpus_room = corpus_room ? 2 * corpus_room : 64;
        corpus = realloc(corpus, corpus_room * sizeof *corpus);
        if (!corpus) abort();
    }
    input *in = &corpus[corpus_count++];
    in->data = malloc(size + 1);
    if (!in->data) abort();
    memcpy(in->data, data, size);
    in->size = size;
}

static bool add_file(const char *path) {
    static uint8_t bytes[LONGEST];
    FILE          *file = fopen(path, "rb");
    if (!file) return false;
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    add(bytes, size);
    return true;
}

static void add_path(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) {
        if (!add_file(path)) exit((perror(path), 1));
        return;
    }
    for (struct dirent *e; (e = readdir(folder));) {
        char        name[4096];
        struct stat st;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (stat(name, &st) == 0 && S_ISREG(st.st_mode)) add_file(name);
    }
    closedir(folder);
}

static void save(const char *folder, const uint8_t *data, size_t size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%zu", folder, corpus_count);
    FILE *file = fopen(path, "wb");
    if (!file) return;
    fwrite(data, 1, size, file);
    fclose(file);
}

/* ---- Mutation ----------------------------------------------------------------------------------- */

static const char *const tokens[] = {"{",
                                     "}",
                                     "[",
                                     "]",
                                     ":",
                                     ",",
                                     "\"",
                                     "null",
                                     "true",
                                     "false",
                                     "-",
                                     "1e999",
                                     "0",
                                     "\\u0000",
                                     "9223372036854775807",
                                     "18446744073709551616",
                                     "-1",
                                     "4294967296",
                                     "\xc3",
                                     "\xf0\x9f\x98\x80",
                                     "\xef\xbf\xbd",
                                     "\n",
                                     "\r\n",
                                     " ",
                                     "\"\"",
                                     "[[",
                                     "{\"a\":",
                                     "\\ud800",
                                     "1e-400",
                                     "0.5"};
static const uint64_t    numbers[] = {0,
                                      1,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      0xffffffffffffffff};

/* Puts `size` bytes at `at` in place of `cut` bytes, as far as there is room. */
static size_t replace(uint8_t *buffer, size_t count, size_t at, size_t cut, const void *bytes, size_t size) {
    if (size > cut && count - cut + size > longest) return count;
    uint8_t copy[64];
    if (size > sizeof copy) size = sizeof copy;
    memcpy(copy, bytes, size); /* they may lie in the buffer */
    memmove(buffer + at + size, buffer + at + cut, count - at - cut);
    memcpy(buffer + at, copy, size);
    return count - cut + size;
}

static size_t mutate_once(uint8_t *buffer, size_t count) {
    size_t      at = draw(count + 1), rest = count - at, cut = rest ? draw(rest < 32 ? rest : 32) + 1 : 0;
    const char *token = tokens[draw(sizeof tokens / sizeof tokens[0])];
    uint64_t    number = numbers[draw(sizeof numbers / sizeof numbers[0])];
    size_t      width = (size_t)1 << draw(4);
    uint8_t     byte = (uint8_t)draw(256);
    switch (draw(8)) {
    case 0:
        if (rest) buffer[at] ^= (uint8_t)(1u << draw(8));
        return count;
    case 1:
        if (rest) buffer[at] = byte;
        return count;
    case 2: return replace(buffer, count, at, 0, &byte, 1);
    case 3: return replace(buffer, count, at, cut, "", 0);
    case 4: return replace(buffer, count, at, draw(2) ? 0 : cut, token, strlen(token));
    case 5:
        return replace(buffer, count, at, width < rest ? width : rest, &number, width < rest ? width : rest);
    case 6: return replace(buffer, count, draw(count + 1), 0, buffer + at, cut);
    default: { /* a piece of another input */
        const input *other = &corpus[draw(corpus_count)];
        size_t       from = draw(other->size + 1), size = other->size - from;
        return replace(buffer, count, at, draw(2) ? 0 : cut, other->data + from,
                       size < 64 ? size : draw(64) + 1);
    }
    }
}

/* ---- Running -------------------------------------------------------------------------------------- */

/* The input goes into a file, which outlives a crash. */
static void remember(int fd, const uint8_t *data, size_t size) {
    if (pwrite(fd, data, size, 0) != (ssize_t)size || ftruncate(fd, (off_t)size) != 0) abort();
}

static bool run(const uint8_t *data, size_t size) {
    bool     fresh = false;
    uint8_t *exact = malloc(size ? size : 1); /* so that a sanitizer sees reads behind its end */
    if (!exact) abort();
    memcpy(exact, data, size);
    memset(edges, 0, sizeof edges);
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = HANG_SECONDS}, NULL);
    LLVMFuzzerTestOneInput(exact, size);
    setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);
    free(exact);
    for (int i = 0; i < EDGES; i++) {
        fresh = fresh || (edges[i] && !known[i]);
        known[i] |= edges[i];
    }
    return fresh;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* How many inputs. */
static uint64_t fuzz(const char *folder, double seconds, int fd) {
    static uint8_t buffer[LONGEST + 64];
    uint64_t       runs = 0;
    for (size_t i = 0; i < corpus_count; i++, runs++) {
        remember(fd, corpus[i].data, corpus[i].size);
        run(corpus[i].data, corpus[i].size);
    }
    for (double end = now() + seconds; now() < end; runs++) {
        const input *in = &corpus[draw(corpus_count)];
        size_t       size = in->size;
        memcpy(buffer, in->data, size);
        for (uint64_t n = 1 + draw(8); n > 0; n--) size = mutate_once(buffer, size);
        remember(fd, buffer, size);
        if (!run(buffer, size)) continue;
        add(buffer, size);
        save(folder, buffer, size);
    }
    return runs;
}

int main(int argc, char **argv) {
    double      seconds = 10;
    const char *paths[64];
    char        path[4096];
    int         count = 0, fd;
    struct stat st;
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc && count < 64; i++) {
        if (!strncmp(argv[i], "-max_len=", 9)) longest = strtoull(argv[i] + 9, NULL, 10);
        else if (!strncmp(argv[i], "-max_total_time=", 16)) seconds = atof(argv[i] + 16);
        else if (!strncmp(argv[i], "-seed=", 6)) random_state = strtoull(argv[i] + 6, NULL, 10);
        else if (argv[i][0] != '-') paths[count++] = argv[i];
    }
    if (!count)
        return fprintf(stderr, "usage: %s [-max_total_time=S] [-max_len=N] [-seed=N] CORPUS [SEEDS]...\n",
                       argv[0]),
               2;
    for (int i = 0; i < count; i++) add_path(paths[i]);
    if (count == 1 && stat(paths[0], &st) == 0 && S_ISREG(st.st_mode))
        return run(corpus[0].data, corpus[0].size), 0;
    snprintf(path, sizeof path, "%s/last", paths[0]);
    fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0) return perror(path), 1;
    add((const uint8_t *)"", 0);
    uint64_t runs = fuzz(paths[0], seconds, fd);
    int      reached = 0;
    for (int i = 0; i < EDGES; i++) reached += known[i];
    printf("%llu inputs, %zu kept, %d branch targets\n", (unsigned long long)runs, corpus_count, reached);
    return 0;
}
