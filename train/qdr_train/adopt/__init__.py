"""A user's own torch network, rewritten into the building blocks that can be quantized."""
