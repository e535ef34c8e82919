"""Small copies of real data sets, in the exact layouts that people have on disk."""
