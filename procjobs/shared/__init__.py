"""What all the processes of a pool agree on: states, bytes on the wire, job ids, the shared table."""
