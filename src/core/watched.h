/* Memory that is lent again and again, under AddressSanitizer (without it nothing happens). */
#ifndef QUIPU_CORE_WATCHED_H
#define QUIPU_CORE_WATCHED_H

#include <stddef.h>
#include <string.h>

#if defined(__has_feature) && !defined(__SANITIZE_ADDRESS__)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define QPI_WATCHED true
#else
#define QPI_WATCHED false
#endif

/* Of a block of `size` bytes the first `lent` may be used from here on, the others not. What is lent
 * holds NaN (no bool, no pointer either), so that tests notice what is read before it is written. */
static inline void qpi_watch(void *block, size_t lent, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    if (!size) return;
    ASAN_UNPOISON_MEMORY_REGION(block, lent);
    memset(block, 0xff, lent);
    ASAN_POISON_MEMORY_REGION((char *)block + lent, size - lent);
#else
    (void)block, (void)lent, (void)size;
#endif
}

#endif
