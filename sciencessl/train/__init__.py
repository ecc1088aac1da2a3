"""The step (pure), its Lightning host, the run folder and checkpoints."""
