"""What the pages of runs and of studies share: their style, the parts of drawings, and colours."""
