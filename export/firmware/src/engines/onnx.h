/* A look into an ONNX file before a runtime parses it. */
#ifndef QDR_ENGINES_ONNX_H
#define QDR_ENGINES_ONNX_H

#include "qdr/engine.h"

/* The largest weight whose pairs of products cannot saturate: 2 x 255 x 64 fits 16 bits. */
#define QDR_SATURATION_FREE 64u

/* Why the file is refused, in static memory; NULL if every tensor lies inside it.
 *
 * Tensors are looked for wherever this release's exporter puts them. Where else one could hide
 * (subgraphs, functions, sparse tensors) is refused as a whole. Operators and sizes are not looked
 * at: qdr_edge/runtime/onnx_check.py does that at export.
 *
 * largest: receives the largest magnitude of an int8 constant, 0 if there is none. */
const char *qdr_onnx_look(qdr_view model, uint32_t *largest);

/* The largest magnitude among int8 [size]. */
uint32_t qdr_largest_s8(const uint8_t *codes, size_t size);

#endif
