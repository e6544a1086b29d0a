"""What a program has configured: `configuring` is the call, `configuration` what it leaves, `queue_yaml` reads the file.

`queues` has the settings of one queue, which the database and the sender know, too.
"""
