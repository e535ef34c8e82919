"""Turns files and command-line words into a checked configuration."""
