"""`flashq doctor`: asks everything that `checks` knows to ask, and says what is wrong.

Owns the order of the questions and how answers are shown. Works with and without a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import click

from flashq.cli import checks
from flashq.cli.checks import Process
from flashq.cli.findings import Finding
from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.cli.wording import plural
from flashq.clock import SystemClock
from flashq.config import Settings, load_settings
from flashq.errors import ConfigError
from flashq.ids import SHARD_COUNT_DEFAULT
from flashq.protocol.sessions import HelloReply
from flashq.rundir import RunDir, default_run_dir

ROUTER_SOCKET: Final = "router.sock"

_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "wrong": ("✗", "red")}


class Examination:
    """One run of the doctor.

    Args:
        invocation: says which server.
        config_file: the settings file that the server is started with.
        run_dir: its run directory, where a flag names it.
    """

    def __init__(
        self, invocation: Invocation, config_file: str | None, run_dir: str | None
    ) -> None:
        self._invocation = invocation
        self._config_file = config_file
        self._run_dir_flag = run_dir
        self.hello: HelloReply | None = None
        self.processes: list[Process] = []

    def findings(self) -> Iterator[Finding]:
        """Yield the answers, one question after the other."""
        yield from checks.check_versions()
        settings, findings = checks.check_settings(
            os.environ, self._config_file, self._run_dir_flag
        )
        yield from findings
        shards = settings.shards if settings is not None else SHARD_COUNT_DEFAULT
        run_dir = self._run_dir(settings)
        yield checks.check_descriptors(shards)
        if settings is not None:
            yield from checks.check_disks(settings, run_dir)
        self.processes = checks.running(run_dir, shards)
        try:
            url = self._url(run_dir)
        except ConfigError as error:
            yield Finding("router", "wrong", error.text, "correct --url or FLASHQ_URL")
        else:
            others = self.processes if url == run_dir.router else []
            token = self._invocation.token
            self.hello, findings = checks.check_router(url, token, others=others)
            yield from findings
            yield from self._server_findings(url, run_dir)
        if self.hello is not None and self.hello.shard_count != shards:
            shards = self.hello.shard_count
            self.processes = checks.running(run_dir, shards)
        yield from checks.check_run_dir(run_dir, shards)

    def _run_dir(self, settings: Settings | None) -> RunDir:
        """Return the run directory of the server that is asked: a socket's path says it too."""
        path = (self._invocation.url or "").removeprefix("ipc://")
        if self._run_dir_flag is None and path.endswith(f"/{ROUTER_SOCKET}"):
            return RunDir(path.removesuffix(f"/{ROUTER_SOCKET}"))
        if settings is not None:
            return settings.run()
        named = self._run_dir_flag or os.environ.get("FLASHQ_RUN_DIR")
        return RunDir(named or default_run_dir(os.environ))

    def _url(self, run_dir: RunDir) -> str:
        """Return the router's endpoint; a run directory that a flag names says it too."""
        if self._run_dir_flag is not None and self._invocation.url is None:
            return run_dir.router
        return self._invocation.endpoint()

    def _server_findings(self, url: str, run_dir: RunDir) -> Iterator[Finding]:
        """Yield what a router that answers makes it possible to ask."""
        if self.hello is None:
            return
        token = self._invocation.token
        yield checks.check_openness(url)
        yield from checks.check_shards(url, token, self.hello)
        yield checks.check_coordinator(url, token)
        if url == run_dir.router:
            yield from checks.check_shard_sockets(run_dir, self.hello)


@click.command(cls=Verb)
@click.option("--config", "config_file", metavar="PATH", help="The server's settings file.")
@click.option("--run-dir", metavar="PATH", help="The server's run directory.")
@click.option("--storage", is_flag=True, help="Read the whole storage: what is missing or broken?")
@click.option("--data-dir", metavar="PATH", help="The server's data directory; with --storage.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Let the server start on a storage that lacks something; with --storage.",
)
@pass_invocation
def doctor(
    invocation: Invocation,
    config_file: str | None,
    run_dir: str | None,
    storage: bool,
    data_dir: str | None,
    accept_loss: bool,
) -> None:
    """Check settings, sockets, limits and versions, and say what is wrong and what to do.

    With --storage the storage is read instead, all of it. With --accept-loss too, what is missing
    is noted in the data directory, and the server goes on without it.

    Exit status 1 when something is wrong. Works while the server is down.
    """
    if (accept_loss or data_dir is not None) and not storage:
        raise click.UsageError("--accept-loss and --data-dir go with --storage")
    examination = Examination(invocation, config_file, run_dir)
    findings = examination.findings()
    if storage:
        findings = storage_findings(config_file, data_dir, accept_loss=accept_loss)
    found = []
    for finding in findings:
        found.append(finding)
        if not invocation.as_json:
            _show(invocation, finding)
    wrong = sum(one.verdict == "wrong" for one in found)
    warnings = sum(one.verdict == "warning" for one in found)
    if invocation.as_json:
        invocation.document(
            {
                "ok": not wrong,
                "findings": found,
                "server": examination.hello,
                "processes": {one.program: one.pid for one in examination.processes},
            }
        )
    else:
        said = f"{plural(wrong, 'thing')} wrong" if wrong else "nothing is wrong"
        invocation.say(f"{said}, {plural(warnings, 'warning')}")
    if wrong:
        raise click.exceptions.Exit(1)


def storage_findings(
    config_file: str | None, data_dir: str | None, *, accept_loss: bool
) -> Iterator[Finding]:
    """Yield what there is to say of a server's storage.

    Args:
        config_file: the settings file that the server is started with.
        data_dir: its data directory, where a flag names it.
        accept_loss: let the server go on without what is missing.
    """
    from flashq.cli import storage_checks
    from flashq.coordinator.acceptance import accept_loss_of

    flags = {} if data_dir is None else {"data_dir": data_dir}
    settings = load_settings(flags, config_file=config_file)
    if accept_loss:
        for text in accept_loss_of(settings, SystemClock().wall_ms()):
            yield Finding("storage", "warning", f"goes on without this: {text}")
    yield from storage_checks.examine(settings)


def _show(invocation: Invocation, finding: Finding) -> None:
    mark, colour = _MARKS[finding.verdict]
    invocation.say(f"{click.style(mark, fg=colour)} {finding.check}: {finding.text}")
    if finding.advice:
        invocation.say(f"    {finding.advice}")
