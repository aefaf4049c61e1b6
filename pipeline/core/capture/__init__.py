"""Per-sample gradients of the loss of each row, by two interchangeable engines; see `pipeline.core.capture.engine`."""
