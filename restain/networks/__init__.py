"""Networks: they depend on tensors only, not on methods, files or slides."""
