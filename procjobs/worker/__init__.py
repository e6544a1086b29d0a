"""A worker: runs one job at a time, and what a job can call while it runs."""
