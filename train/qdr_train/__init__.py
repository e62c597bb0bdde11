"""Training: data sets, synthetic eyes, models, quantization-aware distillation."""
