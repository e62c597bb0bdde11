/* A small mutating driver for fuzz_bundle.c where libFuzzer is missing.
 *
 *     fuzz_bundle RUNS SEED FILE...
 *
 * Every file is tried once, then RUNS changed ones. An input that is accepted although it was
 * changed becomes one to change further; when there is no more room it takes the place of another.
 * Each input lies in memory of exactly its size, so that a sanitizer sees every byte too far.
 */
#include "../random.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_SEEDS 8192u
#define MOST_BYTES (64u << 20) /* of all seeds together */
#define LARGEST (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern unsigned long fuzz_accepted;

typedef struct input {
    uint8_t *bytes;
    size_t size;
} input;

static input seeds[MOST_SEEDS];
static size_t seed_count, file_count, seed_bytes;
static uint64_t state;

/* A number below `limit`, which is not 0. */
static size_t draw(size_t limit) {
    return (size_t)(next_random(&state) >> 33) % limit;
}

static void *need(void *memory) {
    if (memory == NULL) {
        fputs("no memory\n", stderr);
        exit(2);
    }
    return memory;
}

static void set(input *seed, const uint8_t *bytes, size_t size) {
    seed_bytes += size;
    seed->bytes = need(malloc(size > 0 ? size : 1));
    memcpy(seed->bytes, bytes, size);
    seed->size = size;
}

/* Files stay; of the changed inputs a new one takes an old one's place when there is no more room. */
static void keep(const uint8_t *bytes, size_t size) {
    if (seed_count < MOST_SEEDS && seed_bytes + size <= MOST_BYTES) {
        set(&seeds[seed_count++], bytes, size);
    } else if (seed_count > file_count) {
        input *old = &seeds[file_count + draw(seed_count - file_count)];
        seed_bytes -= old->size;
        free(old->bytes);
        set(old, bytes, size);
    }
}

static void load(const char *path) {
    static uint8_t content[LARGEST];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    size_t size = fread(content, 1, sizeof content, file);
    fclose(file);
    if (file_count == MOST_SEEDS) {
        fputs("too many files\n", stderr);
        exit(2);
    }
    set(&seeds[file_count++], content, size);
    seed_count = file_count;
}

/* Change `size` bytes, of which there is room for LARGEST; returns the new size. */
static size_t change(uint8_t *bytes, size_t size) {
    static const char LIKELY[] = "{}[]\",:\\0123456789.e+-aznu\0\x01\x7f\xff\xc3\xa9PK";
    size_t at = 1 + draw(size - 1);
    size_t room = size - at;
    size_t part = 1 + draw(room < 40 ? room : 40);
    switch (draw(7)) {
    case 0:
        bytes[at] = (uint8_t)(bytes[at] ^ 1u << draw(8));
        return size;
    case 1:
        bytes[at] = (uint8_t)draw(256);
        return size;
    case 2:
        bytes[at] = (uint8_t)LIKELY[draw(sizeof LIKELY - 1)];
        return size;
    case 3: /* cut out */
        memmove(bytes + at, bytes + at + part, room - part);
        return size - part;
    case 4: /* say twice */
        if (size + part > LARGEST) {
            return size;
        }
        memmove(bytes + at + part, bytes + at, room);
        return size + part;
    case 5: { /* take from another */
        const input *other = &seeds[draw(seed_count)];
        if (other->size <= part) {
            return size;
        }
        memcpy(bytes + at, other->bytes + draw(other->size - part), part);
        return size;
    }
    default: /* cut off */
        return draw(50) == 0 ? at : size;
    }
}

int main(int argc, char **argv) {
    static uint8_t work[LARGEST + 64];
    if (argc < 4) {
        fputs("usage: fuzz_bundle RUNS SEED FILE...\n", stderr);
        return 2;
    }
    unsigned long runs = strtoul(argv[1], NULL, 10);
    state = strtoull(argv[2], NULL, 10) * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int k = 3; k < argc; k++) {
        load(argv[k]);
        (void)LLVMFuzzerTestOneInput(seeds[k - 3].bytes, seeds[k - 3].size);
    }
    unsigned long of_files = fuzz_accepted;
    clock_t start = clock();
    for (unsigned long run = 0; run < runs; run++) {
        const input *from = &seeds[draw(seed_count)];
        size_t size = from->size;
        memcpy(work, from->bytes, size);
        for (size_t times = 1 + draw(3); times > 0 && size >= 2; times--) {
            size = change(work, size);
        }
        uint8_t *exact = need(malloc(size > 0 ? size : 1));
        memcpy(exact, work, size);
        unsigned long before = fuzz_accepted;
        (void)LLVMFuzzerTestOneInput(exact, size);
        if (fuzz_accepted != before) {
            keep(exact, size);
        }
        free(exact);
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("%d files, %lu changed inputs, %lu and %lu accepted, %.0f a second\n", argc - 3, runs,
           of_files, fuzz_accepted - of_files, seconds > 0 ? (double)runs / seconds : 0.0);
    for (size_t k = 0; k < seed_count; k++) {
        free(seeds[k].bytes);
    }
    return 0;
}
