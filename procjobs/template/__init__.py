"""The template: a fresh interpreter that imports what the users preload, and forks workers."""
