"""A user's function as a flat program, and what can be said of its values."""
