"""Data sets as released, splits between patients, the pixel cache, augmentation."""
