"""What a data set is, how its samples are augmented and how they become batches."""
