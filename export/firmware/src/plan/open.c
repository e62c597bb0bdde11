/* Opening a plan: everything a run relies on is checked here, once. */
#include <stdbool.h>
#include <string.h>

#include "plan/format.h"

static uint32_t word(const uint8_t *content, uint32_t index) {
    uint32_t value;
    memcpy(&value, content + 4 * (size_t)index, sizeof value);
    return value;
}

qdr_tensor qdr_plan_tensor(const qdr_plan *plan, uint32_t index) {
    qdr_tensor tensor;
    memcpy(&tensor, plan->content + 4 * (size_t)QDR_HEADER_WORDS + sizeof tensor * (size_t)index,
           sizeof tensor);
    return tensor;
}

qdr_operation qdr_plan_operation(const qdr_plan *plan, uint32_t index) {
    qdr_operation operation;
    memcpy(&operation,
           plan->content + 4 * (size_t)QDR_HEADER_WORDS +
               sizeof(qdr_tensor) * (size_t)plan->tensors + sizeof operation * (size_t)index,
           sizeof operation);
    return operation;
}

static bool within(uint64_t offset, uint64_t bytes, uint64_t size) {
    return bytes <= size && offset <= size - bytes;
}

static uint64_t bytes_of(const qdr_tensor *tensor) {
    return (uint64_t)tensor->height * tensor->width * tensor->stride;
}

static bool tensor_is_sound(const qdr_plan *plan, const qdr_tensor *tensor) {
    if (tensor->height == 0 || tensor->height > QDR_MAX_SIDE || tensor->width == 0 ||
        tensor->width > QDR_MAX_SIDE || tensor->channels == 0 ||
        tensor->channels > QDR_MAX_CHANNELS) {
        return false;
    }
    return tensor->stride == (tensor->channels + QDR_QUAD - 1) / QDR_QUAD * QDR_QUAD &&
           (tensor->zero == 0 || tensor->zero == 128) && tensor->offset % QDR_ARENA_ALIGNMENT == 0 &&
           within(tensor->offset, bytes_of(tensor), plan->activation_bytes);
}

static bool overlap(const qdr_tensor *a, const qdr_tensor *b) {
    return a->offset < b->offset + bytes_of(b) && b->offset < a->offset + bytes_of(a);
}

static bool same_shape(const qdr_tensor *a, const qdr_tensor *b) {
    return a->height == b->height && a->width == b->width && a->channels == b->channels;
}

/* Whether codes of a range fit the bytes of a tensor. */
static bool codes_fit(const qdr_tensor *tensor, int32_t low, int32_t high) {
    int32_t lowest = tensor->zero == 0 ? 0 : -128;
    return lowest <= low && low <= 0 && 0 <= high && high <= 127;
}

static bool window_is_sound(const qdr_operation *o, const qdr_tensor *in, const qdr_tensor *out) {
    if (o->kernel_height == 0 || o->kernel_width == 0 || o->stride_y == 0 || o->stride_x == 0 ||
        o->kernel_height > QDR_MAX_SIDE || o->kernel_width > QDR_MAX_SIDE ||
        o->stride_y > QDR_MAX_SIDE || o->stride_x > QDR_MAX_SIDE ||
        o->dilation_y == 0 || o->dilation_x == 0 || o->dilation_y > QDR_MAX_SIDE ||
        o->dilation_x > QDR_MAX_SIDE || o->pad_top > QDR_MAX_SIDE || o->pad_left > QDR_MAX_SIDE) {
        return false;
    }
    return (uint64_t)(out->height - 1) * o->stride_y < (uint64_t)in->height + o->pad_top &&
           (uint64_t)(out->width - 1) * o->stride_x < (uint64_t)in->width + o->pad_left;
}

/* Whether every window meets the image, so that it has a largest code and a mean. */
static bool pool_is_sound(const qdr_operation *o, const qdr_tensor *in, const qdr_tensor *out) {
    return window_is_sound(o, in, out) && o->dilation_y == 1 && o->dilation_x == 1 &&
           o->pad_top < o->kernel_height && o->pad_left < o->kernel_width &&
           in->channels == out->channels;
}

static bool lanes_are_sound(const qdr_plan *plan, const qdr_operation *o, uint32_t channels) {
    uint64_t lanes = (channels + QDR_BLOCK - 1) / QDR_BLOCK * (uint64_t)QDR_BLOCK;
    if (!within(o->biases, 4 * lanes, plan->size) || !within(o->shifts, 4 * lanes, plan->size)) {
        return false;
    }
    for (uint64_t lane = 0; lane < lanes; lane++) {
        int32_t shift;
        memcpy(&shift, plan->content + o->shifts + 4 * lane, sizeof shift);
        int32_t least = o->kind == QDR_LOGITS ? -126 : o->finer ? -QDR_MOST_LEFT : 0;
        if (shift < least || shift > (o->kind == QDR_LOGITS ? 100 : 30)) {
            return false;
        }
    }
    return true;
}

