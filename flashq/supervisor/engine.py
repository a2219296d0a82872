"""Decides what a supervisor does: what to fork, when to restart it, in which order to stop.

Pure: what happens comes in as method calls with a monotonic time, what to do goes out as actions.
It knows programs by name and nothing of process ids, pipes or signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from flashq.protocol.server import RestartReason
from flashq.supervisor.watchdog import Watchdog

RESTART_DELAY_MS: Final = 100
RESTART_DELAY_MS_MAX: Final = 5000
STABLE_MS: Final = 10_000
"""A program that was ready for so long and then dies is not in a crash loop."""
START_DEATHS_MAX: Final = 5
"""How often a program may die without a word before the server is up: somebody's SIGKILL, or that
of a machine short of memory, says nothing of the next try, but a crash at each try does."""
DRAIN_GRACE_MS: Final = 1000
"""What a program gets beyond its own drain time-out before it is killed."""
ABORT_GRACE_MS: Final = 2000
"""What a program that hangs gets to write where it is, before it is killed."""
REPEAT_MS: Final = 500
"""What comes so soon after the first request to stop is part of it: whoever signals a process and
then its whole group (`timeout`, `make`) means it once."""


class Program(NamedTuple):
    """One program of a server."""

    name: str
    drain_stage: int
    """Programs of a lower stage are stopped, and gone, before those of a higher one."""


class Ending(NamedTuple):
    """How a program ended."""

    reason: RestartReason
    number: int
    """The exit status, the signal, or the system's error number."""
    how: str
    """The end of a sentence, as in `was killed by SIGKILL`."""


class Fork(NamedTuple):
    """Start the program."""

    name: str
    ending: Ending | None = None
    """How the one before ended, when it is started again."""


class Terminate(NamedTuple):
    """Tell the program to finish."""

    name: str


class Abort(NamedTuple):
    """End the program, which first writes where it is."""

    name: str


class Kill(NamedTuple):
    """End the program at once."""

    name: str


class Announce(NamedTuple):
    """Say that the whole server is ready, at these endpoints."""

    endpoints: tuple[str, ...]


class Refuse(NamedTuple):
    """Say why the server cannot start; it then ends."""

    sentence: str


class Log(NamedTuple):
    """Log what happened."""

    text: str
    is_problem: bool


class Exit(NamedTuple):
    """End the supervisor; every program is gone."""

    status: int


Action = Fork | Terminate | Abort | Kill | Announce | Refuse | Log | Exit


class Phase(Enum):
    """Where the whole server is in its life."""

    STARTING = auto()
    UP = auto()
    DRAINING = auto()
    GONE = auto()


class State(Enum):
    """Where one program is in its life."""

    AWAY = auto()
    """Not running: not forked yet, or waiting for its restart, or gone for good."""
    STARTING = auto()
    READY = auto()


@dataclass(slots=True)
class _Life:
    program: Program
    state: State = State.AWAY
    endpoints: tuple[str, ...] = ()
    #: deaths since it was last stable; decides the restart's delay
    deaths: int = 0
    #: when it last became ready; meaningful in READY only
    ready_at_ms: int = 0
    #: when to fork it again; set only in AWAY and while the server is not told to stop
    restart_at_ms: int | None = None
    #: when to kill it, since it hangs; set from its abort to its end
    kill_at_ms: int | None = None
    #: it hangs and is being ended
    hangs_now: bool = False
    #: how it last ended; None before
    ending: Ending | None = None
    #: how often it had to be ended since the server was started, because it hung
    hangs: int = 0


