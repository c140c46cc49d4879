"""What one client may take from the server. Beyond it is an error with a code, never a wait without end."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Sizes, times and numbers. Limits of the code itself are the vm's (`limits.Limits`)."""

    body_bytes: int = 8 << 20
    """A request's JSON: an answer of a model with its code, many times over."""
    file_bytes: int = 64 << 20
    """A file on its way into or out of a vm: it is held in memory."""
    page_bytes: int = 8 << 20
    """Of code, output and displays on a page of the history; a single execution may have more. As JSON it is longer."""
    message_bytes: int = 1 << 20
    """One WebSocket message of a client."""
    headers_s: float = 10.0
    """A connection that has not said by then what it wants is closed."""
    body_s: float = 30.0
    """From a request's headers to the end of its body."""
    told_s: float = 30.0
    """A client that has not taken an event by then is taken to be gone. It can come back for it."""
    alive_s: float = 15.0
    """Between two signs of life on a stream on which nothing happens."""
    snapshots: int = 1000
    """Of one vm, those that were asked for: each keeps a state until it is removed, and a list has all of them."""
    connections: int = 512
    """At once, of all clients. Those beyond are answered 503."""
    requests: int = 64
    """At once, of one token; a stream is one as long as it is open."""
    readings: int = 4
    """At once, of one token: requests that read the record or a folder, each of which may have much in memory. Others
    wait."""
    turn_s: float = 30.0
    """So long."""
    executions: int = 32
    """At once, of one token, those that wait for their turn included."""
    wall_s: float = 3600.0
    """The longest time that a client may set for an execution, wall clock and CPU. Other limits are at most those
    that are configured."""
    shutdown_s: float = 10.0
    """When we are told to stop: so long for answers on their way."""
