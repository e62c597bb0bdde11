/* An int8 network as one block of constant data, and how it is run.
 *
 * A plan is what `qdr-edge export --target native` writes: every layer, its packed weights and where
 * each activation lies in one arena. It is run from where it is (flash, a mapped file, a verified
 * bundle): nothing is parsed into other structures, copied or allocated.
 *
 * All arithmetic is in integers and is defined by qdr-edge's reference interpreter. Every kernel of
 * every processor gives the same bits; only the logits are handed out as float, and those are
 * integers times powers of two, which float holds exactly.
 *
 * A plan from an unverified source is safe to open, since everything in it is checked; whether its
 * decisions can be trusted is the bundle's signature's business. Little-endian processors only.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_PLAN_H
#define QDR_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Arenas must begin at a multiple of this many bytes; plans may begin anywhere. */
#define QDR_ARENA_ALIGNMENT 64u

/* The most threads that one inference may be divided among. */
#define QDR_MAX_THREADS 16u

/* The version of this library, "major.minor.patch"; majors differ where calls do. */
#define QDR_VERSION "1.0.0"
const char *qdr_version(void);

/* A checked plan. Holds no memory but the caller's, and changes nothing: threads may share it. */
typedef struct qdr_plan {
    const uint8_t *content;
    uint32_t size;
    uint32_t operations;
    uint32_t tensors;
    uint32_t activation_bytes;
    uint32_t scratch_bytes;
    uint32_t side;
    uint32_t classes;
    uint32_t narrow;
} qdr_plan;

/* How to run a layer's parts side by side. `run` calls `task(argument, part)` once for each part in
 * 0..parts-1, in any order and on any thread, and returns when all have returned. */
typedef struct qdr_parallel {
    void (*run)(void *context, void (*task)(void *argument, uint32_t part), void *argument,
                uint32_t parts);
    void *context;
    uint32_t threads; /* 1..QDR_MAX_THREADS */
} qdr_parallel;

/* Instruction sets there are kernels for; which of them exist depends on the build. */
typedef enum qdr_isa {
    QDR_ISA_BEST = 0,     /* the fastest that this processor has */
    QDR_ISA_PLAIN = 1,    /* C without intrinsics, on every processor */
    QDR_ISA_AVX2 = 2,     /* x86 */
    QDR_ISA_VNNI = 3,     /* x86 with AVX-512 VNNI */
    QDR_ISA_NEON = 4,     /* Arm with the dot-product instructions */
    QDR_ISA_AVX_VNNI = 5, /* x86 with VNNI's instructions on 256 bits, without AVX-512 */
    QDR_ISA_I8MM = 6,     /* Arm with the matrix products of bytes */
} qdr_isa;

/* Called after each operation, with the codes of the tensor that it has made. For tests and tools.
 * `codes` are `height` x `width` x `stride` bytes, of which the first `channels` of each `stride`
 * count; a code is a byte minus `zero`. */
typedef struct qdr_tensor_view {
    const uint8_t *codes;
    uint32_t tensor, height, width, channels, stride, zero;
} qdr_tensor_view;
typedef struct qdr_observer {
    void (*see)(void *context, const qdr_tensor_view *made);
    void *context;
} qdr_observer;

/* What a run may be told beyond its images; all zero is a plain run on one thread. */
typedef struct qdr_run_options {
    const qdr_parallel *parallel; /* null: one thread */
    const qdr_observer *observer; /* null: none */
    qdr_isa isa;
} qdr_run_options;

/* Check a plan and describe it.
 *
 * Every offset, shape and range in it is held against every other, so that a run of a plan that was
 * opened reads and writes nothing but `content`, its arena, its pixels and its logits.
 *
 * QDR_BAD_MODEL: it is damaged, or of another version. */
qdr_status qdr_plan_open(qdr_plan *plan, const void *content, size_t size);

/* Bytes of arena that a run on so many threads needs; 0 for more than QDR_MAX_THREADS or none. */
size_t qdr_plan_arena_bytes(const qdr_plan *plan, uint32_t threads);

/* Compute the logits of one image.
 *
 * pixels   [3, side, side], the network's input as preprocessing gives it.
 * logits   [classes].
 *
 * QDR_NO_SPACE: the arena is smaller than qdr_plan_arena_bytes says, or misaligned.
 * QDR_UNSUPPORTED: this build or processor has not the instruction set that was asked for. */
qdr_status qdr_plan_infer(const qdr_plan *plan, const uint8_t *pixels, void *arena,
                          size_t arena_bytes, const qdr_run_options *options, float *logits);

/* The instruction set that QDR_ISA_BEST takes here for this plan, and its name. */
qdr_isa qdr_plan_best_isa(const qdr_plan *plan);
const char *qdr_isa_name(qdr_isa isa);

#ifdef __cplusplus
}
#endif

#endif
