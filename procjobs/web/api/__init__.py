"""The JSON API under `api/1/`: what the dashboard and the command line can see and do, for programs.

A call is one row of a table (`table.py`), an `Endpoint`: its path, the right that it needs, its parameters, the function
that answers, and the name of the schema of what that returns. The routes and the OpenAPI document are made of these rows.

    request -> parameters.py (checked values, or 400) -> a handler in jobs, bulk, pools, schedules, history
            -> records.py, shapes.py (records to documents) -> JSON
"""
