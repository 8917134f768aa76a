/* Files for targets whose parsers open paths. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char fuzz_made[64];

static void fuzz_remove(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", fuzz_made);
    if (system(command) != 0) perror(fuzz_made);
}

/* A folder of this process, removed when it ends. */
static inline const char *fuzz_folder(void) {
    snprintf(fuzz_made, sizeof fuzz_made, P_tmpdir "/quipu-fuzz-XXXXXX");
    if (!mkdtemp(fuzz_made)) abort();
    atexit(fuzz_remove);
    return fuzz_made;
}

/* The repository's root, which targets are run from. */
static inline const char *fuzz_root(void) {
    static char root[200];
    if (!getcwd(root, sizeof root)) abort();
    return root;
}

static inline void fuzz_write(const char *path, const uint8_t *data, size_t size) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    close(fd);
}
