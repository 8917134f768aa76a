#define _XOPEN_SOURCE 700
#include "format/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/os.h"

#define BUFFER_BYTES ((size_t)256 << 10)
#define TRIES 100

/* TARGET.PROCESS-NUMBER.tmp, malloc'ed. */
static char *temporary_name(const char *target, qpi_error *e) {
    static atomic_uint number;
    size_t             n = strlen(target);
    char              *name = malloc(n + 48);
    if (!name) {
        qpi_fail_memory(e, target);
        return NULL;
    }
    while (n > 1 && target[n - 1] == '/') n--;
    memcpy(name, target, n);
    snprintf(name + n, 48, ".%ld-%u.tmp", (long)getpid(), atomic_fetch_add(&number, 1));
    return name;
}

/* Makes the names within a folder durable. */
static bool sync_folder(const char *folder, qpi_error *e) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return qpi_fail_os(e, folder, "open") == QP_OK;
    /* Some file systems cannot sync a folder and say EINVAL. */
    bool ok = fsync(fd) == 0 || errno == EINVAL;
    if (!ok) qpi_fail_os(e, folder, "sync");
    close(fd);
    return ok;
}

static bool sync_parent(const char *path, qpi_error *e) {
    char *folder = qpi_path_folder(path, e);
    bool  ok = folder && sync_folder(folder, e);
    free(folder);
    return ok;
}

/* ---- One file ------------------------------------------------------------------------- */

static bool fail(qpi_writer *w, const char *verb) {
    qpi_fail_os(w->error, w->path, verb);
    w->failed = true;
    return false;
}

static void forget(qpi_writer *w) {
    free(w->path);
    free(w->temporary);
    free(w->buffer);
    w->path = w->temporary = NULL;
    w->buffer = NULL;
    w->fd = -1;
}

static bool create(qpi_writer *w) {
    for (int i = 0; i < TRIES; i++) {
        free(w->temporary);
        w->temporary = temporary_name(w->path, w->error);
        if (!w->temporary) return false;
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0) return true;
        if (errno != EEXIST) break;
    }
    return fail(w, "create");
}

/* What a link leads to is written; the link stays. */
static char *without_link(const char *path) {
    struct stat s;
    char       *real = lstat(path, &s) == 0 && S_ISLNK(s.st_mode) ? realpath(path, NULL) : NULL;
    return real ? real : strdup(path);
}

/* Renaming puts a file in the place of anything, be it /dev/null. */
static bool check_replaced(qpi_writer *w) {
    struct stat s;
    if (stat(w->path, &s) != 0 || S_ISREG(s.st_mode)) return true;
    return qpi_fail(w->error, QP_ERR_IO, "%s: expected a regular file or none, found %s", w->path,
                    S_ISDIR(s.st_mode) ? "a folder" : "a device or pipe") == QP_OK;
}

bool qpi_writer_open(qpi_writer *w, const char *path, qpi_error *e) {
    *w = (qpi_writer){.fd = -1, .error = e};
    qpi_checksum_begin(&w->checksum, 0);
    w->path = without_link(path);
    w->buffer = malloc(BUFFER_BYTES);
    bool ok = w->path && w->buffer;
    if (!ok) qpi_fail_memory(e, path);
    if (ok && check_replaced(w) && create(w)) return true;
    w->failed = true;
    forget(w);
    return false;
}

