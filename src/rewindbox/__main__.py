"""`python -m rewindbox` is the command line."""

from rewindbox.cli import main

if __name__ == "__main__":
    main()
