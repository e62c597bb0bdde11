/* Arenas of exactly so many bytes: a sanitizer sees the first byte beyond, and where none watches,
 * bytes behind the arena must stay as they are. Define _POSIX_C_SOURCE 200112L before all headers.
 */
#ifndef QDR_TESTS_ARENA_H
#define QDR_TESTS_ARENA_H

#include <string.h>

#include "check.h"
#include "qdr/plan.h"

#if defined(__SANITIZE_ADDRESS__)
#define GUARD_BYTES 0u
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GUARD_BYTES 0u
#endif
#endif
#ifndef GUARD_BYTES
#define GUARD_BYTES 256u
#endif

static inline void *take_arena(size_t bytes) {
    void *arena = NULL;
    CHECK(bytes > 0 && posix_memalign(&arena, QDR_ARENA_ALIGNMENT, bytes + GUARD_BYTES) == 0);
    memset(arena, 0xa5, bytes); /* whatever lay there before must not matter */
    memset((unsigned char *)arena + bytes, 0x5c, GUARD_BYTES);
    return arena;
}

static inline void free_arena(void *arena, size_t bytes) {
    const unsigned char *behind = (const unsigned char *)arena + bytes;
    for (size_t k = 0; k < GUARD_BYTES; k++) {
        CHECK(behind[k] == 0x5c);
    }
    free(arena);
}

#endif
