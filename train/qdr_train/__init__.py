"""Training of retinal screening students: data, synthetic eyes, models, quantization, distillation."""
