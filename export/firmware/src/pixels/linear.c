/* Weights of bilinear resizing in 256ths, for pictures smaller than the network's input.
 *
 * Where a source pixel lies is computed in double precision because the contract's weights round
 * a double; everything after that is whole numbers.
 */
#include "pixels_internal.h"

qdr_linear_tap qdr_linear_tap_of(uint32_t index, uint32_t target, uint32_t source) {
    const double ratio = (double)target / (double)source;
    const double scale = 1.0 / ratio;
    const double centre = scale * ((double)index + 0.5);
    const double place = centre - 0.5;
    qdr_linear_tap tap = {0, 0, 0};
    if (place < 0.0 || source == 1) {
        return tap;
    }
    tap.first = (uint32_t)place;
    if (tap.first >= source - 1) {
        tap.first = tap.second = source - 1;
        return tap;
    }
    tap.second = tap.first + 1;
    /* Adding 2^52 rounds half to even. */
    const double scaled = (place - tap.first) * 256.0;
    tap.weight = (uint32_t)((scaled + 4503599627370496.0) - 4503599627370496.0);
    return tap;
}
