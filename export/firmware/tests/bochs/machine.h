/* The little of a PC that the test needs: a serial port to speak through, and the way out. */
#ifndef QDR_TESTS_MACHINE_H
#define QDR_TESTS_MACHINE_H

#include <stdint.h>

void say(const char *text);
/* A text with a number behind it. */
void say_number(const char *text, uint32_t number);

#endif
