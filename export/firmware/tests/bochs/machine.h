/* The little of a PC that the test needs: a disk to read, a serial port to speak through, and the
 * way out. */
#ifndef QDR_TESTS_MACHINE_H
#define QDR_TESTS_MACHINE_H

#include <stdint.h>

#define SECTOR_BYTES 512u

/* The disk's first sectors; no more than 2^28. */
void read_disk(uint8_t *to, uint32_t sectors);

void say(const char *text);
/* A text with a number behind it. */
void say_number(const char *text, uint32_t number);

#endif
