"""Scenes: a seeded generator of small pictures with full ground truth, the default source."""
