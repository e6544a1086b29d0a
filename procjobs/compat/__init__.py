"""The interfaces of other systems for background jobs, translated into the pool's own calls."""
