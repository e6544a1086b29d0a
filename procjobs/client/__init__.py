"""The user's side: pools, handles of jobs, the connection to the supervisor."""
