"""The command `hcoco`: thin; every command calls one function of the packages.

Imports are late, so that `hcoco --help` answers at once: neither torch nor cv2 nor Prefect is on its path.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from flows.errors import BadRequest, storage_errors_told

if TYPE_CHECKING:
    from flows.settings import BuildSettings

DONE: Final = 0
DAMAGE: Final = 1
BAD_REQUEST: Final = 2
STOPPED: Final = 130

PROJECT: Final = Path(__file__).resolve().parent.parent

_EPILOG: Final = """\
first steps:
  hcoco build                                  the embedded sample, without Prefect
  hcoco build --source ../coco --samples 2000  a folder in COCO's layout
  hcoco verify output/sample-1a2b3c4d          prove every byte and promise of a run
  hcoco up && prefect deployment run build-hcoco --watch -p source=../coco

exit codes: 0 done, 1 damage or a failed check was found, 2 a bad request
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = _parser()
    try:
        given = _parse(parser, arguments)
    except BadRequest as request:
        print(request, file=sys.stderr)
        return BAD_REQUEST
    if given.command is None:
        parser.print_help()
        return DONE
    work: Callable[[argparse.Namespace], int] = given.work
    try:
        with storage_errors_told():
            return work(given)
    except BadRequest as request:
        print(f"hcoco {given.command}: {request}", file=sys.stderr)
        return BAD_REQUEST
    except BrokenPipeError:  # `hcoco ... | head`: nobody reads on, and nobody wants a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DAMAGE
    except KeyboardInterrupt:
        print(f"hcoco {given.command}: stopped; run the same command again to go on", file=sys.stderr)
        return STOPPED


class _Parser(argparse.ArgumentParser):
    """A parser that answers a slip in one line, as every other bad request is answered."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and where to read on."""
        raise BadRequest(f"{self.prog}: {message}; `{self.prog} --help` tells more")


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = f"{parser.prog} {given.command}" if given.command else parser.prog
        raise BadRequest(f"{command}: there is no {' '.join(unknown)!r}; `{command} --help` tells what there is")
    return given


