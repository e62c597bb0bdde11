/* Float64 as text in one form: the shortest decimal that reads back as the same number (Python's
 * repr), computed in integers because a C library's strtod may be missing, inexact or localized.
 */
#ifndef QDR_DECIMAL_H
#define QDR_DECIMAL_H

#include "qdr/bundle.h"

/* The longest text is -2.2250738585072014e-308. */
#define QDR_DECIMAL_BYTES 24u

/* Read text such as "0.1", "-0.0", "1e-05" or "inf". False unless it is, byte for byte, what
 * qdr_decimal_write makes of the number it stands for; so "nan", "1", "1.50" and " 1.0" are not.
 */
bool qdr_decimal_read(qdr_text text, double *value);

/* The text of a number that is not NaN; returns its size, at most QDR_DECIMAL_BYTES. */
size_t qdr_decimal_write(double value, char out[QDR_DECIMAL_BYTES]);

#endif
