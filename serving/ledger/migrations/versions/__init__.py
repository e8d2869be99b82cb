"""One module a step. A released step is never edited: what it made may be in use."""
