"""Pages for end users that need no JavaScript."""
