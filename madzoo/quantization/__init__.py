"""Quantization: (module, batches) in, frozen record or new module out."""
