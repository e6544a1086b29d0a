"""The settings of a pool: their names and values, and the three sources that they come from.

Start with `plan`: it takes each setting from the arguments, the environment (`environment`) or the settings file (`file`).
`keys` has every setting by its name, made of the classes in procjobs.shared.config; `editor` writes into the file. All five
may be imported. Nothing here starts a process or knows a pool that runs.
"""
