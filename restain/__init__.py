"""Virtual immunohistochemistry staining: train, stain, measure."""
