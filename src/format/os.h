/* What the operating system says, as errors; and paths. */
#ifndef QUIPU_FORMAT_OS_H
#define QUIPU_FORMAT_OS_H

#include "core/error.h"

/* "PATH: cannot VERB: REASON" from errno; ENOMEM is QP_ERR_MEMORY, all else QP_ERR_IO. */
qp_status qpi_fail_os(qpi_error *e, const char *path, const char *verb);
qp_status qpi_fail_memory(qpi_error *e, const char *who); /* "WHO: out of memory" */

/* Text from outside, made fit for a message: control bytes as '?', shortened to about 60
 * bytes with "...". Returns out. */
#define QPI_SHOWN 72
const char *qpi_shown(char out[QPI_SHOWN], const char *text, size_t n);

/* malloc'ed; NULL after storing an error. */
char *qpi_path_join(const char *folder, const char *name, qpi_error *e);
char *qpi_path_folder(const char *path, qpi_error *e); /* "a/b" -> "a", "b" -> "." */

bool qpi_ends_in(const char *text, const char *end); /* whatever the case of letters */
bool qpi_path_is_folder(const char *path);
bool qpi_path_exists(const char *path);

/* One plain name: not empty, no '/', neither "." nor "..". */
bool qpi_name_is_plain(const char *name);

#endif
