"""When periodic jobs are run. Pure: rules and a timetable that are told the time.

`rules` has the kinds of rules (`cron` the one that needs a calendar and a time zone, `zones`), `schedule` a rule with its
name and options, `timetable` decides which runs are made. cronsim and zoneinfo are imported where a rule needs them.
"""
