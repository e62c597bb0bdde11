"""Teachers that guide a student: pairing, prototypes, the distillation losses."""
