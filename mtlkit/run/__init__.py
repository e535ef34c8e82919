"""A run: its folder, its log, its checkpoints, and what is done with them afterwards."""
