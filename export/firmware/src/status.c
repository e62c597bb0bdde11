#include "qdr/status.h"

const char *qdr_status_text(qdr_status status) {
    switch (status) {
#define QDR_STATUS_ENTRY(name, value, sentence) \
    case name:                                  \
        return sentence;
        QDR_STATUS_TABLE(QDR_STATUS_ENTRY)
#undef QDR_STATUS_ENTRY
    }
    return "unknown status";
}
