"""`python -m procjobs`: the command line."""

from procjobs.cli import main

if __name__ == "__main__":
    main()
