#include "vendor.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *qdr_vendor_load(const qdr_vendor *vendor, const char *library, char why[QDR_WHY_BYTES]) {
    const char *path = library != NULL ? library : getenv(vendor->variable);
    void *found = dlopen(path != NULL ? path : vendor->soname, RTLD_NOW | RTLD_LOCAL);
    if (found == NULL) {
        snprintf(why, QDR_WHY_BYTES, "%s cannot be loaded: %s; name its file in %s", vendor->name,
                 dlerror(), vendor->variable);
    }
    return found;
}

bool qdr_vendor_find(void *library, const char *name, void *out, char why[QDR_WHY_BYTES]) {
    void *address = dlsym(library, name);
    if (address == NULL) {
        snprintf(why, QDR_WHY_BYTES, "the runtime's library has no %s: another library or release",
                 name);
        return false;
    }
    memcpy(out, &address, sizeof address); /* C has no cast from an object to a function */
    return true;
}
