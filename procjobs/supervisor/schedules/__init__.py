"""The schedules of a pool: `service` keeps them and has their jobs made, `kept_calls` makes them where there is no store."""
