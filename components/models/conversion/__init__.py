"""Weights in and out: one module per format, `reading` and `convert` choose among them."""
