"""The application's side of a request: `middleware` for WSGI and ASGI, `gate` tells requests of the queue from others."""
