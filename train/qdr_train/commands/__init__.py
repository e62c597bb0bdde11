"""What the training stage adds to `qdr-edge`."""
