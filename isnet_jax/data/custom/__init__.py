"""Own images with masks: readers, checks, and the data set made of them."""
