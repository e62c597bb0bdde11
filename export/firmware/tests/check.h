/* The little that tests need: a check that says where it failed, and files. */
#ifndef QDR_TESTS_CHECK_H
#define QDR_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);           \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* The content of a file; the caller frees it. */
static inline unsigned char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: cannot be opened\n", path);
        exit(1);
    }
    CHECK(fseek(file, 0, SEEK_END) == 0);
    long length = ftell(file);
    CHECK(length >= 0);
    rewind(file);
    *size = (size_t)length;
    unsigned char *content = malloc(*size + 1);
    CHECK(content != NULL && fread(content, 1, *size, file) == *size);
    fclose(file);
    return content;
}

#endif
