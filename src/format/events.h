/* TensorBoard's event files: records with masked CRC32C around protocol-buffer messages
 * (tensorboard/compat/proto/event.proto, summary.proto, tensor.proto), encoded by hand. */
#ifndef QUIPU_FORMAT_EVENTS_H
#define QUIPU_FORMAT_EVENTS_H

#include "format/buffer.h"

uint32_t qpi_crc32c(const void *data, size_t n); /* RFC 3720, appendix B.4 */

/* length u64, masked checksum of it u32, data, masked checksum of data u32; little-endian. */
bool qpi_events_record(qpi_buffer *out, const void *data, size_t n);

typedef struct {
    double        min, max, sum, sum_squares;
    int64_t       count;
    int           classes;
    const double *limits, *counts; /* upper limit and count of each class */
} qpi_histogram;

/* One event each, as a whole record behind what is in out. False: out of memory. */
bool qpi_events_version(qpi_buffer *out, double time);
bool qpi_events_start(qpi_buffer *out, double time,
                      int64_t step); /* drops earlier files' events from step on */
bool qpi_events_scalar(qpi_buffer *out, double time, int64_t step, const char *tag, double value);
bool qpi_events_text(qpi_buffer *out, double time, int64_t step, const char *tag, const char *text);
bool qpi_events_histogram(qpi_buffer *out, double time, int64_t step, const char *tag, const qpi_histogram *h);

#endif
