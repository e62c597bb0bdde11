/* Every inner loop of a table beside plain C's, on random and on extreme numbers. */
#ifndef QDR_TESTS_EVERY_LOOP_H
#define QDR_TESTS_EVERY_LOOP_H

#include "kernels/kernels.h"

/* The name of a loop that differs from plain C; null where none does. Needs no library. */
const char *qdr_loop_that_differs(const qdr_kernels *table, uint64_t seed);

#endif
