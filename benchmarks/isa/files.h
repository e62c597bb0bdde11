/* Whole files, for the two programs beside this one. */
#ifndef QDR_ISA_FILES_H
#define QDR_ISA_FILES_H

#include <stdio.h>
#include <stdlib.h>

static inline _Noreturn void stop(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* A file's content; it is never freed. */
static inline void *whole_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0) {
        stop(path, "cannot be read");
    }
    rewind(file);
    void *content = malloc((size_t)size + 1);
    if (content == NULL || fread(content, 1, (size_t)size, file) != (size_t)size) {
        stop(path, "cannot be read");
    }
    fclose(file);
    *bytes = (size_t)size;
    return content;
}

/* Logits to standard output, as they lie in memory. */
static inline void give(const float *logits, size_t count) {
    if (fwrite(logits, sizeof *logits, count, stdout) != count) {
        stop("logits", "cannot be written");
    }
}

#endif
