"""The version of the package, where every process of a pool can read it."""

from typing import Final

__version__: Final = "0.1.0"
