"""The template: a fresh interpreter that imports the modules which users preload, and forks workers on request.

`template` is all of it. Its laws and its messages are at the top of the file; `main` is called on the command line that
the supervisor builds. No other module imports from here: a template is its own process.
"""
