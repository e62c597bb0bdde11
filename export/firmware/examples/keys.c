#include "keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What stands before the 32 bytes of an Ed25519 key in its DER form (RFC 8410). */
static const uint8_t HEAD[12] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

uint8_t *load_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        return NULL;
    }
    long length = ftell(file);
    uint8_t *content = length < 0 ? NULL : malloc((size_t)length + 1);
    rewind(file);
    if (content != NULL && fread(content, 1, (size_t)length, file) != (size_t)length) {
        free(content);
        content = NULL;
    }
    fclose(file);
    if (content != NULL) {
        content[length] = 0;
        *size = (size_t)length;
    }
    return content;
}

static int sextet(char c) {
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c == 0 ? NULL : strchr(alphabet, c);
    return found == NULL ? -1 : (int)(found - alphabet);
}

int load_public_key(const char *path, uint8_t key[QDR_KEY_BYTES]) {
    size_t size, bytes = 0;
    uint8_t der[sizeof HEAD + QDR_KEY_BYTES] = {0};
    char *text = (char *)load_file(path, &size);
    char *at = text == NULL ? NULL : strstr(text, "-----BEGIN PUBLIC KEY-----");
    if (at != NULL) {
        uint32_t collected = 0, bits = 0;
        for (at += 26; *at != 0 && *at != '-' && *at != '='; at++) {
            int value = sextet(*at);
            if (value < 0) {
                continue; /* line ends */
            }
            collected = collected << 6 | (uint32_t)value;
            bits += 6;
            if (bits >= 8) {
                bits -= 8;
                if (bytes < sizeof der) {
                    der[bytes] = (uint8_t)(collected >> bits);
                }
                bytes++;
            }
        }
    }
    free(text);
    if (bytes != sizeof der || memcmp(der, HEAD, sizeof HEAD) != 0) {
        return -1;
    }
    memcpy(key, der + sizeof HEAD, QDR_KEY_BYTES);
    return 0;
}
