"""The page of a curation: what was thrown away, and why."""
