/* Which artefact of a bundle this machine runs, and with what. */
#ifndef QDR_DEVICE_CHOOSE_H
#define QDR_DEVICE_CHOOSE_H

#include "qdr/qdr.h"

/* An artefact and its engine; NULL for a native one. */
typedef struct qdr_choice {
    const qdr_artefact *artefact;
    const qdr_engine *engine;
} qdr_choice;

/* Take the target that `how` names, or the first that can run here, as choose_target and refusal of
 * qdr_edge/runtime/__init__.py do. `how->why` says why there is none.
 *
 * QDR_UNSUPPORTED, QDR_ENGINE_FAILED: see qdr_open_with. */
qdr_status qdr_choose(const qdr_manifest *manifest, qdr_selection *how, qdr_choice *out);

/* The options that the artefact sets, for the engine that was chosen with it. */
qdr_status qdr_read_options(const qdr_choice *choice, qdr_engine_model *model);

#endif
