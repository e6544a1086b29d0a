"""The supervisor: one process per pool that keeps the queue, the deadlines, the workers and the answers."""
