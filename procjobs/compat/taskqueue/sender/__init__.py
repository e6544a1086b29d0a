"""The sender: one job of a pool sends the tasks of all push queues of a database; it is started by whoever configures them.

    configure() ---> destinations.publish ---> tables <--- claims <--- loop, in a job of the pool (job.py)
    add()       ---> rows               --->                 |
                                                          attempts ---> requests ---> the application

`start` has a pool keep a sender. `leader` sees to it that there is one for each database, `queue_state` has the tokens and
the rate of a queue, `replies` says what becomes of a task after its request.
"""

from procjobs.compat.taskqueue.sender.destinations import DEFAULT_TIMEOUT, Destinations, publish
from procjobs.compat.taskqueue.sender.starting import start, timeout_of

__all__ = ["DEFAULT_TIMEOUT", "Destinations", "publish", "start", "timeout_of"]
