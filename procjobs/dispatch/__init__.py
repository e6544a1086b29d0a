"""The scheduling core: it decides which job runs when, on which worker, and how it ends. No I/O, no clock.

The supervisor imports Dispatcher, the records of `model` (it extends Job and Kind), the protocols of `ports` (it implements
them), and names in `limits`, `failures` and `watchdog`; the other modules are the dispatcher's parts.
Start reading at `dispatcher`, whose docstring has the laws, then `ports`, then `model`.
"""
