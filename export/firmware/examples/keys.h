/* Files and keys, for examples on a workstation; firmware has its key in read-only memory. */
#ifndef QDR_EXAMPLES_KEYS_H
#define QDR_EXAMPLES_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "qdr/bundle.h"

/* The content of a file, which the caller frees; NULL if it cannot be read. */
uint8_t *load_file(const char *path, size_t *size);

/* The raw Ed25519 key of a PEM file ("BEGIN PUBLIC KEY"); 0 if it is one. */
int load_public_key(const char *path, uint8_t key[QDR_KEY_BYTES]);

#endif
