"""Google App Engine's task queues on a pool: `from procjobs.compat import taskqueue`."""
