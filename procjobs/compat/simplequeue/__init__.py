"""A simple queue: `enqueue` an item in one process, `dequeue` it in another; see docs/coming-from-a-simple-queue.md.

    from procjobs.compat import simplequeue

    simplequeue.enqueue(send_mail, args=["ann@example.org"])

    while True:
        item = simplequeue.dequeue()
        if item is None:
            break
        item()

The items are those of pull queues of the pool "simplequeue" (`procjobs.PullQueue`), without a store. `configure` has others.
`settings` knows which, `items` translates.
"""

from procjobs.compat.simplequeue.items import Item, dequeue, enqueue
from procjobs.compat.simplequeue.settings import configure

__all__ = ["Item", "configure", "dequeue", "enqueue"]
