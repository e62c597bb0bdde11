/* What the engines share: finding a vendor's library, and saying what went wrong. */
#ifndef QDR_ENGINES_VENDOR_H
#define QDR_ENGINES_VENDOR_H

#include "qdr/engine.h"

/* Where a vendor's library is looked for, in this order. */
typedef struct qdr_vendor {
    const char *name;     /* as users know it */
    const char *variable; /* of the environment */
    const char *soname;
} qdr_vendor;

/* Load it, or find it loaded; NULL if there is none. It stays loaded: these runtimes keep threads
 * and tables of their own, and are not made to be taken out of a process. */
void *qdr_vendor_load(const qdr_vendor *vendor, const char *library, char why[QDR_WHY_BYTES]);

/* Put a function's address into the function pointer at `out`; false if the library has none. */
bool qdr_vendor_find(void *library, const char *name, void *out, char why[QDR_WHY_BYTES]);

#endif
