"""What tests defer: functions and classes of a module."""

from __future__ import annotations

import functools

calls = []
OFFSET = 100


def add(a, b=0):
    calls.append(("add", a, b))
    return a + b


async def add_later(a, b=0):
    return add(a, b)


def raise_it(error):
    raise error


class Adder:
    """Callable, with methods of each kind."""

    def __init__(self, a):
        self.a = a

    def __call__(self, b):
        return add(self.a, b)

    def method(self, b):
        return add(self.a, b)

    @classmethod
    def class_method(cls, a, b):
        return add(a, b)

    @staticmethod
    def static_method(a, b):
        return add(a, b)


def adder_of(a):
    """Return a function inside a function, which reads a global of this module."""

    def inner(b):
        return add(a + OFFSET, b)

    return inner


def recursive():
    """Return a function that closes over itself."""

    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    return factorial


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("it has a lock")


partial = functools.partial(add, 3)
