#include "machine.h"

#include <stddef.h>

#define SERIAL 0x3f8
#define SERIAL_FORMAT (SERIAL + 3)
#define EIGHT_BITS 3
#define SERIAL_STATE (SERIAL + 5)
#define TAKES_MORE 0x20
#define ALL_SENT 0x40
#define DISK 0x1f0
#define DISK_BUSY 0x80
#define DISK_HAS_DATA 0x08
#define DISK_READ 0x20
#define BOCHS_END 0x8900 /* Bochs stops where this port has been told "Shutdown" */

int main(void);
void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
int memcmp(const void *one, const void *other, size_t count);
_Noreturn void begin(void);

static void put(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t get(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void read_disk(uint8_t *to, uint32_t sectors) {
    for (uint32_t sector = 0; sector < sectors; sector++) {
        put(DISK + 2, 1);
        put(DISK + 3, (uint8_t)sector);
        put(DISK + 4, (uint8_t)(sector >> 8));
        put(DISK + 5, (uint8_t)(sector >> 16));
        put(DISK + 6, (uint8_t)(0xe0 | sector >> 24)); /* numbered sectors of the first disk */
        put(DISK + 7, DISK_READ);
        while ((get(DISK + 7) & (DISK_BUSY | DISK_HAS_DATA)) != DISK_HAS_DATA) {
        }
        size_t words = SECTOR_BYTES / 2;
        __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"((uint16_t)DISK) : "memory");
    }
}

void say(const char *text) {
    for (; *text != 0; text++) {
        while ((get(SERIAL_STATE) & TAKES_MORE) == 0) {
        }
        put(SERIAL, (uint8_t)*text);
    }
}

void say_number(const char *text, uint32_t number) {
    char digits[11] = {0};
    size_t at = sizeof digits - 1;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    say(text);
    say(digits + at);
}

/* What the compiler calls; no loop in them that it could take for one of them. */
void *memcpy(void *restrict to, const void *restrict from, size_t count) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t count) {
    if ((uintptr_t)to - (uintptr_t)from >= count) {
        return memcpy(to, from, count);
    }
    uint8_t *last = (uint8_t *)to + count - 1;
    const uint8_t *source = (const uint8_t *)from + count - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(last), "+S"(source), "+c"(count) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t count) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}

int memcmp(const void *one, const void *other, size_t count) {
    const uint8_t *a = one, *b = other;
    for (; count > 0; count--, a++, b++) {
        if (*a != *b) {
            return *a - *b;
        }
    }
    return 0;
}

/* What the ROM calls: the first of the program (test.ld). */
__attribute__((section(".begin"))) void begin(void) {
    extern uint8_t bss_begin[], bss_end[];
    memset(bss_begin, 0, (size_t)(bss_end - bss_begin));
    put(SERIAL_FORMAT, EIGHT_BITS);
    main();
    while ((get(SERIAL_STATE) & ALL_SENT) == 0) {
    }
    for (const char *word = "Shutdown"; *word != 0; word++) {
        put(BOCHS_END, (uint8_t)*word);
    }
    for (;;) {
        __asm__ volatile("hlt");
    }
}
