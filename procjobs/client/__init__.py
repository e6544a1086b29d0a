"""The user's side: pools and the handles of jobs, in the process that submits.

`pool.Pool` and `job.Job` are the public names; the command line and the tuning also use `running_pool.RunningPool` and
`launcher`. Below them are the link to the supervisor (`link`), the way of a call to it (`producer`, `connection/`) and the
end of a pool (`shutdown`). Start reading at `pool`, then `producer` and `link`.
"""
