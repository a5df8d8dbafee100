"""The networks: they know tensors, and nothing of methods, files or slides."""
