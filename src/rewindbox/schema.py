"""The tables of the history database, and which of their columns are facts that the log repeats.

docs/store.md shows them with their meaning. A released table is never edited: a later step changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind of log entry that has a table. `columns` are its body; other columns are not in the chain.

    `later` ones came with a later version: they are in the body where they are not null, so that old entries
    stay what they were.
    """

    kind: str
    table: str
    columns: tuple[str, ...]
    later: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All its columns, but for `seq` and what stands beside the entry."""
        return (*self.columns, *self.later)

    def body(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the log says of a row."""
        told = {name: values[name] for name in self.columns}
        return {**told, **{name: values[name] for name in self.later if values.get(name) is not None}}


def _fact(kind: str, table: str, columns: str, later: str = "") -> Fact:
    return Fact(kind, table, tuple(columns.split()), tuple(later.split()))


VM_CREATED = _fact("vm_created", "vms", "id name vm_type backend agent_id created_us")
BEGUN = _fact(
    "execution_begun",
    "starts",
    "id vm_id agent_id language code_sha256 started_us before_point block_index pid",
    later="session session_begins",
)
ENDED = _fact(
    "execution_ended",
    "executions",
    "start_seq vm_id agent_id language started_us success ended exit_code stdout_sha256 stderr_sha256"
    " truncated wall_s cpu_s memory_peak_bytes error before_point after_point rolled_back_to",
    later="displays_sha256",
)
POINT_ADDED = _fact(
    "point_added",
    "points",
    "id vm_id parent_id execution_id created_us method written_bytes state_sha256",
)
SNAPSHOT_ADDED = _fact(
    "snapshot_added",
    "snapshots",
    "id vm_id point_id kind name created_us execution_id agent_id",
)
SNAPSHOT_REMOVED = _fact("snapshot_removed", "removals", "snapshot_id removed_us")
ROLLED_BACK = _fact(
    "rolled_back",
    "rollbacks",
    "vm_id from_point to_point snapshot_id reason agent_id at_us",
)
FACTS = (VM_CREATED, BEGUN, ENDED, POINT_ADDED, SNAPSHOT_ADDED, SNAPSHOT_REMOVED, ROLLED_BACK)

# Entries without a table: what was taken away, so that a gap is either explained here or a loss.
VM_REMOVED = "vm_removed"
OUTPUT_DROPPED = "output_dropped"
STATE_DROPPED = "state_dropped"
SESSIONS_ENDED = "sessions_ended"

# `seq` of a row is that of its log entry. References are checked at commit, so that the order of writes
# within a transaction is free.
TABLES = """
create table log(
    seq integer primary key, at_us integer not null, kind text not null, subject text not null,
    body text not null, hash text not null);
create table vms(
    seq integer primary key, id text not null unique, name text not null, vm_type text not null,
    backend text not null, agent_id text not null, created_us integer not null,
    last_activity_us integer, tip text references points(id) deferrable initially deferred,
    live text, removed integer not null default 0);
create unique index vms_name on vms(name) where removed = 0;
create table starts(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    agent_id text not null, language text not null, code_sha256 text not null, started_us integer not null,
    before_point text references points(id) deferrable initially deferred, block_index integer,
    pid integer not null, code text not null);
create table running(
    start_seq integer primary key references starts(seq), vm_id text not null);
create table executions(
    start_seq integer primary key references starts(seq), seq integer not null, vm_id text not null,
    agent_id text not null, language text not null, started_us integer not null, success integer not null,
    ended text not null, exit_code integer not null, stdout_sha256 text not null,
    stderr_sha256 text not null, truncated integer not null, wall_s real not null, cpu_s real not null,
    memory_peak_bytes integer not null, error text, before_point text,
    after_point text references points(id) deferrable initially deferred,
    rolled_back_to text references points(id) deferrable initially deferred);
create index executions_vm on executions(vm_id, started_us, success, language, agent_id);
create index executions_agent on executions(agent_id, started_us, success, language);
create index executions_time on executions(started_us, language);
create index executions_failed on executions(started_us, success, language) where success = 0;
create index executions_after on executions(after_point);
create table outputs(
    start_seq integer primary key references executions(start_seq), vm_id text not null,
    stdout blob not null, stderr blob not null);
create index outputs_vm on outputs(vm_id);
create table points(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    parent_id text references points(id) deferrable initially deferred,
    execution_id text references starts(id) deferrable initially deferred, created_us integer not null,
    method text not null, written_bytes integer not null, state_sha256 text not null, state text);
create index points_vm on points(vm_id);
create index points_kept on points(vm_id) where state is not null;
create table snapshots(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    point_id text not null references points(id) deferrable initially deferred, kind text not null,
    name text, created_us integer not null,
    execution_id text references starts(id) deferrable initially deferred, agent_id text);
create index snapshots_vm on snapshots(vm_id);
create index snapshots_point on snapshots(point_id);
create table removals(
    seq integer primary key, snapshot_id text not null unique references snapshots(id),
    removed_us integer not null);
create table rollbacks(
    seq integer primary key, vm_id text not null references vms(id), from_point text references points(id),
    to_point text not null references points(id), snapshot_id text references snapshots(id),
    reason text not null, agent_id text, at_us integer not null);
create index rollbacks_vm on rollbacks(vm_id);
"""

SESSIONS = """
alter table starts add column session text;
alter table starts add column session_begins integer;
alter table executions add column displays_sha256 text;
alter table outputs add column displays text;
"""

# What finding is made quick by. It follows from the facts, is no part of the chain, and is filled when somebody looks:
# an execution does not wait for it. docs/store.md says how.
LISTING = """
drop index executions_vm;
drop index executions_agent;
drop index executions_time;
drop index executions_failed;
create table listing(
    start_seq integer primary key, started_us integer not null, vm_id text not null, agent_id text not null,
    language text not null, session text, ended text not null, success integer not null);
create index listing_vm on listing(vm_id, started_us, session, agent_id, language, ended, success);
create index listing_session on listing(session, started_us, agent_id, language, ended, success)
    where session is not null;
create index listing_agent on listing(agent_id, started_us, language, ended, success);
create index listing_failed on listing(started_us, language, ended) where success = 0;
create index listing_ended on listing(ended, started_us, language);
create index listing_language on listing(language, started_us);
create index listing_time on listing(started_us);
create table tallies(
    kind text not null, value text not null, from_us integer not null, before_us integer not null,
    executions integer not null, primary key (kind, value, from_us)) without rowid;
create table large_texts(
    start_seq integer primary key);
create table caught_up(
    name text primary key, log_seq integer not null) without rowid;
"""

# Counts of what several conditions share; the rest is counted anew with it, from the facts.
MIXES = """
create table mixes(
    from_us integer not null, agent_id text not null, language text not null, ended text not null,
    success integer not null, executions integer not null,
    primary key (from_us, agent_id, language, ended, success)) without rowid;
delete from listing;
delete from tallies;
delete from caught_up where name = 'listing';
"""

APPLICATION_ID = 0x52776278  # "Rwbx": tells our files from other programs' SQLite files
STEPS = (f"pragma application_id = {APPLICATION_ID};\n{TABLES}", SESSIONS, LISTING, MIXES)
"""Step n turns a database of version n into one of version n+1. A released step is never edited."""
