"""The YAML files of experiments, by group; read as package data."""
