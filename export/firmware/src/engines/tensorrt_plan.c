#include "tensorrt_plan.h"

#include <stdio.h>
#include <string.h>

enum {
    MINIMUM_FREE_MIB = 512, /* below, CUDA and TensorRT alone would drive a board into swap */
    MINIMUM_WORKSPACE_MIB = 64,
    MAXIMUM_WORKSPACE_MIB = 1024,
    OPTIMIZATION_LEVEL = 3,
};

const char *const QDR_TRT_OPTIONS[] = {"workspace_mib", "optimization_level", "cuda_graph",
                                       "spin_wait", NULL};

/* Digits, and a number of least..most. */
static bool whole_number(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    *out = 0;
    for (const char *at = text; *at != '\0'; at++) {
        if (*at < '0' || *at > '9' || *out > most) {
            return false;
        }
        *out = *out * 10 + (uint64_t)(*at - '0');
    }
    return text[0] != '\0' && *out >= least && *out <= most;
}

bool qdr_trt_read_options(const qdr_engine_model *model, qdr_trt_plan *out,
                          char why[QDR_WHY_BYTES]) {
    static const uint64_t LEAST[] = {1, 0, 0, 0}, MOST[] = {(1u << 20) - 1, 5, 1, 1};
    uint64_t values[] = {0, OPTIMIZATION_LEVEL, 0, 0};
    for (uint32_t k = 0; k < model->option_count; k++) {
        const qdr_engine_option *option = &model->options[k];
        size_t n = 0;
        while (QDR_TRT_OPTIONS[n] != NULL && strcmp(QDR_TRT_OPTIONS[n], option->name) != 0) {
            n++;
        }
        if (QDR_TRT_OPTIONS[n] == NULL) {
            snprintf(why, QDR_WHY_BYTES, "option %s may not be set by a bundle", option->name);
            return false;
        }
        if (!whole_number(option->value, LEAST[n], MOST[n], &values[n])) {
            snprintf(why, QDR_WHY_BYTES,
                     "option %s is \"%s\", not a whole number of %u to %u: export the bundle again",
                     option->name, option->value, (unsigned)LEAST[n], (unsigned)MOST[n]);
            return false;
        }
    }
    *out = (qdr_trt_plan){
        .workspace_mib = values[0],
        .optimization_level = (uint32_t)values[1],
        .cuda_graph = values[2] == 1,
        .spin_wait = values[3] == 1,
    };
    return true;
}

bool qdr_trt_bound(qdr_trt_plan *plan, uint64_t free_bytes, char why[QDR_WHY_BYTES]) {
    uint64_t free_mib = free_bytes >> 20, quarter = free_mib / 4;
    if (free_mib < MINIMUM_FREE_MIB) {
        snprintf(why, QDR_WHY_BYTES,
                 "%u MiB of memory are free, and %u are needed to build TensorRT's engine: close "
                 "other programs, or keep built engines in a cache",
                 (unsigned)free_mib, (unsigned)MINIMUM_FREE_MIB);
        return false;
    }
    if (plan->workspace_mib == 0) {
        plan->workspace_mib = quarter < MINIMUM_WORKSPACE_MIB   ? MINIMUM_WORKSPACE_MIB
                              : quarter > MAXIMUM_WORKSPACE_MIB ? MAXIMUM_WORKSPACE_MIB
                                                                : quarter;
    }
    plan->tactic_mib = free_mib * 3 / 4;
    if (plan->tactic_mib < plan->workspace_mib) {
        plan->tactic_mib = plan->workspace_mib;
    }
    return true;
}

uint64_t qdr_trt_available_bytes(void) {
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return (uint64_t)kib << 10;
}

void qdr_trt_sha256(qdr_view bytes, char hex[QDR_CACHE_KEY_BYTES]) {
    static const char DIGITS[] = "0123456789abcdef";
    uint8_t digest[QDR_SHA256_BYTES];
    qdr_sha256(bytes.bytes, bytes.size, digest);
    for (size_t k = 0; k < sizeof digest; k++) {
        hex[2 * k] = DIGITS[digest[k] >> 4];
        hex[2 * k + 1] = DIGITS[digest[k] & 15];
    }
    hex[2 * sizeof digest] = '\0';
}

/* The parts are written as Python's EngineKey writes them. */
bool qdr_trt_key(const char *what, const char *device, const char *version,
                 char key[QDR_CACHE_KEY_BYTES]) {
    char text[768];
    int length = snprintf(text, sizeof text, "[\"%s\",\"%s\",\"%s\",\"%s\"]", what, device,
                          version, QDR_TRT_FLAGS);
    if (length < 0 || (size_t)length >= sizeof text) {
        return false;
    }
    qdr_trt_sha256((qdr_view){(const uint8_t *)text, (size_t)length}, key);
    return true;
}
