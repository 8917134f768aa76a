#define _POSIX_C_SOURCE 200809L
#include "format/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

qp_status qpi_fail_os(qpi_error *e, const char *path, const char *verb) {
    int  number = errno;
    char reason[128], shown[QPI_SHOWN];
    if (number == ENOMEM) return qpi_fail_memory(e, path);
    if (strerror_r(number, reason, sizeof reason) != 0) strcpy(reason, "unknown error");
    const char *name = strlen(path) < 300 ? path : qpi_shown(shown, path, strlen(path));
    return qpi_fail(e, QP_ERR_IO, "%s: cannot %s: %s", name, verb, reason);
}

qp_status qpi_fail_memory(qpi_error *e, const char *who) {
    return qpi_fail(e, QP_ERR_MEMORY, "%s: out of memory", who);
}

const char *qpi_shown(char out[QPI_SHOWN], const char *text, size_t n) {
    size_t keep = n, most = QPI_SHOWN - 4;
    if (keep > most) {
        keep = most;
        while (keep > most - 4 && ((unsigned char)text[keep] & 0xC0) == 0x80) keep--;
    }
    for (size_t i = 0; i < keep; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < 0x20 || c == 0x7F ? '?' : (char)c;
    }
    strcpy(out + keep, keep < n ? "..." : "");
    return out;
}

char *qpi_path_join(const char *folder, const char *name, qpi_error *e) {
    size_t a = strlen(folder), b = strlen(name);
    char  *path = malloc(a + b + 2);
    if (!path) {
        qpi_fail_memory(e, folder);
        return NULL;
    }
    memcpy(path, folder, a);
    if (a == 0 || path[a - 1] != '/') path[a++] = '/';
    memcpy(path + a, name, b + 1);
    return path;
}

char *qpi_path_folder(const char *path, qpi_error *e) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n > 0 && path[n - 1] != '/') n--;
    while (n > 1 && path[n - 1] == '/') n--;
    char *folder = malloc(n + 2);
    if (!folder) {
        qpi_fail_memory(e, path);
        return NULL;
    }
    if (n == 0) {
        strcpy(folder, ".");
    } else {
        memcpy(folder, path, n);
        folder[n] = 0;
    }
    return folder;
}

bool qpi_path_is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

bool qpi_ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcasecmp(text + n - m, end);
}

bool qpi_path_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

bool qpi_name_is_plain(const char *name) {
    return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
