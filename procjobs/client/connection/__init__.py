"""One connection to a supervisor. It stands below pools and handles, which it knows as a `Handle` and two callables.

`connection.Connection` is what the rest of the client uses, with `handshake` before it, and the records of `submission`
and `kinds` that it takes. Start reading at `connection`; `state` has the states, and `failover` says what becomes of the
jobs of a lost supervisor.
"""
