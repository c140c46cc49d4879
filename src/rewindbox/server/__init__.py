"""The service: `rewindbox serve`. One noun a file; the library below it, nothing above.

Read `app.py` for what there is, `gate.py` for who may ask, `work.py` for what goes on while nobody waits.
"""