static bool addition_is_sound(const qdr_operation *o, const qdr_tensor *out) {
    return o->left_a <= 20 && o->left_b <= 20 && o->shift <= 28 &&
           codes_fit(out, o->sum_low, o->sum_high);
}

static bool conv_is_sound(const qdr_plan *plan, const qdr_operation *o, const qdr_tensor *in,
                          const qdr_tensor *out) {
    uint64_t taps = (uint64_t)o->kernel_height * o->kernel_width;
    uint64_t blocks = (out->channels + QDR_BLOCK - 1) / QDR_BLOCK;
    if (!window_is_sound(o, in, out) || taps > QDR_MAX_TAPS ||
        o->constant_bytes != blocks * QDR_BLOCK * taps * in->stride ||
        !within(o->weights, o->constant_bytes, plan->size) ||
        !lanes_are_sound(plan, o, out->channels)) {
        return false;
    }
    if (o->other == QDR_NONE) {
        return codes_fit(out, o->low, o->high);
    }
    qdr_tensor other = qdr_plan_tensor(plan, o->other);
    return -128 <= o->low && o->low <= 0 && 0 <= o->high && o->high <= 127 &&
           same_shape(&other, out) && addition_is_sound(o, out);
}

static bool depthwise_is_sound(const qdr_plan *plan, const qdr_operation *o, const qdr_tensor *in,
                               const qdr_tensor *out) {
    uint64_t taps = (uint64_t)o->kernel_height * o->kernel_width;
    uint64_t lanes = (out->channels + QDR_BLOCK - 1) / QDR_BLOCK * (uint64_t)QDR_BLOCK;
    return window_is_sound(o, in, out) && taps <= QDR_MAX_TAPS && in->channels == out->channels &&
           o->other == QDR_NONE && o->constant_bytes == taps * lanes &&
           within(o->weights, o->constant_bytes, plan->size) &&
           lanes_are_sound(plan, o, out->channels) && codes_fit(out, o->low, o->high);
}

static bool logits_are_sound(const qdr_plan *plan, const qdr_operation *o, const qdr_tensor *in) {
    uint64_t blocks = (plan->classes + QDR_BLOCK - 1) / QDR_BLOCK;
    return in->height == 1 && in->width == 1 &&
           o->constant_bytes == blocks * QDR_BLOCK * in->stride &&
           within(o->weights, o->constant_bytes, plan->size) &&
           lanes_are_sound(plan, o, plan->classes);
}

static bool average_is_sound(const qdr_operation *o, const qdr_tensor *in, const qdr_tensor *out) {
    uint64_t positions = (uint64_t)o->kernel_height * o->kernel_width;
    /* 255 x positions << left, and twice the divisor << shift, stay within int64. */
    return pool_is_sound(o, in, out) && o->left_a <= 20 && o->shift <= 28 &&
           positions <= (1u << 14) && o->divisor == positions && codes_fit(out, o->low, o->high);
}

static bool table_is_sound(const qdr_plan *plan, const qdr_operation *o, const qdr_tensor *out,
                           uint32_t tables) {
    if (o->constant_bytes != 256 * tables || !within(o->weights, o->constant_bytes, plan->size)) {
        return false;
    }
    for (uint32_t byte = 0; out->zero == 0 && byte < 256 * tables; byte++) {
        if (plan->content[o->weights + byte] > 127) {
            return false; /* kernels count on codes of at most 127 there */
        }
    }
    return true;
}

