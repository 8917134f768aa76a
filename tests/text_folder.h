/* A folder for the tests of one program, with a text in it to train on. */
#ifndef TESTS_TEXT_FOLDER_H
#define TESTS_TEXT_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/writer.h"

static char folder[64], text_path[96];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, P_tmpdir "/quipu-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    FILE *f = fopen(text_path, "w");
    for (int i = 0; f && i < 3000; i++) fprintf(f, "%c%s", 'a' + i * i % 23, i % 5 ? "" : " ");
    return f ? fclose(f) : -1;
}

static int remove_folder(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    return 0;
}

#endif
