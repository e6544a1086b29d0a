"""Installs the alias when it is imported: what a pool preloads before the application's own modules."""

from procjobs.compat.asyncjob.alias import install

install()
