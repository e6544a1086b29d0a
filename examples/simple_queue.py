"""Numbers are factored by consumers that take them from a simple queue; one consumer is killed on the way.

    python examples/simple_queue.py                  # 12 numbers, 2 consumers
    python examples/simple_queue.py 15 21 1000003    # these numbers

The producer and the consumers are processes that know nothing of each other but the name of the queue.
"""

import os
import signal
import subprocess
import sys
import time

from procjobs.compat import simplequeue

NUMBERS = [10**9 + n for n in (7, 9, 21, 33, 87, 93, 97, 103, 123, 181, 207, 223)]


def factor(number):
    """Return the prime factors of a number."""
    time.sleep(0.1)  # job
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


def consume():
    """Take items and call them, until none came for a second."""
    while (item := simplequeue.dequeue("numbers", timeout=1)) is not None:
        (number,) = item.args
        text = " * ".join(map(str, item()))
        again = " (a consumer before was killed)" if item.tries > 1 else ""
        print(f"consumer {os.getpid()}: {number} = {text}{again}", flush=True)
        item.done()  # the next dequeue would say it, too


def main(numbers):
    for number in numbers:
        simplequeue.enqueue(factor, args=[number], queue="numbers")
    print(f"{len(numbers)} numbers are in the queue")
    command = [sys.executable, __file__, "--consume"]
    doomed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    print(doomed.stdout.readline(), end="")  # it has begun
    consumers = [subprocess.Popen(command) for _ in range(2)]
    doomed.send_signal(signal.SIGKILL)
    print(f"consumer {doomed.pid} is killed: what it has in hand comes back")
    doomed.communicate()
    return max(consumer.wait() for consumer in consumers)


if __name__ == "__main__":
    if sys.argv[1:] == ["--consume"]:
        consume()
    else:
        sys.exit(main([int(text) for text in sys.argv[1:]] or NUMBERS))
