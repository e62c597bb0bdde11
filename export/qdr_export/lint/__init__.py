"""Static rules of the targets."""
