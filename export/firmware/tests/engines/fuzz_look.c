/* What an engine looks at before a runtime does: mutated models must be read within their memory.
 *
 *   fuzz_look FILE RUNS SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/ir.h"
#include "engines/onnx.h"
#include "keys.h"
#include "random.h"

static const char *look(qdr_view model) {
    qdr_view xml, weights;
    uint32_t largest;
    return qdr_is_ir(model) ? qdr_ir_look(model, &xml, &weights, &largest)
                            : qdr_onnx_look(model, &largest);
}

int main(int count, char **arguments) {
    size_t size = 0;
    uint8_t *whole = count == 4 ? load_file(arguments[1], &size) : NULL;
    unsigned long runs = count == 4 ? strtoul(arguments[2], NULL, 10) : 0, refused = 0;
    if (whole == NULL || size == 0 || look((qdr_view){whole, size}) != NULL) {
        fprintf(stderr, "usage: fuzz_look FILE RUNS SEED, of a model that is taken\n");
        return 2;
    }
    uint64_t state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    for (unsigned long run = 0; run < runs; run++) {
        uint64_t what = next_random(&state);
        size_t length = what % 4 == 0 ? 1 + (what >> 8) % size : size;
        /* Of just its own size, so that a sanitizer sees every byte beyond. */
        uint8_t *model = malloc(length);
        if (model == NULL) {
            return 1;
        }
        memcpy(model, whole, length);
        for (uint64_t changes = 1 + (what >> 2) % 3; changes > 0; changes--) {
            what = next_random(&state);
            /* Most of a file is weights: its beginning is changed as often as the rest. */
            size_t room = what % 2 == 0 && length > 4096 ? 4096 : length;
            model[(what >> 8) % room] = (uint8_t)(what >> 48);
        }
        refused += look((qdr_view){model, length}) != NULL;
        free(model);
    }
    free(whole);
    printf("%lu of %lu refused; all were read within their memory\n", refused, runs);
    return 0;
}
