/* Arenas of exactly so many bytes: a sanitizer sees the first byte beyond, and where none watches,
 * bytes behind the arena must stay as they are. Define _POSIX_C_SOURCE 200112L before all headers.
 */
#ifndef QDR_TESTS_ARENA_H
#define QDR_TESTS_ARENA_H

#include <string.h>

#include "check.h"
#include "qdr/plan.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QDR_WATCHED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define QDR_WATCHED 1
#endif

/* A guard would lie where the sanitizer's own must. */
static inline size_t guard_bytes(void) {
#ifdef QDR_WATCHED
    return 0;
#else
    return 256;
#endif
}

static inline void *take_arena(size_t bytes) {
    void *arena = NULL;
    CHECK(bytes > 0 && posix_memalign(&arena, QDR_ARENA_ALIGNMENT, bytes + guard_bytes()) == 0);
    memset(arena, 0xa5, bytes); /* whatever lay there before must not matter */
    memset((unsigned char *)arena + bytes, 0x5c, guard_bytes());
    return arena;
}

static inline void free_arena(void *arena, size_t bytes) {
    const unsigned char *behind = (const unsigned char *)arena + bytes;
    for (size_t k = 0; k < guard_bytes(); k++) {
        CHECK(behind[k] == 0x5c);
    }
    free(arena);
}

#endif
