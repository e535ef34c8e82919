"""A training run: its folder, its log and its checkpoints, and how to use a finished run."""
