"""From files and words to a checked configuration."""
