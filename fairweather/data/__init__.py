"""Pictures for training and evaluation: pairs on disk, degradations, patches, and checks."""
