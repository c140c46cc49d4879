"""What Rewindbox costs (`python -m bench`) and what it does with real answers (`python -m bench.real`).

Run from the project's folder. Nothing of the package imports this; it uses the public API and the command line.
"""
