"""What tools/compare_protocols.py compares."""
