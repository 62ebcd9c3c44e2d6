"""Files in, samples out: readers, the working copy, the splits, the Dataset."""
