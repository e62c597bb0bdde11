/* What a call of libqdr answers: one table of codes and sentences.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_STATUS_H
#define QDR_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, sentence). Values are part of the ABI: they are added to, never changed. */
#define QDR_STATUS_TABLE(X)                                                                       \
    X(QDR_OK, 0, "ok")                                                                            \
    X(QDR_BAD_ARGUMENT, 1, "an argument is null, out of range or misaligned")                     \
    X(QDR_BAD_BUNDLE, 2, "the bundle is damaged or not one")                                      \
    X(QDR_BAD_SIGNATURE, 3, "the bundle is not signed by a trusted key")                          \
    X(QDR_ROLLBACK, 4, "the bundle's security version is below the device's minimum")             \
    X(QDR_UNSUPPORTED, 5, "the bundle needs what this library does not have")                     \
    X(QDR_BAD_MODEL, 6, "the model is damaged or none of this library's")                         \
    X(QDR_NO_SPACE, 7, "the memory handed over is too small")                                     \
    X(QDR_SELF_TEST_FAILED, 8, "a golden vector did not come out as recorded")                    \
    X(QDR_BAD_IMAGE, 9, "the image cannot be used")                                               \
    X(QDR_CLOSED, 10, "the handle is closed")                                                     \
    X(QDR_ENGINE_FAILED, 11, "the runtime of this target cannot be loaded, or has failed")

typedef enum qdr_status {
#define QDR_STATUS_ENTRY(name, value, sentence) name = (value),
    QDR_STATUS_TABLE(QDR_STATUS_ENTRY)
#undef QDR_STATUS_ENTRY
} qdr_status;

/* The sentence of a status, in static memory; never null. */
const char *qdr_status_text(qdr_status status);

#ifdef __cplusplus
}
#endif

#endif