def _workers(text: str) -> int:
    """Read a number of processes."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 1024:
        raise argparse.ArgumentTypeError(f"must be 1 to 1024, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hcoco",
        description="Turn COCO photographs of people into training data for image harmonization.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name: str, work: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(work=work)
        return sub

    build = command("build", _build, "make a run, or finish or extend one, without Prefect")
    _add_settings(build)
    fetch = command("fetch", _fetch, "fetch COCO photographs into the cache, before a build needs them")
    _add_settings(fetch, only=("source", "coco_base", "samples", "min_person_share", "exclude_ids", "licenses", "seed"))
    verify = command("verify", _verify, "prove a run: hashes, members, pictures, background, split, counts")
    remake = command("remake", _remake, "make one sample again from its recipe and compare the bytes")
    for sub in (verify, remake):
        sub.add_argument("run", metavar="RUN", type=Path, help="folder of the run, such as output/sample-1a2b3c4d")
    remake.add_argument("key", metavar="KEY", help="the sample's key, such as 000000000139-000000230831-00")
    remake.add_argument("--to", metavar="DIR", type=Path, help="write the sample's members into this folder")
    verify.add_argument("--workers", type=_workers, default=None, help="processes; the cores by default")
    up = command("up", _up, "bring Prefect server, work pool, deployments and worker up, in the background")
    up.add_argument("--port", type=int, default=None, help="port of the server; a free one near 4217 by default")
    command("down", _down, "stop worker and server that `hcoco up` started")
    doctor = command("doctor", _doctor, "tell what is missing on this machine and how to mend it")
    for sub in (build, fetch, verify, remake, doctor):
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_settings(parser: argparse.ArgumentParser, *, only: Sequence[str] = ()) -> None:
    """Add an option for every setting of a build, or for some; the words of the help are those of the settings."""
    from flows.settings import BuildSettings

    for name, field in BuildSettings.model_fields.items():
        if only and name not in only:
            continue
        default = field.get_default(call_default_factory=True)
        shown = _shown_default(default)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=name.upper(),
            help=f"{field.description}{f' Default: {shown}.' if shown else ''}".replace("%", "%%"),
        )


def _shown_default(default: object) -> str:
    if isinstance(default, dict):
        return ",".join(f"{key}={value}" for key, value in default.items())
    if isinstance(default, tuple):
        return ",".join(str(value) for value in default)
    return "" if default is None else str(default)


def _build(given: argparse.Namespace) -> int:
    from flows.make.plan import describe_plan, plan_run
    from flows.make.run import finish_run, left_to_make
    from flows.make.shard import make_shard
    from flows.progress import show_progress, watching
    from flows.runners import open_runner
    from flows.store.lock import only_build
    from flows.view.report import write_report

    settings = _settings(given)
    with open_runner(settings) as runner:
        with watching(quiet=given.json) as watch:
            planned = plan_run(settings, over=runner.map, watch=watch)
        layout = planned.layout
        if not given.json:
            print("\n".join(describe_plan(planned)))
        with only_build(layout):
            left = left_to_make(layout, planned.plan)
            work = ((make_shard, layout.run, shard.name) for shard in left)
            show_progress(runner.each(work), total=sum(shard.planned for shard in left), quiet=given.json)
            finished = finish_run(layout, planned.plan)
            report = write_report(layout)
    if given.json:
        print(json.dumps({"run": str(layout.run), "report": str(report), **finished.manifest["counts"]}))
    else:
        print(f"{finished.summary}\nshards: {layout.run / 'shards'}\nreport: {report}")
    return DONE


def _settings(given: argparse.Namespace) -> BuildSettings:
    from flows.settings import BuildSettings, parse_settings

    given_values = vars(given)
    return parse_settings({name: given_values[name] for name in BuildSettings.model_fields if name in given_values})


def _fetch(given: argparse.Namespace) -> int:
    from flows.coco.sources import cache_folder
    from flows.make.plan import fetch_photographs
    from flows.progress import watching
    from flows.runners import open_runner

    settings = _settings(given)
    if not settings.source.startswith("coco:"):
        raise BadRequest(f"source {settings.source!r} lies here already; give coco:val2017 or coco:train2017")
    with open_runner(settings) as runner, watching(quiet=given.json) as watch:
        samples = fetch_photographs(settings, over=runner.map, watch=watch)
    folder = cache_folder() / "coco"
    if given.json:
        print(json.dumps({"folder": str(folder), "samples": samples}))
    else:
        print(f"{folder} holds the photographs of {samples} samples")
    return DONE


def _verify(given: argparse.Namespace) -> int:
    from flows.make.verify import verify_run
    from flows.runners import LocalRunner
    from flows.settings import usable_cores
    from flows.store.layout import open_run

    layout = open_run(given.run)
    with LocalRunner(given.workers or usable_cores()) as runner:
        problems = []
        for problem in verify_run(layout, over=runner.map):
            problems.append(problem)
            if not given.json:
                print(problem)
    if given.json:
        print(
            json.dumps({"run": str(layout.run), "whole": not problems, "problems": [vars(each) for each in problems]})
        )
    else:
        print(f"{layout.run}: {'every check passed' if not problems else f'{len(problems)} problems'}")
    return DAMAGE if problems else DONE


def _remake(given: argparse.Namespace) -> int:
    from flows.make.remake import remake
    from flows.runners import LocalRunner
    from flows.store.layout import open_run

    layout = open_run(given.run)
    with LocalRunner(1) as runner:
        remade = runner.call(remake, layout.run, given.key)
    if given.to is not None:
        given.to.mkdir(parents=True, exist_ok=True)
        for extension, content in remade.members.items():
            (given.to / f"{remade.key}.{extension}").write_bytes(content)
    if given.json:
        print(json.dumps({"key": remade.key, "same": remade.same, "differing": remade.differing}))
    else:
        outcome = "the same bytes" if remade.same else f"other bytes in {', '.join(remade.differing)}"
        print(f"{remade.key}: {outcome}")
    return DONE if remade.same else DAMAGE


def _up(given: argparse.Namespace) -> int:
    from flows.services import up

    services = up(root=PROJECT, port=given.port)
    print(f"Prefect is up at {services.url}; in {PROJECT}: prefect deployment run build-hcoco --watch")
    return DONE


def _down(_given: argparse.Namespace) -> int:
    from flows.services import down

    down(root=PROJECT)
    print("Prefect server and worker are down; what they recorded stays in .prefect")
    return DONE


def _doctor(given: argparse.Namespace) -> int:
    from flows.doctor import examine

    findings = examine(PROJECT)
    if given.json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MEND'} {finding.name}: {finding.detail}")
            if not finding.ok:
                print(f"     {finding.mend}")
    return DONE if all(finding.ok for finding in findings) else DAMAGE


if __name__ == "__main__":
    sys.exit(main())