static bool operation_is_sound(const qdr_plan *plan, const qdr_operation *o, bool *has_logits) {
    bool to_tensor = o->kind != QDR_LOGITS, from_tensor = o->kind != QDR_INPUT;
    qdr_tensor in = {0}, out = {0}, other = {0};
    if ((from_tensor ? o->input >= plan->tensors : o->input != QDR_NONE) ||
        (to_tensor ? o->output >= plan->tensors : o->output != QDR_NONE) ||
        (o->other != QDR_NONE && o->other >= plan->tensors)) {
        return false;
    }
    if (from_tensor) {
        in = qdr_plan_tensor(plan, o->input);
    }
    if (to_tensor) {
        out = qdr_plan_tensor(plan, o->output);
    }
    if (o->other != QDR_NONE) {
        other = qdr_plan_tensor(plan, o->other);
        /* The same place is fine where each value is read before it is written, and only then. */
        if (o->output != o->other && overlap(&other, &out)) {
            return false;
        }
    }
    bool in_place = o->kind == QDR_TABLE || o->kind == QDR_ADD || o->kind == QDR_MULTIPLY;
    if (from_tensor && to_tensor && overlap(&in, &out) && !(in_place && o->input == o->output)) {
        return false;
    }
    switch (o->kind) {
    case QDR_INPUT:
        return out.height == plan->side && out.width == plan->side && out.channels == 3 &&
               (o->constant_bytes == 0
                    ? out.zero == 128
                    : table_is_sound(plan, o, &out, 3));
    case QDR_CONV:
        return conv_is_sound(plan, o, &in, &out);
    case QDR_DEPTHWISE:
        return depthwise_is_sound(plan, o, &in, &out);
    case QDR_MAX_POOL:
        return pool_is_sound(o, &in, &out) && in.zero == out.zero;
    case QDR_AVERAGE_POOL:
        return average_is_sound(o, &in, &out);
    case QDR_ADD:
        return o->other != QDR_NONE && same_shape(&in, &other) && same_shape(&in, &out) &&
               addition_is_sound(o, &out);
    case QDR_MULTIPLY:
        return o->other != QDR_NONE && o->other != o->output && same_shape(&in, &out) &&
               in.channels == other.channels &&
               (same_shape(&in, &other) || (other.height == 1 && other.width == 1)) &&
               o->left_a <= 14 && o->shift <= 28 && codes_fit(&out, o->low, o->high);
    case QDR_TABLE:
        return same_shape(&in, &out) && table_is_sound(plan, o, &out, 1);
    case QDR_CONCAT:
        return in.height == out.height && in.width == out.width && o->left_a <= 20 &&
               o->shift <= 28 && within(o->channel, in.channels, out.channels) &&
               codes_fit(&out, o->low, o->high);
    case QDR_UPSAMPLE:
        return o->stride_y >= 1 && o->stride_y <= QDR_MAX_SIDE && o->stride_x >= 1 &&
               o->stride_x <= QDR_MAX_SIDE && out.height == in.height * o->stride_y &&
               out.width == in.width * o->stride_x && in.channels == out.channels &&
               in.zero == out.zero;
    case QDR_LOGITS:
        *has_logits = true;
        return logits_are_sound(plan, o, &in);
    default:
        return false;
    }
}

qdr_status qdr_plan_open(qdr_plan *plan, const void *content, size_t size) {
    if (plan == NULL || content == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(plan, 0, sizeof *plan);
    if (size < 4 * QDR_HEADER_WORDS || size > UINT32_MAX ||
        memcmp(content, QDR_PLAN_MAGIC, 8) != 0) {
        return QDR_BAD_MODEL;
    }
    const uint8_t *bytes = content;
    qdr_plan found = {.content = bytes, .size = (uint32_t)size};
    found.tensors = word(bytes, 3);
    found.operations = word(bytes, 4);
    found.activation_bytes = word(bytes, 5);
    found.scratch_bytes = word(bytes, 6);
    found.side = word(bytes, 7);
    found.classes = word(bytes, 8);
    found.narrow = word(bytes, 9);
    uint64_t records = 4 * (QDR_HEADER_WORDS + (uint64_t)found.tensors * QDR_TENSOR_WORDS +
                            (uint64_t)found.operations * QDR_OPERATION_WORDS);
    if (word(bytes, 2) != size || records > size || found.tensors == 0 || found.operations < 2 ||
        found.side == 0 || found.side > QDR_MAX_SIDE || found.classes == 0 ||
        found.classes > QDR_MAX_CHANNELS || found.narrow > 1 ||
        found.activation_bytes > INT32_MAX ||
        found.activation_bytes % QDR_ARENA_ALIGNMENT != 0) {
        return QDR_BAD_MODEL;
    }
    /* Scratch is a row of padding: as wide as the widest tensor that is read with a window. */
    uint32_t widest = 0;
    for (uint32_t index = 0; index < found.tensors; index++) {
        qdr_tensor tensor = qdr_plan_tensor(&found, index);
        if (!tensor_is_sound(&found, &tensor)) {
            return QDR_BAD_MODEL;
        }
        widest = tensor.stride > widest ? tensor.stride : widest;
    }
    if (found.scratch_bytes != (widest + QDR_ARENA_ALIGNMENT - 1) / QDR_ARENA_ALIGNMENT *
                                   QDR_ARENA_ALIGNMENT) {
        return QDR_BAD_MODEL;
    }
    for (uint32_t index = 0; index < found.operations; index++) {
        qdr_operation operation = qdr_plan_operation(&found, index);
        bool has_logits = false, is_last = index == found.operations - 1;
        if (!operation_is_sound(&found, &operation, &has_logits) || has_logits != is_last ||
            (operation.kind == QDR_INPUT) != (index == 0)) {
            return QDR_BAD_MODEL;
        }
    }
    *plan = found;
    return QDR_OK;
}
