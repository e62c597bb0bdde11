/* The layout of a plan. export/qdr_export/emit/native/writer.py writes it.
 *
 *   header                      16 words
 *   tensors                     8 words each
 *   operations                  28 words each
 *   constants                   packed weights, biases, shifts, tables
 *
 * A word is a little-endian uint32 or int32. Offsets of constants count from the plan's beginning,
 * offsets of activations from the arena's.
 */
#ifndef QDR_PLAN_FORMAT_H
#define QDR_PLAN_FORMAT_H

#include <stdint.h>

#include "qdr/plan.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "plans are read in place: little-endian processors only"
#endif

#define QDR_PLAN_MAGIC "QDRPLAN1"
#define QDR_HEADER_WORDS 16u
#define QDR_TENSOR_WORDS 8u
#define QDR_OPERATION_WORDS 28u

/* Output channels that are computed together: weights are packed in blocks of so many. */
#define QDR_BLOCK 16u
/* Input channels that one instruction multiplies and adds. */
#define QDR_QUAD 4u
/* Output positions that a task makes pointers for at a time; a multiple of every kernel's rows. */
#define QDR_CHUNK 48u
#define QDR_MAX_TAPS 64u
#define QDR_MAX_SIDE 8192u
#define QDR_MAX_CHANNELS 16384u
/* Magnitude that no accumulator reaches, so that rounding cannot overflow: the writer proves it. */
#define QDR_ACCUMULATOR_LIMIT (1 << 30)

/* Bits by which an output may be finer than the sums it comes from. */
#define QDR_MOST_LEFT 16

typedef enum qdr_kind {
    QDR_INPUT = 0,      /* pixels to interleaved channels, by a table for each where there is one */
    QDR_CONV = 1,       /* dense, with an optional addition behind it */
    QDR_DEPTHWISE = 2,
    QDR_MAX_POOL = 3,
    QDR_AVERAGE_POOL = 4,
    QDR_ADD = 5,
    QDR_MULTIPLY = 6,   /* by a tensor of one position or of the same shape */
    QDR_TABLE = 7,      /* any function of one code */
    QDR_CONCAT = 8,     /* one input into a range of channels, rescaled */
    QDR_LOGITS = 9,     /* a dense layer on one position, to float */
    QDR_UPSAMPLE = 10,  /* every position repeated stride_y x stride_x times */
    QDR_KINDS = 11,
} qdr_kind;

/* height x width x stride bytes; a code is a byte minus zero. Stride is channels rounded up to a
 * quad; whatever lies in the bytes beyond channels meets weights of 0 and comes out nowhere. */
typedef struct qdr_tensor {
    uint32_t offset, height, width, channels, stride, zero, reserved[2];
} qdr_tensor;

#define QDR_NONE 0xffffffffu

typedef struct qdr_operation {
    uint32_t kind;
    uint32_t input;
    uint32_t other; /* addition's or multiplication's second tensor, else QDR_NONE */
    uint32_t output;
    uint32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
    uint32_t weights; /* offset of packed int8, or of tables of 256 bytes */
    uint32_t biases;  /* offset of int32, a multiple of QDR_BLOCK of them */
    uint32_t shifts;  /* offset of int32, as many */
    uint32_t constant_bytes; /* of weights */
    int32_t low, high; /* codes are clamped to this range after requantization */
    /* Addition: (a << left_a) + (b << left_b), shifted right by `shift`. Multiplication and
     * concatenation: `left_a` and `shift`. Average: (sum << left_a) / divisor. */
    uint32_t left_a, left_b, shift, divisor;
    int32_t sum_low, sum_high;
    uint32_t channel; /* concatenation: where in the output */
    uint32_t padded_counts; /* average: the divisor counts padding, else positions there are */
    uint32_t dilation_y, dilation_x;
    uint32_t finer; /* 1: some shifts are negative, which only the plain loop knows */
    uint32_t reserved;
} qdr_operation;

_Static_assert(sizeof(qdr_tensor) == 4 * QDR_TENSOR_WORDS, "tensors are read in place");
_Static_assert(sizeof(qdr_operation) == 4 * QDR_OPERATION_WORDS, "operations are read in place");
_Static_assert((-3 >> 1) == -2, "shifting a negative number right must round down");

/* Copies of a record, wherever the plan lies. The index was checked by qdr_plan_open. */
qdr_tensor qdr_plan_tensor(const qdr_plan *plan, uint32_t index);
qdr_operation qdr_plan_operation(const qdr_plan *plan, uint32_t index);

#endif
