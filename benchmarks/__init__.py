"""Measurements that README quotes: each prints a table of ratios from one process run and writes it to `results/`."""
