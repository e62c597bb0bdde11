/* What this processor has, by the names that a bundle's `requires` uses (qdr_edge/target.py). */
#ifndef QDR_DEVICE_MACHINE_H
#define QDR_DEVICE_MACHINE_H

#include "qdr/bundle.h"

/* False also for what cannot be asked without an operating system, such as "nvidia". */
bool qdr_machine_has(qdr_text property);

/* Whether pairs of u8·s8 products are added in 16 bits, and so can saturate. */
bool qdr_machine_saturates(void);

/* Whether a version lies in a range such as ">=1.20,<2"; an empty range takes every version. False
 * also for a range that is not written that way. */
bool qdr_version_in(qdr_text version, qdr_text accepted);

#endif
