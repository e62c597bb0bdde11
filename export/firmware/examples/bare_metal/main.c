/* The network on a microcontroller: no operating system, no heap, and the recorded logits.
 *
 * Runs a plan that is linked into flash (network.h, made from tests/data) on Cortex-M in QEMU, and
 * says over semihosting whether the logits are those of the reference. See Makefile.
 */
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "qdr/plan.h"

/* Known at compile time: qdr_plan_arena_bytes says the same number. */
static alignas(QDR_ARENA_ALIGNMENT) unsigned char arena[NETWORK_ARENA_BYTES];

int main(void) {
    static qdr_plan plan;
    float logits[NETWORK_CLASSES];
    if (qdr_plan_open(&plan, network_plan, sizeof network_plan) != QDR_OK ||
        qdr_plan_arena_bytes(&plan, 1) != sizeof arena) {
        puts("the plan cannot be opened");
        return 1;
    }
    for (unsigned n = 0; n < NETWORK_IMAGES; n++) {
        const unsigned char *pixels = network_pixels + n * (sizeof network_pixels / NETWORK_IMAGES);
        qdr_status status = qdr_plan_infer(&plan, pixels, arena, sizeof arena, NULL, logits);
        if (status != QDR_OK || memcmp(logits, network_logits + n * sizeof logits, sizeof logits)) {
            printf("image %u: not the recorded logits\n", n);
            return 1;
        }
    }
    printf("%u images: the recorded logits, bit for bit; arena %u bytes\n",
           (unsigned)NETWORK_IMAGES, (unsigned)sizeof arena);
    return 0;
}
