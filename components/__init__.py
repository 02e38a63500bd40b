"""What selfsight does, in plain Python: no orchestrator is known here."""
