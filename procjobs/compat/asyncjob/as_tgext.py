"""Installs the alias when it is imported. Pools preload it before the application's own modules."""

from procjobs.compat.asyncjob.alias import install

install()
