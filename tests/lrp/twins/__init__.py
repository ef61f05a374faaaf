"""Programs and their twins: other spellings of the same function must have the same relevance."""
