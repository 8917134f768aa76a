#include "cli/json.h"

#include <math.h>
#include <stdio.h>

void cli_json_print(json_t *value) {
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(17));
    putchar('\n');
    json_decref(value);
}

json_t *cli_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }
