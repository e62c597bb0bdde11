"""Every form of a student beside its reference: run, compared, judged, shown."""
