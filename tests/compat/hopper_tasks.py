"""Tasks of the tests; the runner's own tests write files of their own."""

import functools
from os.path import join  # noqa: F401 - it is imported, so it is no task

from procjobs.compat.taskhopper import TaskHopper  # noqa: F401 - a class, which is none either

NUMBER = 7


def task_example(first, second=None):
    return [first, second]


def decorate(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


@decorate
def decorated():
    return "decorated"


async def later(value):
    return value
