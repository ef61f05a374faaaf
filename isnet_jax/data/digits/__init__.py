"""The biased digits: sources, background marks, and the data set made of them."""
