"""Quantization-aware training and the integer form that ships."""
