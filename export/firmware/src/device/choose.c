#include "choose.h"

#include <string.h>

#include "bundle/json.h"
#include "machine.h"

/* As in Python: a GPU where there is one, then the runtime that every installation has. */
static const char *const ORDER[] = {"tensorrt", "onnxruntime", "openvino", "native"};

static bool is_backend(const qdr_artefact *artefact, const char *backend) {
    return qdr_text_equal(artefact->backend, qdr_text_of(backend));
}

/* Add to the line that says why; what does not fit is left out. */
static void say(qdr_selection *how, qdr_text text) {
    size_t used = strlen(how->why);
    size_t room = sizeof how->why - 1 - used;
    size_t length = text.size < room ? text.size : room;
    if (length > 0) {
        memcpy(how->why + used, text.bytes, length);
    }
    how->why[used + length] = '\0';
}

static qdr_status refuse(qdr_selection *how, const char *before, qdr_text what,
                         const char *after) {
    say(how, qdr_text_of(before));
    say(how, what);
    say(how, qdr_text_of(after));
    return QDR_UNSUPPORTED;
}

/* The engine's own word for an option that a bundle may set; NULL for any other. */
static const char *allowed_option(const qdr_engine *engine, qdr_text name) {
    for (const char *const *at = engine == NULL ? NULL : engine->options;
         at != NULL && *at != NULL; at++) {
        if (qdr_text_equal(name, qdr_text_of(*at))) {
            return *at;
        }
    }
    return NULL;
}

static qdr_status check_options(const qdr_choice *choice, qdr_selection *how) {
    qdr_json json = qdr_json_over(choice->artefact->options);
    if (choice->artefact->options.size == 0) {
        return QDR_OK;
    }
    qdr_json_enter(&json, '{');
    while (qdr_json_more(&json)) {
        qdr_text name = qdr_json_key(&json);
        (void)qdr_json_any(&json);
        if (allowed_option(choice->engine, name) == NULL) {
            return refuse(how, "option ", name, " may not be set by a bundle");
        }
    }
    return QDR_OK;
}

qdr_status qdr_read_options(const qdr_choice *choice, qdr_engine_model *model) {
    qdr_json json = qdr_json_over(choice->artefact->options);
    if (choice->artefact->options.size == 0) {
        return QDR_OK;
    }
    qdr_json_enter(&json, '{');
    while (qdr_json_more(&json)) {
        qdr_engine_option *option = &model->options[model->option_count];
        if (model->option_count == QDR_MAX_OPTIONS) {
            return QDR_UNSUPPORTED;
        }
        option->name = allowed_option(choice->engine, qdr_json_key(&json));
        if (qdr_text_copy(qdr_json_string(&json), option->value, sizeof option->value, NULL) !=
            QDR_OK) {
            return QDR_UNSUPPORTED;
        }
        model->option_count++;
    }
    return QDR_OK;
}

static qdr_status check_machine(const qdr_artefact *artefact, qdr_selection *how) {
    qdr_json json = qdr_json_over(artefact->requires);
    if (artefact->requires.size == 0) {
        return QDR_OK;
    }
    qdr_json_enter(&json, '[');
    while (qdr_json_more(&json)) {
        qdr_text property = qdr_json_string(&json);
        if (!qdr_machine_has(property)) {
            return refuse(how, "this machine has no ", property, ", as far as libqdr can tell");
        }
    }
    return QDR_OK;
}

/* The engine for an artefact; false if there is none. */
static bool find_engine(const qdr_selection *how, qdr_choice *choice) {
    choice->engine = NULL;
    for (uint32_t k = 0; k < how->engine_count; k++) {
        if (is_backend(choice->artefact, how->engines[k].backend)) {
            choice->engine = &how->engines[k];
        }
    }
    return choice->engine != NULL || is_backend(choice->artefact, "native");
}

/* Whether the artefact can run here; if not, why is added to `how`. */
static qdr_status refusal(qdr_choice *choice, qdr_selection *how) {
    char version[QDR_VERSION_BYTES] = QDR_VERSION;
    qdr_status status = QDR_OK;
    say(how, choice->artefact->target);
    say(how, qdr_text_of(": "));
    if (!find_engine(how, choice)) {
        return refuse(how, "no engine was handed over for ", choice->artefact->backend, "");
    }
    status = check_options(choice, how);
    if (status == QDR_OK) {
        status = check_machine(choice->artefact, how);
    }
    if (status == QDR_OK && choice->engine != NULL) {
        char why[QDR_WHY_BYTES] = "";
        status = choice->engine->version(choice->engine->library, version, why);
        say(how, qdr_text_of(why));
    }
    if (status == QDR_OK && !qdr_version_in(qdr_text_of(version), choice->artefact->runtime)) {
        say(how, choice->artefact->backend);
        say(how, qdr_text_of(" "));
        refuse(how, version, qdr_text_of(" is outside the versions this was proven for, "), "");
        status = refuse(how, "", choice->artefact->runtime, "");
    }
    return status;
}

static qdr_status first_that_runs(const qdr_manifest *manifest, qdr_selection *how,
                                  qdr_choice *out) {
    for (size_t n = 0; n < sizeof ORDER / sizeof *ORDER; n++) {
        for (uint32_t k = 0; k < manifest->artefact_count; k++) {
            out->artefact = &manifest->artefacts[k];
            if (!is_backend(out->artefact, ORDER[n])) {
                continue;
            }
            if (refusal(out, how) == QDR_OK) {
                how->why[0] = '\0';
                return QDR_OK;
            }
            say(how, qdr_text_of("; "));
        }
    }
    return refuse(how, "no target of the bundle can run here", qdr_text_of(""), "");
}

qdr_status qdr_choose(const qdr_manifest *manifest, qdr_selection *how, qdr_choice *out) {
    how->why[0] = '\0';
    if (how->target == NULL) {
        return first_that_runs(manifest, how, out);
    }
    qdr_text target = qdr_text_of(how->target);
    out->artefact = qdr_manifest_artefact(manifest, target);
    if (out->artefact == NULL) {
        return refuse(how, "the bundle has no target ", target, "");
    }
    qdr_status status = refusal(out, how);
    if (status == QDR_OK) {
        how->why[0] = '\0';
    }
    return status;
}
