"""Processes that train together and watch each other, so that none waits for ever for one that is gone.

A collective operation waits for all of its processes. What becomes of the others when one of them is gone is up to
JAX, its backend and the network: they hang, or end with a message that does not say which one it was. So each process
has a thread here that talks to process 0 over a connection of its own, while the main thread is wherever it is.
"""

import atexit
import contextlib
import dataclasses
import errno
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from gradtx.errors import ArgumentRangeError, Count, Index, PositiveNumber, ProcessError, checked_call

GRACE = 2.0  # seconds in which the end of another process may explain an error in this one
LONGEST_LINE = 2048  # bytes; who sends more is none of ours
BEAT, BYE, LOST, JOIN = "beat", "bye", "lost", "join"


@checked_call
def watch_processes(
    address: str, processes: Count, process_id: Index, *, timeout: PositiveNumber = 60.0
) -> contextlib.AbstractContextManager[None]:
    """Ends this process if another one of them is missing, instead of waiting for it for ever::

        with watch_processes("10.0.0.1:9911", 4, process_id):
            jax.distributed.initialize("10.0.0.1:9910", 4, process_id)
            ...                                           # train
            jax.distributed.shutdown()

    On entry all processes meet. From then on a thread in each of them exchanges a word with process 0 ten times per
    ``timeout``, and at least twice a second. If process i was silent for ``timeout`` seconds (stopped, its machine or
    network down), its connection broke (killed) or it left the block by an exception, all others write a message with
    its number and host to the standard error and end with status 1, wherever their main thread is: in a collective
    operation, too. Python runs no clean-up then. Compiling and waiting for a device do not silence a process.

    The process in which an exception was raised goes on with it, and also ends with status 1: JAX's own end would wait
    for processes that are gone. On a good end, process 0 leaves the block last.

    Give ``jax.distributed.initialize`` a ``heartbeat_timeout_seconds`` (100 by default) above ``timeout``: when it
    is first, the message is JAX's, which does not always say who is missing.

    Args:
        address: ``"HOST:PORT"`` where process 0 listens: a host name or address of its machine, and a free port,
            another one than that of ``jax.distributed``. Anyone who can reach it can end the run, so keep it inside.
        processes: How many there are.
        process_id: Which of them this is, from 0.
        timeout: Seconds. Also for how long processes that are not there yet are waited for.

    Raises:
        ArgumentTypeError, ArgumentRangeError: An address without a port, or ``process_id >= processes``.
        ProcessError: On entry: not all processes were there in time (the message has their numbers), process 0 was not,
            or two have the same number.

    >>> from gradtx.training import watch_processes
    >>> with watch_processes("localhost:9911", processes=1, process_id=0):
    ...     print("alone")
    alone
    """
    call = f"watch_processes({address!r}, {processes}, {process_id})"
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ArgumentRangeError(
            call, expected='address must be "HOST:PORT"', got=repr(address),
            cause="the other processes find process 0 by it", fix='write address="10.0.0.1:9911"',
        )  # fmt: skip
    if process_id >= processes:
        raise ArgumentRangeError(
            call, expected=f"process_id must be less than processes={processes}", got=process_id,
            cause="processes are counted from 0", fix=f"write process_id={processes - 1} for the last one",
        )  # fmt: skip
    return _watched(call, (host.strip("[]"), int(port)), processes, process_id, float(timeout))


@dataclasses.dataclass(eq=False)
class _Link:
    """A connection to another process, and what is known of that."""

    socket: socket.socket
    name: str
    heard: float
    received: bytes = b""

    def lines(self) -> list[str] | None:
        """What came since the last call, in whole lines; None if the connection is broken."""
        try:
            news = self.socket.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            return None
        self.received += news
        if not news or len(self.received) > 4 * LONGEST_LINE:
            return None
        *lines, self.received = self.received.split(b"\n")
        self.heard = time.monotonic()
        return [line.decode(errors="replace") for line in lines]

    def tell(self, line: str) -> None:
        """Sends a line. Whether that works is seen by what comes back."""
        with contextlib.suppress(OSError):
            self.socket.send(line.encode()[: LONGEST_LINE - 1].replace(b"\n", b" ") + b"\n")


@dataclasses.dataclass(eq=False)
class _Watch:
    """What the thread of a process has to know, and what the main thread tells it."""

    call: str
    own_name: str
    is_first: bool
    timeout: float
    links: list[_Link]
    last_word: str | None = None
    raised: BaseException | None = None


