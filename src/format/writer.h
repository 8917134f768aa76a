/* Every file goes out through here. A target is either as it was or complete: bytes go to a
 * temporary name beside it, are synced, and take the target's name in one rename, which is
 * synced too. What is there must be a regular file, or a link to one, which stays a link. */
#ifndef QUIPU_FORMAT_WRITER_H
#define QUIPU_FORMAT_WRITER_H

#include "core/error.h"
#include "format/checksum.h"

typedef struct {
    int          fd; /* -1: nothing is open */
    char        *path, *temporary;
    uint8_t     *buffer;
    size_t       filled;
    uint64_t     bytes;    /* written so far */
    qpi_checksum checksum; /* of them */
    bool         failed;
    qpi_error   *error;
} qpi_writer;

/* After a failure every call does nothing and returns false; finish and abort both end the
 * writer and leave no temporary file behind. */
bool qpi_writer_open(qpi_writer *w, const char *path, qpi_error *e);
bool qpi_write(qpi_writer *w, const void *data, size_t n);
bool qpi_writer_finish(qpi_writer *w);
void qpi_writer_abort(qpi_writer *w); /* also after finish: nothing */

/* A small file at once. */
bool qpi_write_file(const char *path, const void *data, size_t n, qpi_error *e);

/* A folder that appears complete or not at all: files are written to qpi_folder_at(f, name)
 * and finish renames the whole. The target must not exist, or be an empty folder. */
typedef struct {
    char      *target, *temporary;
    qpi_error *error;
} qpi_folder;

bool qpi_folder_open(qpi_folder *f, const char *target, qpi_error *e);
char *qpi_folder_at(const qpi_folder *f, const char *name); /* malloc'ed; NULL: error stored */
bool qpi_folder_finish(qpi_folder *f);                      /* on failure the folder is removed */
void qpi_folder_abort(qpi_folder *f);                       /* removes it; also after finish: nothing */

/* Removes a folder and what is in it; failing is no error (it may not exist). */
void qpi_folder_remove(const char *path);

/* A symbolic link at path to target, replaced in one rename. */
bool qpi_write_link(const char *path, const char *target, qpi_error *e);

/* Is it a name that unfinished files and folders have? */
bool qpi_name_is_temporary(const char *name);

#endif
