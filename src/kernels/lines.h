/* Addresses of lines that lie one `step` behind the other: base + 1, 2, 4 or 8 times a register reaches
 * eight of them with few registers. */
#ifndef QUIPU_KERNELS_LINES_H
#define QUIPU_KERNELS_LINES_H

#include <stdint.h>

typedef struct {
    int64_t one, three, five, seven;
} line_steps;

static inline line_steps line_steps_of(int64_t step) {
    return (line_steps){step, 3 * step, 5 * step, 7 * step};
}

static inline __attribute__((always_inline)) const char *line_at(const char *first, const line_steps *s,
                                                                 int line) {
    const char *at = first + line / 8 * 8 * s->one;
    switch (line % 8) {
    case 0: return at;
    case 1: return at + s->one;
    case 2: return at + 2 * s->one;
    case 3: return at + s->three;
    case 4: return at + 4 * s->one;
    case 5: return at + s->five;
    case 6: return at + 2 * s->three;
    default: return at + s->seven;
    }
}

#endif
