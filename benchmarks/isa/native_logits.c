/* The logits that libqdr gives here, and the instruction set that it chose (standard error).
 *
 *   native_logits PLAN PIXELS > LOGITS
 */
#include "files.h"
#include "qdr/plan.h"

int main(int count, char **arguments) {
    size_t plan_bytes, pixel_bytes;
    qdr_plan plan;
    if (count != 3) {
        stop("native_logits", "PLAN PIXELS");
    }
    void *content = whole_file(arguments[1], &plan_bytes);
    unsigned char *pixels = whole_file(arguments[2], &pixel_bytes);
    qdr_status status = qdr_plan_open(&plan, content, plan_bytes);
    if (status != QDR_OK) {
        stop(arguments[1], qdr_status_text(status));
    }
    size_t image = 3 * (size_t)plan.side * plan.side, bytes = qdr_plan_arena_bytes(&plan, 1);
    void *arena = aligned_alloc(QDR_ARENA_ALIGNMENT, (bytes + 63) / 64 * 64);
    float *logits = malloc(plan.classes * sizeof *logits);
    if (arena == NULL || logits == NULL) {
        stop("memory", "there is too little");
    }
    for (size_t n = 0; n < pixel_bytes / image; n++) {
        status = qdr_plan_infer(&plan, pixels + n * image, arena, bytes, NULL, logits);
        if (status != QDR_OK) {
            stop("inference", qdr_status_text(status));
        }
        give(logits, plan.classes);
    }
    fprintf(stderr, "%s\n", qdr_isa_name(qdr_plan_best_isa(&plan)));
    return 0;
}