static bool put(qpi_writer *w, const uint8_t *data, size_t n) {
    while (n) {
        ssize_t done = write(w->fd, data, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail(w, "write");
        data += done;
        n -= (size_t)done;
    }
    return true;
}

static bool flush(qpi_writer *w) {
    size_t n = w->filled;
    w->filled = 0;
    return put(w, w->buffer, n);
}

bool qpi_write(qpi_writer *w, const void *data, size_t n) {
    if (w->failed || w->fd < 0) return false;
    qpi_checksum_add(&w->checksum, data, n);
    w->bytes += n;
    if (n > BUFFER_BYTES - w->filled && !flush(w)) return false;
    if (n >= BUFFER_BYTES) return put(w, data, n);
    if (n) memcpy(w->buffer + w->filled, data, n);
    w->filled += n;
    return true;
}

bool qpi_writer_finish(qpi_writer *w) {
    bool ok = !w->failed && w->fd >= 0 && flush(w);
    if (ok && fsync(w->fd) != 0) ok = fail(w, "sync");
    if (w->fd >= 0 && close(w->fd) != 0 && ok) ok = fail(w, "close");
    w->fd = -1;
    if (ok && rename(w->temporary, w->path) != 0) ok = fail(w, "rename a finished file to it");
    if (ok) ok = sync_parent(w->path, w->error);
    else if (w->temporary) unlink(w->temporary);
    forget(w);
    return ok;
}

void qpi_writer_abort(qpi_writer *w) {
    if (w->fd < 0) return;
    close(w->fd);
    unlink(w->temporary);
    w->failed = true;
    forget(w);
}

bool qpi_write_file(const char *path, const void *data, size_t n, qpi_error *e) {
    qpi_writer w;
    if (!qpi_writer_open(&w, path, e)) return false;
    qpi_write(&w, data, n);
    return qpi_writer_finish(&w);
}

/* ---- A folder ------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *where) {
    (void)s, (void)kind, (void)where;
    return remove(path);
}

static void forget_folder(qpi_folder *f) {
    free(f->target);
    free(f->temporary);
    f->target = f->temporary = NULL;
}

static bool make_folder(qpi_folder *f) {
    for (int i = 0; i < TRIES; i++) {
        free(f->temporary);
        f->temporary = temporary_name(f->target, f->error);
        if (!f->temporary) return false;
        if (mkdir(f->temporary, 0777) == 0) return true;
        if (errno != EEXIST) break;
    }
    qpi_fail_os(f->error, f->temporary, "make the folder");
    return false;
}

bool qpi_folder_open(qpi_folder *f, const char *target, qpi_error *e) {
    *f = (qpi_folder){.target = strdup(target), .error = e};
    if (f->target && make_folder(f)) return true;
    if (!f->target) qpi_fail_memory(e, target);
    forget_folder(f);
    return false;
}

char *qpi_folder_at(const qpi_folder *f, const char *name) {
    return qpi_path_join(f->temporary, name, f->error);
}

void qpi_folder_remove(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

void qpi_folder_abort(qpi_folder *f) {
    if (!f->temporary) return;
    qpi_folder_remove(f->temporary);
    forget_folder(f);
}

bool qpi_folder_finish(qpi_folder *f) {
    if (!f->temporary) return false;
    bool ok = sync_folder(f->temporary, f->error);
    if (ok && rename(f->temporary, f->target) != 0) {
        ok = false;
        if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR)
            qpi_fail(f->error, QP_ERR_IO, "%s: exists already", f->target);
        else qpi_fail_os(f->error, f->target, "rename a finished folder to it");
    }
    if (!ok) {
        qpi_folder_abort(f);
        return false;
    }
    ok = sync_parent(f->target, f->error);
    forget_folder(f);
    return ok;
}

/* ---- A link --------------------------------------------------------------------------- */

bool qpi_write_link(const char *path, const char *target, qpi_error *e) {
    char *temporary = temporary_name(path, e);
    if (!temporary) return false;
    bool ok = symlink(target, temporary) == 0;
    if (!ok) qpi_fail_os(e, temporary, "make the link");
    if (ok && rename(temporary, path) != 0) {
        qpi_fail_os(e, path, "replace");
        unlink(temporary);
        ok = false;
    }
    free(temporary);
    return ok && sync_parent(path, e);
}

bool qpi_name_is_temporary(const char *name) {
    size_t n = strlen(name);
    long   process;
    int    number, used = 0;
    if (n < 8 || strcmp(name + n - 4, ".tmp") != 0) return false;
    const char *dash = strrchr(name, '-'), *dot = dash;
    while (dot && dot > name && *dot != '.') dot--;
    return dot && *dot == '.' && sscanf(dot, ".%ld-%d.tmp%n", &process, &number, &used) == 2 && dot[used] == 0;
}
