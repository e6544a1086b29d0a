"""What is in the database of the queues: the tables, and all that reads and writes tasks but the sender.

`tables` has the rows and their states, `database` the connection of a process, `rows` adds, deletes and counts tasks,
`leases` is for pull queues, `transactional` adds tasks over a session of the application, `stored` reads for its handlers.
"""
