/* OpenVINO IR in one entry, as qdr_edge/runtime/ir_check.py packs it. */
#ifndef QDR_ENGINES_IR_H
#define QDR_ENGINES_IR_H

#include "qdr/engine.h"

/* Whether bytes claim to be such an entry. */
bool qdr_is_ir(qdr_view model);

/* Split it; NULL, or why it is refused, in static memory. IR names no file: OpenVINO is handed the
 * weights beside the XML, and each constant must lie inside them.
 *
 * largest: receives the largest magnitude of an int8 constant, 0 if there is none. */
const char *qdr_ir_look(qdr_view model, qdr_view *xml, qdr_view *weights, uint32_t *largest);

#endif