@contextlib.contextmanager
def _watched(call: str, address: tuple[str, int], processes: int, process_id: int, timeout: float) -> Iterator[None]:
    meet = _gather if process_id == 0 else _join
    links = meet(call, address, processes, process_id, timeout) if processes > 1 else []
    watch = _Watch(call, _name(process_id, socket.gethostname()), process_id == 0, timeout, links)
    thread = threading.Thread(target=_run, args=(watch,), name="watch_processes", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            watch.raised = error
            thread.join(GRACE)
            reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
            watch.last_word = f"{LOST} {watch.own_name} ended by {reason}"
            thread.join()
            atexit.register(_end)  # what is registered last runs first, so JAX's own end is never reached
            raise
    if process_id != 0:
        watch.last_word = BYE
    thread.join()


def _name(process_id: int, host: str) -> str:
    return f"process {process_id} on {host}"


# Meeting.


def _gather(call: str, address: tuple[str, int], processes: int, process_id: int, timeout: float) -> list[_Link]:
    """Process 0: waits until all others have joined."""
    deadline = time.monotonic() + timeout
    strangers: list[_Link] = []
    joined: dict[int, _Link] = {}

    def hear(link: _Link) -> bool:
        """Whether the connection stays."""
        lines = link.lines()
        for line in lines or []:
            match line.split(" ", 3):
                case [word, number, count, host] if word == JOIN and number.isdecimal():
                    refusal = None
                    if count != str(processes):
                        refusal = f"processes={count} from {_name(int(number), host)}, but {processes} from process 0"
                    elif not 0 < int(number) < processes or int(number) in joined:
                        refusal = f"process_id={number} from {host} a second time"
                    if refusal:
                        link.tell(f"{LOST} {refusal}")
                        return False
                    link.name, joined[int(number)] = _name(int(number), host), link
        return lines is not None

    with _listening(call, address) as server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(joined) < processes - 1 and time.monotonic() < deadline:
            for key, _ in selector.select(deadline - time.monotonic()):
                if key.fileobj is server:
                    connection, _ = server.accept()
                    connection.setblocking(False)
                    strangers.append(_Link(connection, "", time.monotonic()))
                    selector.register(connection, selectors.EVENT_READ, strangers[-1])
                elif not hear(key.data):
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                    joined = {number: link for number, link in joined.items() if link is not key.data}
    links = list(joined.values())
    missing = [str(number) for number in range(1, processes) if number not in joined]
    if missing:
        what = f"no sign of process {', '.join(missing)} within {timeout:g} s"
        _close(links, f"{LOST} {what}")
        raise _error(call, what)
    for link in strangers:
        if link not in links:
            link.socket.close()
    for link in links:
        link.heard = time.monotonic()
        link.tell(BEAT)
    return links


def _listening(call: str, address: tuple[str, int]) -> socket.socket:
    """A socket on this address, or on all of this machine where a name stands for several machines."""
    try:
        family, _, _, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        try:
            server = socket.create_server(place[:2], family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            server = socket.create_server(("", address[1]), backlog=1024)
    except OSError as error:
        raise _error(call, f"process 0 cannot listen on {address[0]}:{address[1]} ({error})") from error
    server.setblocking(False)
    return server


def _join(call: str, address: tuple[str, int], processes: int, process_id: int, timeout: float) -> list[_Link]:
    """Another process: finds process 0 and waits until that has found all of them."""
    deadline = time.monotonic() + timeout
    name = _name(0, address[0])
    while True:
        try:
            connection = socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.1))
            break
        except OSError as error:  # it has not come so far, or its name is not known yet
            if time.monotonic() > deadline:
                raise _error(call, f"no sign of {name} within {timeout:g} s ({error})") from error
            time.sleep(min(0.2, timeout / 10))
    connection.settimeout(timeout + GRACE)  # process 0 may have begun to wait just now
    link = _Link(connection, name, time.monotonic())
    link.tell(f"{JOIN} {process_id} {processes} {socket.gethostname()}")
    lines: list[str] | None = []
    while lines == []:
        lines = link.lines()
    answer = lines[0] if lines else f"{LOST} no answer from {name}"
    if answer != BEAT:
        connection.close()
        raise _error(call, answer.removeprefix(f"{LOST} "))
    connection.setblocking(False)
    return [link]


# Watching.


def _run(watch: _Watch) -> None:
    """The thread: until everybody has said goodbye, or somebody is missing."""
    with selectors.DefaultSelector() as selector:
        for link in watch.links:
            selector.register(link.socket, selectors.EVENT_READ, link)
        next_beat = time.monotonic()
        while watch.links:
            word = watch.last_word
            if word is not None:
                _close(watch.links, word)
                return
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + min(watch.timeout / 10, 0.5)
                for link in watch.links:
                    link.tell(BEAT)
            missing = None
            for key, _ in selector.select(max(next_beat - time.monotonic(), 0)):
                link = key.data
                lines = link.lines()
                told = [line.partition(" ")[2] for line in lines or [] if line.startswith(LOST)]
                if BYE in (lines or []):
                    selector.unregister(link.socket)
                    link.socket.close()
                    watch.links.remove(link)
                elif told or lines is None:
                    missing = missing or (told[0] if told else f"{link.name} gone without a goodbye")
            for link in watch.links:
                silence = time.monotonic() - link.heard
                if silence > watch.timeout:
                    missing = missing or f"no word from {link.name} for {silence:.0f} s"
            if missing:
                _give_up(watch, missing)


def _give_up(watch: _Watch, missing: str) -> None:
    if watch.raised is not None:
        traceback.print_exception(watch.raised)
    os.write(2, f"{watch.own_name}: {_error(watch.call, missing)}\n".encode())
    if watch.is_first:
        _close(watch.links, f"{LOST} {missing}")
    _end()


def _end() -> None:
    """Ends this process at once, but for what was printed."""
    for stream in (sys.stdout, sys.stderr):
        flushing = threading.Thread(target=stream.flush, daemon=True)  # the main thread may hang in a print
        flushing.start()
        flushing.join(1.0)
    os._exit(1)


def _close(links: list[_Link], last_word: str) -> None:
    """Says a last word, and waits for a moment for the others to close: who closes first may cut off what it said."""
    for link in links:
        link.tell(last_word)
        with contextlib.suppress(OSError):
            link.socket.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + GRACE
    for link in links:
        link.socket.settimeout(max(deadline - time.monotonic(), 0.01))
        while time.monotonic() < deadline and link.lines() is not None:
            pass
        link.socket.close()


def _error(call: str, missing: str) -> ProcessError:
    return ProcessError(
        call, expected="all processes must be there", got=missing,
        cause="it ended, hangs or cannot be reached; what it printed last, and its machine, may say why",
        fix="start all of them again, from the last checkpoint",
    )  # fmt: skip
