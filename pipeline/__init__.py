"""Lowland: which training samples shaped a trained model, which harm it, and what their labels should be."""

__version__ = "0.1.0"
