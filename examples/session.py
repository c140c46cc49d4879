"""An agent works in a live session, ruins its data, and gets it back: files and variables."""

import tempfile

from rewindbox import Rewindbox

with tempfile.TemporaryDirectory() as store, Rewindbox(store) as box:
    session = box.vm("analyst").session()
    loaded = session.execute("euro = {'north': 410, 'harbour': 655}; open('euro.txt', 'w').write(str(euro))")
    ruined = session.execute("euro.clear(); open('euro.txt', 'w').close(); 'cleaned up'")
    print("the agent says:", ruined.result)
    print("what it has now:", session.execute("euro, open('euro.txt').read()").result)
    session.vm.rollback(loaded.after)
    print("after the rollback:", session.execute("euro, open('euro.txt').read()").result)
    crashed = session.execute("euro['north'] = 0; import os; os._exit(1)")
    print("a crash:", crashed.error)
    print("and still:", session.execute("euro").result)
