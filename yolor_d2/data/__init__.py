"""Data sets, augmentation and loaders."""
