/* Every inner loop of every instruction set of this machine gives plain C's numbers.
 *
 *   test_kernels [SEEDS]
 */
#include "../check.h"
#include "every_loop.h"

int main(int count, char **arguments) {
    int seeds = count > 1 ? atoi(arguments[1]) : 20;
    CHECK(seeds > 0);
    for (int isa = QDR_ISA_PLAIN; isa <= QDR_ISA_I8MM; isa++) {
        const qdr_kernels *table = qdr_kernels_of((qdr_isa)isa);
        const char *name = qdr_isa_name((qdr_isa)isa);
        if (table == NULL) {
            printf("%s: not here\n", name);
            continue;
        }
        CHECK(table->isa == (qdr_isa)isa && QDR_CHUNK % table->rows == 0);
        for (int seed = 1; seed <= seeds; seed++) {
            const char *differs = qdr_loop_that_differs(table, (uint64_t)seed);
            if (differs != NULL) {
                printf("%s: %s differs, seed %d\n", name, differs, seed);
                return 1;
            }
        }
        printf("%s: every loop is equal\n", name);
    }
    return 0;
}
