#include <string.h>

#include "infer/accept.h"

extern const qpi_acceptance *const qpi_acceptances[];

const qpi_acceptance *qpi_acceptance_of(const char *name) {
    for (int i = 0; qpi_acceptances[i]; i++)
        if (!strcmp(qpi_acceptances[i]->name, name ? name : "match")) return qpi_acceptances[i];
    return NULL;
}
