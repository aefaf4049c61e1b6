"""Solvers of (C + lambda) u = v that need the model itself, on whole gradients: CG, LiSSA, K-FAC, EK-FAC."""