@dataclass(slots=True)
class Engine:
    """The supervisor's decisions. After each call, carry out `actions` in order and clear it.

    Args:
        programs: in the order in which they are forked; names are unique.
        drain_timeout_ms: what a program has to finish in after it was told to.
        watchdog_ms: how long a program's loop may not turn before it is restarted; 0 for ever.
    """

    programs: Sequence[Program]
    drain_timeout_ms: int
    watchdog_ms: int = 0
    actions: list[Action] = field(default_factory=list)
    phase: Phase = Phase.STARTING
    _lives: dict[str, _Life] = field(init=False)
    _watchdog: Watchdog = field(init=False)
    #: the stage that is being stopped; meaningful in DRAINING only
    _stage: int = -1
    #: when what is left of the stage is killed; None once that has been done
    _kill_at_ms: int | None = None
    #: until when a request to stop is the one that is being carried out
    _repeats_until_ms: int = 0
    #: what the supervisor exits with
    _status: int = 0

    def __post_init__(self) -> None:
        self._lives = {program.name: _Life(program) for program in self.programs}
        self._watchdog = Watchdog(self.watchdog_ms)
        assert len(self._lives) == len(self.programs), "names of programs are unique"

    @property
    def beat_interval_ms(self) -> int | None:
        """How long a program's loop may wait at most; None if nobody watches."""
        return self._watchdog.interval_ms if self.watchdog_ms else None

    def start(self) -> None:
        """Fork everything, in order; each program waits by itself for those it needs."""
        for life in self._lives.values():
            self._fork(life)

    def ready(self, name: str, endpoints: tuple[str, ...], mono_ms: int) -> None:
        """A program takes requests.

        Args:
            name: which.
            endpoints: what it wants people to know.
            mono_ms: now.
        """
        life = self._lives[name]
        life.state, life.endpoints, life.ready_at_ms = State.READY, endpoints, mono_ms
        if self.phase is Phase.UP:
            self.actions.append(Log(f"{name} is ready again", is_problem=False))
        elif self.phase is Phase.STARTING and self._all_ready():
            self.phase = Phase.UP
            lives = self._lives.values()
            self.actions.append(Announce(tuple(line for each in lives for line in each.endpoints)))

    def failed(self, name: str, sentence: str, mono_ms: int) -> None:
        """A program said why it cannot run; its end follows. Before the server was up, that stops
        the server: what is wrong at the first start is wrong at the second one too."""
        text = f"{name} cannot start: {sentence}"
        if self.phase is Phase.STARTING:
            self._refuse(text, mono_ms)
        elif self.phase is Phase.UP:
            self.actions.append(Log(text, is_problem=True))

    def exited(self, name: str, ending: Ending, mono_ms: int) -> None:
        """A program's process has ended.

        Args:
            name: which.
            ending: how. Of one that hung, the reason is the hang and not the signal for that.
            mono_ms: now.
        """
        life = self._lives[name]
        was_stable = life.state is State.READY and mono_ms - life.ready_at_ms >= STABLE_MS
        life.ending = ending._replace(reason="hang") if life.hangs_now else ending
        life.state, life.kill_at_ms, life.hangs_now = State.AWAY, None, False
        self._watchdog.forget(name)
        if self.phase in (Phase.STARTING, Phase.UP):
            life.deaths = 1 if was_stable else life.deaths + 1
            if self.phase is Phase.STARTING and life.deaths > START_DEATHS_MAX:
                text = f"{name} {ending.how} before the server was ready, {life.deaths} times"
                self._refuse(text, mono_ms)
            else:
                self._plan_restart(life, ending.how, mono_ms)
        elif self.phase is Phase.DRAINING:
            self._next_stage(mono_ms)

    def look(self, counts: Mapping[str, int], mono_ms: int) -> None:
        """End programs whose loops do not turn, if it is time to look; their restart follows.

        While the server stops, its stages have their own end of patience.

        Args:
            counts: by name, how often the loop of each program that runs has turned.
            mono_ms: now.
        """
        if self.phase not in (Phase.STARTING, Phase.UP):
            return
        starting = {name for name, life in self._lives.items() if life.state is State.STARTING}
        for name, silent_ms in self._watchdog.look(counts, starting, mono_ms):
            life = self._lives[name]
            if life.hangs_now:
                continue
            life.hangs_now = True
            life.hangs += 1
            life.kill_at_ms = mono_ms + ABORT_GRACE_MS
            text = (
                f"{name} hangs: its loop has not turned for {silent_ms} ms; it is ended with "
                f"SIGABRT, on which it writes where it is (hang {life.hangs} since the start)"
            )
            self.actions += [Log(text, is_problem=True), Abort(name)]

    def stop(self, mono_ms: int) -> None:
        """Somebody wants the server to end; who asks twice does not want to wait."""
        if self.phase is not Phase.DRAINING:
            self._repeats_until_ms = mono_ms + REPEAT_MS
            self._drain(mono_ms, status=0)
            return
        if mono_ms < self._repeats_until_ms:
            return
        self._kill_at_ms = None
        self.actions.extend(Kill(life.program.name) for life in self._running())

    def tick(self, mono_ms: int) -> None:
        """Do what is due: restarts, and the end of patience with a program that hangs or a stage
        that drains."""
        for life in self._lives.values():
            if life.kill_at_ms is not None and life.kill_at_ms <= mono_ms:
                life.kill_at_ms = None
                self.actions.append(Kill(life.program.name))
            if life.restart_at_ms is not None and life.restart_at_ms <= mono_ms:
                self._fork(life)
        if self._kill_at_ms is not None and self._kill_at_ms <= mono_ms:
            self._kill_at_ms = None
            for life in self._running(self._stage):
                name = life.program.name
                text = f"{name} did not finish within {self.drain_timeout_ms} ms and is killed"
                self.actions += [Log(text, is_problem=True), Kill(name)]

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do, or None if only an event can bring that."""
        due = [self._kill_at_ms]
        for life in self._lives.values():
            due += [life.restart_at_ms, life.kill_at_ms]
        if self.phase in (Phase.STARTING, Phase.UP):
            due.append(self._watchdog.next_look_ms)
        return min((at for at in due if at is not None), default=None)

    def _fork(self, life: _Life) -> None:
        life.state, life.restart_at_ms = State.STARTING, None
        self.actions.append(Fork(life.program.name, life.ending))

    def _all_ready(self) -> bool:
        return all(life.state is State.READY for life in self._lives.values())

    def _running(self, stage: int | None = None) -> list[_Life]:
        return [
            life
            for life in self._lives.values()
            if life.state is not State.AWAY and stage in (None, life.program.drain_stage)
        ]

    def _plan_restart(self, life: _Life, how: str, mono_ms: int) -> None:
        """The first restart is immediate, then the delay doubles up to its bound."""
        delay_ms = 0
        text = f"{life.program.name} {how}; it is started again"
        if life.deaths > 1:
            delay_ms = min(RESTART_DELAY_MS << min(life.deaths - 2, 16), RESTART_DELAY_MS_MAX)
            text += f" in {delay_ms} ms, since that is death {life.deaths} in a row"
        self.actions.append(Log(text, is_problem=True))
        life.restart_at_ms = mono_ms + delay_ms
        self.tick(mono_ms)

    def _refuse(self, sentence: str, mono_ms: int) -> None:
        self.actions.append(Refuse(sentence))
        self._drain(mono_ms, status=1)

    def _drain(self, mono_ms: int, status: int) -> None:
        self.phase, self._status = Phase.DRAINING, status
        for life in self._lives.values():
            life.restart_at_ms = None
        self._next_stage(mono_ms)

    def _next_stage(self, mono_ms: int) -> None:
        """Stop the lowest stage that still runs, if it is not the one that is being stopped."""
        running = self._running()
        if not running:
            self.phase, self._kill_at_ms = Phase.GONE, None
            self.actions.append(Exit(self._status))
            return
        stage = min(life.program.drain_stage for life in running)
        if stage == self._stage:
            return
        self._stage = stage
        self._kill_at_ms = mono_ms + self.drain_timeout_ms + DRAIN_GRACE_MS
        self.actions.extend(Terminate(life.program.name) for life in self._running(stage))
