"""The command `hcoco`: thin; every command calls one function of the packages.

Imports are late, so that `hcoco --help` answers at once: neither torch nor cv2 nor Prefect is on its path.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from flows.errors import BadRequest, storage_errors_told

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flows.make.decide import Change
    from flows.make.evaluate_fusion import Comparison
    from flows.settings import BuildSettings
    from flows.store.layout import Layout
    from realism.train import Progress

DONE: Final = 0
DAMAGE: Final = 1
BAD_REQUEST: Final = 2

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
        with stopping_on_signals() as stopped, storage_errors_told():
            return work(given)
    except BadRequest as request:
        print(f"hcoco {given.command}: {request}", file=sys.stderr)
        return BAD_REQUEST
    except BrokenPipeError:  # `hcoco ... | head`: nobody reads on, and nobody wants a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DAMAGE
    except KeyboardInterrupt:
        print(f"hcoco {given.command}: stopped; run the same command again to go on", file=sys.stderr)
        return 128 + (stopped[0] if stopped else signal.SIGINT)


@contextmanager
def stopping_on_signals() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM interrupt the work, which then cleans up after itself; a second one ends it at once.

    Ending at once is safe, as a kill is: it costs the shards under way, and the next build sweeps their remains.

    Yields:
        The signals that came, in their order.
    """
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(128 + number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as `nohup` wants it
    for number in heard:
        signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number in heard:
            signal.signal(number, before[number])


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


def _run(text: str) -> Path:
    """Read where a run lies; an address becomes the folder of the cache that stands for it."""
    from flows.objects import is_address

    if not is_address(text):
        return Path(text)
    from flows.store.remote import run_folder

    try:
        return run_folder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _local_run(text: str) -> Path:
    """Read where a run lies, for commands that need it on a disk."""
    from flows.objects import is_address

    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"it must lie on a disk for this; copy it down first: hcoco copy {text} FOLDER"
        )
    return Path(text)


def _words(text: str) -> tuple[str, ...]:
    """Read `a,b`."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))


def _side(text: str) -> int:
    """Read the longer side of a picture."""
    if not text.isascii() or not text.isdigit() or not 64 <= int(text[:6]) <= 1024:
        raise argparse.ArgumentTypeError(f"must be 64 to 1024, got {text!r}")
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
    _add_settings(
        fetch, only=("source", "coco_base", "stages", "samples", "min_person_share", "exclude_ids", "licenses", "seed")
    )
    _add_trainings(command)
    verify = command("verify", _verify, "prove a run: hashes, members, pictures, background, split, counts")
    remake = command("remake", _remake, "make one sample again from its recipe and compare the bytes")
    for sub in (verify, remake):
        sub.add_argument(
            "run", metavar="RUN", type=_run, help="folder of the run, such as output/sample-1a2b3c4d, or address"
        )
    remake.add_argument("key", metavar="KEY", help="the sample's key, such as 000000000139-000000230831-00")
    remake.add_argument("--to", metavar="DIR", type=Path, help="write the sample's members into this folder")
    verify.add_argument("--workers", type=_workers, default=None, help="processes; the cores by default")
    export = command("export", _export, "write the kept samples as folders of files, for trainers that read no tars")
    export.add_argument("run", metavar="RUN", type=_local_run, help="folder of the run")
    export.add_argument("folder", metavar="FOLDER", type=Path, help="new or empty; a stopped export is continued")
    export.add_argument(
        "--format",
        choices=("iharmony4", "folder"),
        required=True,
        help="names and lists of iHarmony4, or pairs A and B",
    )
    export.add_argument(
        "--split", type=_words, default=("train", "val", "test"), help="as `train,test`; all by default"
    )
    export.add_argument("--name", default="HCOCO", help="folder of the samples in iharmony4. Default: HCOCO.")
    export.add_argument(
        "--masks", choices=("alpha", "binary"), default="alpha", help="as they are, or 0 and 255 only. Default: alpha."
    )
    copies = export.add_mutually_exclusive_group()
    copies.add_argument(
        "--link", action="store_true", default=True, help="hard links where content repeats; the default"
    )
    copies.add_argument("--copy", dest="link", action="store_false", help="a file of its own everywhere")
    copy = command("copy", _copy, "copy a run from object storage to a folder, or back")
    copy.add_argument("source", metavar="FROM", help="address or folder of a run")
    copy.add_argument("to", metavar="TO", help="the other: folder, new or empty, or address of the run")
    card = command("card", _card, "write README.md, croissant.json and ATTRIBUTION.csv of a finished run")
    card.add_argument("run", metavar="RUN", type=_local_run, help="folder of the run")
    for sub in (export, copy, card):
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_decisions(command)
    _add_pages(command)
    up = command("up", _up, "bring Prefect server, work pool, deployments and worker up, in the background")
    up.add_argument("--port", type=int, default=None, help="port of the server; a free one near 4217 by default")
    command("down", _down, "stop worker and server that `hcoco up` started")
    doctor = command("doctor", _doctor, "tell what is missing on this machine and how to mend it")
    score = command("score", _score, "score how natural subjects look: a picture and its mask, or a data set of them")
    score.add_argument(
        "place",
        metavar="IMAGE|FOLDER|LIST",
        type=Path,
        help="a picture; or a folder in iHarmony4's layout; or a list of composites (.txt)",
    )
    score.add_argument(
        "mask", metavar="MASK", type=Path, nargs="?", help="mask of the picture, white where the subject is"
    )
    score.add_argument(
        "--output", metavar="FILE", type=Path, help="write a row a composite: CSV, or JSON lines (.jsonl)"
    )
    score.add_argument(
        "--checkpoint",
        metavar="NAME|FILE",
        default="photographs",
        help="photographs, sample, or a file. Default: photographs.",
    )
    audit = command(
        "audit", _audit, "audit a realism checkpoint: does it judge the look, or traces of editing and encoding"
    )
    audit.add_argument("checkpoint", metavar="CHECKPOINT", help="photographs, sample, or a file")
    audit.add_argument("--source", default="sample", help="photographs with people, as of a build. Default: sample.")
    audit.add_argument(
        "--photos",
        metavar="FOLDER",
        type=Path,
        help="photographs without annotations, drawn from where people are too few",
    )
    audit.add_argument("--write", action="store_true", help="put the outcome into the checkpoint's JSON")
    for sub in (score, audit):
        sub.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs. Default: auto."
        )
    for sub in (build, fetch, verify, remake, doctor, score, audit):
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_trainings(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that train networks and compare them: train-realism, train-fusion, self-teach, evaluate."""
    from flows.fusion_settings import SelfTeachSettings, TrainFusionSettings
    from flows.train_settings import TrainRealismSettings

    realism = command("train-realism", _train_realism, "train the realism network, or go on with it")
    _add_settings(realism, model=TrainRealismSettings)
    train = command("train-fusion", _train_fusion, "train one stage of the fusion network, or go on with it")
    _add_settings(train, model=TrainFusionSettings)
    teach = command("self-teach", _self_teach, "train the first fusion network and those that learn from its pictures")
    _add_settings(teach, model=SelfTeachSettings)
    _add_evaluations(command)
    _add_harmonizers(command)
    for sub in (realism, train, teach):
        sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_evaluations(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what `hcoco evaluate` compares: fusion, harmonization, worth."""
    evaluate = command("evaluate", _evaluate_fusion, "compare networks and baselines on what they did not learn from")
    kinds = evaluate.add_subparsers(dest="what", metavar="WHAT", required=True)

    def kind(name: str, work: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=summary, description=summary)
        sub.set_defaults(work=work)
        sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="Default: auto.")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    fusion = kind("fusion", _evaluate_fusion, "compare ways of composing on held-out compositions")
    fusion.add_argument(
        "run", metavar="RUN", type=_local_run, nargs="?", help="folder of a run whose val and test samples are taken"
    )
    fusion.add_argument("--source", help="photographs to draw compositions from instead, as of a build")
    fusion.add_argument("--photos", metavar="FOLDER", type=Path, help="more backgrounds, with --source")
    fusion.add_argument(
        "--network",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="a checkpoint to compare; may be given again; the first makes the hard compositions of a --source",
    )
    fusion.add_argument("--count", type=_count, default=64, help="compositions of a kind, at most. Default: 64.")
    fusion.add_argument("--seed", type=int, default=1, help="of the compositions of a --source. Default: 1.")
    harmonization = kind(
        "harmonization", _evaluate_harmonization, "compare harmonizers by four conventions, on held-out composites"
    )
    harmonization.add_argument(
        "place",
        metavar="RUN|FOLDER|LIST",
        type=Path,
        help="a run; or a folder in iHarmony4's layout; or a list of composites (.txt)",
    )
    harmonization.add_argument(
        "--harmonizer",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="a trained harmonizer to compare with the baselines; may be given again",
    )
    harmonization.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="of a run. Default: test."
    )
    harmonization.add_argument(
        "--stage",
        choices=("harmonization", "copypaste"),
        default="harmonization",
        help="of a run; blenders are judged on copypaste. Default: harmonization.",
    )
    harmonization.add_argument("--seed", type=_seed, default=0, help="of the bootstrap. Default: 0.")
    harmonization.add_argument("--workers", type=_workers, default=None, help="processes; the cores by default")
    harmonization.add_argument(
        "--output", metavar="FILE", type=Path, help="write the figures of every sample and method (.csv)"
    )
    worth = kind("worth", _evaluate_worth, "train a small network with and without parts of the pipeline, and compare")
    worth.add_argument(
        "runs", metavar="RUN", type=_local_run, nargs="*", help="finished runs to learn from and to measure on"
    )
    worth.add_argument("--source", help="build the two runs that all questions need from these photographs instead")
    worth.add_argument(
        "--planned", type=_count, default=6000, help="samples of a stage that --source plans. Default: 6000."
    )
    worth.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("output/worth"),
        help="where everything is kept; the same command goes on there. Default: output/worth.",
    )
    worth.add_argument(
        "--samples", type=_count, help="that every arm learns from, at most; as the smallest has by default"
    )
    worth.add_argument("--steps", type=_count, default=600, help="of each training. Default: 600.")
    worth.add_argument("--seeds", type=_count, default=3, help="trainings of each arm. Default: 3.")
    for sub in (fusion, harmonization):
        sub.add_argument("--page", metavar="FILE", type=Path, help="write a page with tables and pictures (.html)")


def _seed(text: str) -> int:
    """Read a seed."""
    if not text.isascii() or not text.isdigit() or int(text[:20]) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be 0 to 2^63 - 1, got {text!r}")
    return int(text)


def _add_harmonizers(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `train` and `harmonize`."""
    from flows.harmonizer_settings import TrainHarmonizerSettings

    train = command("train", _train_harmonizer, "train a harmonizer on the samples of a run, or go on with it")
    train.add_argument("network", metavar="NETWORK", help="masked_unet, pix2pix, dovenet, ...: docs/harmonizers.md")
    train.add_argument("samples", metavar="RUN", help="folder of the run")
    options = [name for name in TrainHarmonizerSettings.model_fields if name not in {"network", "samples"}]
    _add_settings(train, model=TrainHarmonizerSettings, only=options)
    apply = command("harmonize", _harmonize, "harmonize a composite of your own, of any size")
    apply.add_argument("network", metavar="NETWORK", help="none, reinhard, histogram, or a network with its checkpoint")
    apply.add_argument("image", metavar="IMAGE", type=Path, help="the composite")
    apply.add_argument("mask", metavar="MASK", type=Path, help="white where its subject is; a ramp counts by its value")
    apply.add_argument("--checkpoint", metavar="FILE", type=Path, help="of a network, as `hcoco train` writes it")
    apply.add_argument(
        "--output", metavar="FILE", type=Path, help=".png or .jpg. Default: IMAGE's name, -NETWORK.png, in this folder."
    )
    apply.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="Default: auto.")
    for sub in (train, apply):
        sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _count(text: str) -> int:
    """Read how many compositions are compared."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 10_000:
        raise argparse.ArgumentTypeError(f"must be 1 to 10000, got {text!r}")
    return int(text)


def _add_decisions(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that look after a finished run: status, repair, readmit, ban, undo, regate."""
    status = command("status", _status, "say what is done, what is left and how fast it goes")
    repair = command("repair", _repair, "mend a run: make anew what is damaged or missing, and only that")
    repair.add_argument("--workers", type=_workers, default=None, help="processes; the cores by default")
    readmit = command(
        "readmit", _decide, "keep samples that the gates rejected: those of a list, or all that fit a rule"
    )
    ban = command("ban", _decide, "reject samples that the gates kept: those of a list, or all that fit a rule")
    undo = command("undo", _undo, "take the last decision back: readmit, ban or regate --apply")
    undo.add_argument("--all", action="store_true", help="take every decision back: the run is as it was built")
    regate = command("regate", _regate, "count what another limit of a gate would let in or keep out")
    for sub in (status, repair, readmit, ban, undo, regate):
        kind = _run if sub is status else _local_run
        sub.add_argument("run", metavar="RUN", type=kind, help="folder of the run, such as output/sample-1a2b3c4d")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
    for sub in (readmit, ban):
        sub.add_argument(
            "list",
            metavar="LIST",
            type=Path,
            nargs="?",
            help="file of lines `readmit KEY`, `ban KEY` or KEY; # comments",
        )
        for name in ("reason", "family", "split"):
            sub.add_argument(f"--{name}", type=_words, default=(), help=f"samples of this {name}, or of any of `a,b`")
        for name, what in (("score", "realism score"), ("effect", "foreground MSE"), ("strength", "strength")):
            sub.add_argument(f"--min-{name}", type=_number, metavar="X", help=f"samples of at least this {what}")
            sub.add_argument(f"--max-{name}", type=_number, metavar="X", help=f"samples of at most this {what}")
    regate.add_argument("--threshold", type=_number, required=True, metavar="X", help="the other limit")
    regate.add_argument("--gate", default="unnatural", help="unnatural, clipping, hue_flip, effect_small, effect_large")
    regate.add_argument(
        "--sheet", metavar="FILE", type=Path, help="draw the samples nearest to the border: .png or .jpg"
    )
    regate.add_argument("--apply", action="store_true", help="make it a decision: move the samples")


def _number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return value


def _add_pages(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that write pages about a finished run: gallery, statistics."""
    gallery = command("gallery", _gallery, "write a page of all samples, kept and rejected, to look at and to mark")
    gallery.add_argument(
        "--side", metavar="PX", type=_side, default=256, help="longer side of a picture, 64 to 1024. Default: 256."
    )
    statistics = command(
        "statistics", _statistics, "write a page of how the kept samples are distributed, beside HCOCO"
    )
    for sub in (gallery, statistics):
        sub.add_argument("run", metavar="RUN", type=_local_run, help="folder of the run")
        sub.add_argument("--workers", type=_workers, default=None, help="processes; the cores by default")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_settings(
    parser: argparse.ArgumentParser, *, only: Sequence[str] = (), model: type[BaseModel] | None = None
) -> None:
    """Add an option for every setting, or for some; the words of the help are those of the settings.

    Args:
        parser: Of the command.
        only: Names of the settings; all where empty.
        model: Of the settings; those of a build where None.
    """
    from flows.settings import BuildSettings

    for name, field in (model or BuildSettings).model_fields.items():
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
    from flows.make.run import finish_run, left_to_make, make_shards
    from flows.progress import show_progress, watching
    from flows.runners import open_runner, scorer_for
    from flows.store.lock import only_build
    from flows.view.refresh import write_views

    settings = _settings(given)
    with open_runner(settings) as runner:
        with watching(quiet=given.json) as watch:
            planned = plan_run(settings, over=runner.map, watch=watch)
        layout = planned.layout
        if not given.json:
            print("\n".join(describe_plan(planned)))
        if planned.warning:
            print(f"hcoco build: {planned.warning}", file=sys.stderr)
        with only_build(layout), runner:  # no worker writes once the lock is given back
            left = left_to_make(layout, planned.plan)
            names = [shard.name for shard in left]
            made = make_shards(runner.each, layout.run, names, scorer=scorer_for(planned, runner))
            show_progress(made, total=sum(shard.planned for shard in left), quiet=given.json)
            finished = finish_run(layout, planned.plan)
            views = write_views(layout, planned=planned.plan.planned, over=runner.map)
    if given.json:
        report = layout.link(views.report) if layout.address else str(views.report)
        print(json.dumps({"run": str(layout.place), "report": report, **finished.manifest["counts"]}))
    elif layout.address is not None:
        print(f"{finished.summary}\nrun: {layout.address}\nreport: {layout.link(views.report)}")
        print(f"gallery: hcoco copy {layout.address} FOLDER, then hcoco gallery FOLDER")
    else:
        kept = [folder for name in ("shards", "fusion", "copypaste") if (folder := layout.run / name).is_dir()]
        print(
            "\n".join([finished.summary, *(f"{folder.name}: {folder}" for folder in kept), f"report: {views.report}"])
        )
        print(f"gallery: {views.gallery or f'hcoco gallery {layout.run}'}")
        print(f"statistics: {views.statistics or f'hcoco statistics {layout.run}'}")
    return DONE


def _settings(given: argparse.Namespace) -> BuildSettings:
    from flows.settings import BuildSettings, parse_settings

    given_values = vars(given)
    return parse_settings({name: given_values[name] for name in BuildSettings.model_fields if name in given_values})


def _fetch(given: argparse.Namespace) -> int:
    from flows.make.plan import fetch_photographs
    from flows.objects import cache_folder, is_address
    from flows.progress import watching
    from flows.runners import open_runner

    settings = _settings(given)
    if not settings.source.startswith("coco:") and not is_address(settings.source):
        raise BadRequest(f"source {settings.source!r} lies here already; give coco:val2017 or coco:train2017")
    with open_runner(settings) as runner, watching(quiet=given.json) as watch:
        samples = fetch_photographs(settings, over=runner.map, watch=watch)
    folder = cache_folder() / ("photographs" if is_address(settings.source) else "coco")
    if given.json:
        print(json.dumps({"folder": str(folder), "samples": samples}))
    else:
        print(f"{folder} holds the photographs of {samples} samples")
    return DONE


def _train_realism(given: argparse.Namespace) -> int:
    from flows.make.realism import describe_checkpoint, gather, layout_of, measure, only_training, train_network
    from flows.progress import showing_training, watching
    from flows.settings import parse
    from flows.train_settings import TrainRealismSettings
    from flows.view.training import write_training_report
    from realism.train import NotANumberLossError

    names = TrainRealismSettings.model_fields
    settings = parse(TrainRealismSettings, {name: value for name, value in vars(given).items() if name in names})
    layout = layout_of(settings)
    with only_training(layout):
        with watching(quiet=given.json) as watch:
            gathered = gather(settings, watch=watch)
        if not given.json:
            print(gathered.summary)
        try:
            with showing_training(steps=settings.batches, quiet=given.json) as tell:
                network, history = train_network(gathered, tell=tell)
        except NotANumberLossError as error:
            print(f"hcoco train-realism: {error}, under another --name", file=sys.stderr)
            return DAMAGE
        with watching(quiet=given.json) as watch:
            checkpoint = measure(gathered, network, history, watch=watch)
        report = write_training_report(layout)
    weights = layout.checkpoint.with_name(f"{layout.checkpoint.name}.pt")
    if given.json:
        outcome = {"metrics": checkpoint.metrics, "audit_passed": checkpoint.audit_passed}
        print(json.dumps({"checkpoint": str(weights), "report": str(report), **outcome}))
    else:
        print("\n".join(describe_checkpoint(checkpoint)) + f"\ncheckpoint: {weights}\nreport: {report}")
    return DONE


def _train_fusion(given: argparse.Namespace) -> int:
    from flows.fusion_settings import TrainFusionSettings
    from flows.make.self_teach import load_first, only_teaching, open_school, train_stage
    from flows.progress import watching
    from flows.settings import parse

    names = TrainFusionSettings.model_fields
    settings = parse(TrainFusionSettings, {name: value for name, value in vars(given).items() if name in names})
    before = load_first(settings.first)
    number = before.stage + 1 if before else 1
    with only_teaching(settings):
        with watching(quiet=given.json) as watch:
            school = open_school(settings, watch=watch)
        if not given.json:
            print(school.summary)
        made = train_stage(school, number, first=before, tell=_telling(given, settings.batches))
    if given.json:
        print(json.dumps({"checkpoint": str(school.checkpoint(number)), "sha256": made.digest}))
    else:
        print(f"checkpoint: {school.checkpoint(number)}")
    return DONE


def _self_teach(given: argparse.Namespace) -> int:
    from flows.fusion_settings import SelfTeachSettings
    from flows.make.self_teach import compare_stages, only_teaching, open_school, train_stage
    from flows.progress import watching
    from flows.settings import parse

    names = SelfTeachSettings.model_fields
    settings = parse(SelfTeachSettings, {name: value for name, value in vars(given).items() if name in names})
    with only_teaching(settings):
        with watching(quiet=given.json) as watch:
            school = open_school(settings, watch=watch)
        if not given.json:
            print(school.summary)
        made = None
        for number in range(1, settings.rounds + 2):
            made = train_stage(school, number, first=made, tell=_telling(given, settings.batches))
        comparison = compare_stages(school, stages=settings.rounds + 1)
        report = _write_comparison(school.report, comparison, title=f"Self-teaching: {school.folder.name}")
    paths = [str(school.checkpoint(number)) for number in range(1, settings.rounds + 2)]
    if given.json:
        print(json.dumps({"checkpoints": paths, "report": str(report)}))
    else:
        print("\n".join([*(f"checkpoint: {path}" for path in paths), f"report: {report}"]))
    return DONE


def _train_harmonizer(given: argparse.Namespace) -> int:
    from flows.harmonizer_settings import TrainHarmonizerSettings
    from flows.make.train_harmonizer import describe_training, only_course, open_course, train_course
    from flows.settings import parse
    from flows.view.harmonizer_page import write_harmonizer_page

    names = TrainHarmonizerSettings.model_fields
    settings = parse(TrainHarmonizerSettings, {name: value for name, value in vars(given).items() if name in names})
    with only_course(settings):
        course = open_course(settings)
        if not given.json:
            print(course.summary, flush=True)
        tell = _telling(given, course.numbers.steps)
        checkpoint = train_course(course, tell=lambda progress: tell(course.numbers.name, progress))
        report = write_harmonizer_page(course.layout)
    weights = course.layout.checkpoint.with_name(f"{course.layout.checkpoint.name}.pt")
    if given.json:
        figures = {name: value for name, value in checkpoint.metrics.items() if name != "history"}
        print(json.dumps({"checkpoint": str(weights), "report": str(report), "metrics": figures}))
    else:
        print(f"{describe_training(checkpoint)}\ncheckpoint: {weights}\nreport: {report}")
    return DONE


def _harmonize(given: argparse.Namespace) -> int:
    from flows.make.harmonize import harmonize_file, open_harmonizer
    from flows.make.realism import choose_device

    output = given.output or Path(f"{given.image.stem}-{given.network}.png")
    harmonizer = open_harmonizer(given.network, given.checkpoint, device=choose_device(given.device))
    harmonize_file(given.image, given.mask, output, harmonizer=harmonizer)
    print(json.dumps({"output": str(output)}) if given.json else str(output))
    return DONE


def _telling(given: argparse.Namespace, steps: int) -> Callable[[int | str, Progress], None]:
    """Return what prints a line for each saved stretch of a training; a number is that of a stage, a word a network."""

    def tell(what: int | str, progress: Progress) -> None:
        if not given.json:
            name = what if isinstance(what, str) else f"stage {what}"
            print(f"{name}: step {progress.step} of {steps}, loss {progress.loss:.4f}", flush=True)

    return tell


def _write_comparison(path: Path, comparison: Comparison, *, title: str) -> Path:
    from flows.view.fusion_page import write_fusion_page

    return write_fusion_page(
        path, title=title, tables=comparison.tables, counts=comparison.counts, pictures=comparison.pictures
    )


def _evaluate_fusion(given: argparse.Namespace) -> int:
    from flows.coco.sources import open_source
    from flows.make.evaluate_fusion import (
        cases_of_run,
        cases_of_source,
        compare,
        open_methods,
        read_networks,
        tell_comparison,
    )
    from flows.make.realism import choose_device
    from flows.store.layout import open_run

    if (given.run is None) == (given.source is None):
        raise BadRequest("give either a RUN or a --source")
    networks, device = read_networks(given.network), choose_device(given.device)
    methods = open_methods(networks, device=device)
    if given.run is not None:
        sets = cases_of_run(open_run(given.run), most=given.count)
    else:
        first = next(iter(networks.values()))
        sets = cases_of_source(
            open_source(given.source), given.photos, first=first, count=given.count, seed=given.seed, device=device
        )
    comparison = compare(sets, methods)
    page = given.page and _write_comparison(given.page, comparison, title="Ways of composing compared")
    if given.json:
        print(json.dumps({**comparison.to_json(), "page": page and str(page)}))
    else:
        print("\n".join(tell_comparison(comparison)) + (f"\npage: {page}" if page else ""))
    return DONE


def _evaluate_harmonization(given: argparse.Namespace) -> int:
    from flows.make.evaluate_harmonization import (
        evaluate_harmonization,
        read_harmonizers,
        show_extremes,
        tell_evaluation,
        write_figures,
    )
    from flows.make.realism import choose_device
    from flows.progress import watching
    from flows.runners import LocalRunner
    from flows.settings import usable_cores
    from flows.view.harmonization_page import write_harmonization_page

    device, harmonizers = choose_device(given.device), read_harmonizers(given.harmonizer)
    workers = 1 if device == "cuda" and harmonizers else given.workers or usable_cores()
    with nullcontext() if workers == 1 else LocalRunner(workers) as runner, watching(quiet=given.json) as watch:
        evaluation = evaluate_harmonization(
            given.place,
            harmonizers=harmonizers,
            split=given.split,
            stage=given.stage,
            device=device,
            seed=given.seed,
            over=map if runner is None else runner.map,
            watch=watch,
        )
    if given.output is not None:
        write_figures(evaluation.tally, given.output)
    page = None
    if given.page is not None:
        shown = show_extremes(evaluation, given.place, harmonizers=harmonizers, device=device)
        page = write_harmonization_page(given.page, evaluation.to_json(), evaluation.tally.figures, shown)
    if given.json:
        print(json.dumps({**evaluation.to_json(), "page": page and str(page)}))
    else:
        print("\n".join(tell_evaluation(evaluation)) + (f"\npage: {page}" if page else ""))
    return DONE


def _evaluate_worth(given: argparse.Namespace) -> int:
    from flows.make.realism import choose_device
    from flows.make.worth import WorthSettings, evaluate_worth, runs_of_source, tell_worth
    from flows.progress import watching

    if bool(given.runs) == (given.source is not None):
        raise BadRequest("give either one or more RUNs or a --source")
    device = choose_device(given.device)
    settings = WorthSettings(samples=given.samples, steps=given.steps, seeds=given.seeds)
    runs = given.runs or runs_of_source(given.source, given.output, _build_quietly, samples=given.planned)
    with watching(quiet=given.json) as watch:
        worth = evaluate_worth(runs, given.output, settings, device=device, watch=watch)
    print(json.dumps(worth.to_json()) if given.json else "\n".join(tell_worth(worth)))
    return DONE


def _build_quietly(values: Mapping[str, object]) -> Path:
    """Make a run, or finish it, without its pages; return its folder."""
    from flows.make.plan import plan_run
    from flows.make.run import finish_run, left_to_make, make_shards
    from flows.runners import open_runner, scorer_for
    from flows.settings import parse_settings
    from flows.store.lock import only_build

    settings = parse_settings(values)
    with open_runner(settings) as runner:
        planned = plan_run(settings, over=runner.map)
        with only_build(planned.layout), runner:  # no worker writes once the lock is given back
            names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
            for _ in make_shards(runner.each, planned.layout.run, names, scorer=scorer_for(planned, runner)):
                pass
            finish_run(planned.layout, planned.plan)
    return planned.layout.run


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
            json.dumps({"run": str(layout.place), "whole": not problems, "problems": [vars(each) for each in problems]})
        )
    else:
        print(f"{layout.place}: {'every check passed' if not problems else f'{len(problems)} problems'}")
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


def _score(given: argparse.Namespace) -> int:
    from flows.make.score import open_judge, pick_device, score_folder, score_pair, summarize, tell_scores, write_scores
    from flows.progress import watching

    if given.mask is not None and given.output is not None:
        raise BadRequest("--output is for data sets; leave it out for one picture")
    device, judge = pick_device(given.device), open_judge(given.checkpoint)
    if given.mask is not None:
        score = score_pair(given.place, given.mask, checkpoint=judge, device=device)
        kept = score >= judge.threshold
        if given.json:
            print(json.dumps({"score": score, "threshold": judge.threshold, "kept": kept}))
        else:
            print(f"{score:.4f}  {'kept' if kept else 'dropped'} by a gate at {judge.threshold:.4f}")
        return DONE
    with watching(quiet=given.json) as watch:
        rows = list(score_folder(given.place, checkpoint=judge, device=device, watch=watch))
    if given.output is not None:
        write_scores(rows, given.output)
    summary = summarize(rows)
    print(json.dumps(summary) if given.json else "\n".join(tell_scores(summary)))
    return DONE if summary["all"]["scored"] else DAMAGE


def _audit(given: argparse.Namespace) -> int:
    from flows.coco.sources import open_source
    from flows.make.audit import audit_checkpoint, draw_audit, tell_audit
    from flows.make.score import judge_path, open_judge, pick_device
    from flows.progress import watching
    from realism.audit import find_failures
    from realism.checkpoint import mark_audited

    device, judge = pick_device(given.device), open_judge(given.checkpoint)
    with watching(quiet=given.json) as watch:
        source = open_source(given.source, watch=watch)
        side = judge.model.shape.side
        cases = draw_audit(source, given.photos, learnt=judge.image_ids, side=side, watch=watch)
    table = audit_checkpoint(judge, cases, device=device)
    if given.write:
        mark_audited(judge_path(given.checkpoint), table)
    print(json.dumps({**table, "failures": find_failures(table)}) if given.json else "\n".join(tell_audit(table)))
    return DONE if table["passed"] else DAMAGE


def _export(given: argparse.Namespace) -> int:
    from flows.make.export import export_run
    from flows.progress import watching
    from flows.store.layout import open_run
    from flows.store.read import Damaged

    try:
        with watching(quiet=given.json) as watch:
            exported = export_run(
                open_run(given.run),
                given.folder,
                form=given.format,
                splits=given.split,
                name=given.name,
                masks=given.masks,
                link=given.link,
                watch=watch,
            )
    except Damaged as damage:
        print(f"hcoco export: {damage}", file=sys.stderr)
        return DAMAGE
    if given.json:
        print(json.dumps({**vars(exported), "folder": str(exported.folder)}))
    else:
        splits = ", ".join(f"{count} {split}" for split, count in exported.samples.items())
        links = f", {exported.linked} of them hard links" if exported.linked else ""
        print(
            f"{sum(exported.samples.values())} samples ({splits}) in {exported.files} pictures{links}: {exported.folder}"
        )
    return DONE


def _copy(given: argparse.Namespace) -> int:
    from flows.progress import watching
    from flows.store.remote import copy_run

    with watching(quiet=given.json) as watch:
        files = copy_run(given.source, given.to, watch=watch)
    print(json.dumps({"files": files, "to": given.to}) if given.json else f"{files} files: {given.to}")
    return DONE


def _card(given: argparse.Namespace) -> int:
    from flows.store.layout import open_run
    from flows.store.read import Damaged
    from flows.view.data_card import write_card

    try:
        paths = write_card(open_run(given.run))
    except Damaged as damage:
        print(f"hcoco card: {damage}", file=sys.stderr)
        return DAMAGE
    print(json.dumps([str(path) for path in paths]) if given.json else "\n".join(str(path) for path in paths))
    return DONE


def _status(given: argparse.Namespace) -> int:
    from flows.make.status import read_status, tell_status

    status = read_status(given.run)
    print(json.dumps(status.to_json()) if given.json else "\n".join(tell_status(status)))
    return DAMAGE if status.state == "damaged" else DONE


def _repair(given: argparse.Namespace) -> int:
    from flows.make.repair import repair_run
    from flows.runners import LocalRunner
    from flows.settings import usable_cores
    from flows.store.layout import open_run
    from flows.store.lock import only_build
    from flows.view.refresh import refresh_views

    layout, mended = open_run(given.run), []
    with only_build(layout), LocalRunner(given.workers or usable_cores()) as runner:
        for each in repair_run(layout, over=runner.map):
            mended.append(each)
            if not given.json:
                print(each)
        lost = [each for each in mended if each.how == "lost"]
        if not lost:
            refresh_views(layout)
    if given.json:
        print(json.dumps({"run": str(layout.run), "whole": not lost, "mended": [vars(each) for each in mended]}))
    elif not lost:
        print(f"{layout.run}: {f'{len(mended)} mended' if mended else 'nothing was damaged'}")
    return DAMAGE if lost else DONE


def _decide(given: argparse.Namespace) -> int:
    from flows.make.decide import decide
    from flows.make.decision_list import read_list, read_rule
    from flows.store.layout import open_run
    from flows.store.lock import only_build

    layout = open_run(given.run)
    bounds = [f"{end}_{what}" for what in ("score", "effect", "strength") for end in ("min", "max")]
    names = ("reason", "family", "split", *bounds)
    rule = {name: value for name in names if (value := getattr(given, name)) not in (None, ())}
    if (given.list is None) == (not rule):
        raise BadRequest("give a LIST, or a rule such as --reason unnatural --min-score 0.4, and not both")
    decision = (
        read_rule(given.command, rule)
        if given.list is None
        else read_list(given.list, action=given.command, run=layout.run.name)
    )
    with only_build(layout):
        return _tell_change(given, layout, decide(layout, decision))


def _undo(given: argparse.Namespace) -> int:
    from flows.make.decide import undo
    from flows.store.layout import open_run
    from flows.store.lock import only_build

    layout = open_run(given.run)
    with only_build(layout):
        return _tell_change(given, layout, undo(layout, every=given.all))


def _tell_change(given: argparse.Namespace, layout: Layout, change: Change) -> int:
    """Show a change of a run in its report, and tell it."""
    from flows.make.run import Finished
    from flows.view.refresh import refresh_views

    report = refresh_views(layout)
    if given.json:
        print(json.dumps({"run": str(layout.run), "report": str(report), **change.to_json()}))
        return DONE
    print(f"{change.readmitted} come, {change.dropped} go, {len(change.shards)} shards written anew")
    if change.spared:
        print(
            f"{change.spared} that fit stay as they are: a list or a later rule says otherwise, or they have no pictures"
        )
    print(f"{Finished(layout, change.manifest).summary}\nreport: {report}")
    return DONE


def _regate(given: argparse.Namespace) -> int:
    from flows.make.decide import decide
    from flows.make.regate import check_limit, look_ahead, tell_outlook
    from flows.store.layout import open_run
    from flows.store.lock import only_build
    from flows.view.sheet import check_sheet, write_sheet

    layout, other = open_run(given.run), check_limit(given.gate, given.threshold)
    sheet = None if given.sheet is None else check_sheet(given.sheet)
    outlook = look_ahead(layout, other)
    if not given.json:
        print("\n".join(tell_outlook(outlook)))
    if sheet is not None:
        title = f"{layout.run.name}: {other.gate} at {other.limit:g}"
        write_sheet(layout, outlook.nearest, sheet, limit=other.limit, title=title)
    if given.apply:
        with only_build(layout):
            return _tell_change(given, layout, decide(layout, other))
    if given.json:
        print(json.dumps({"run": str(layout.run), **outlook.to_json()}))
    elif sheet is not None:
        print(f"sheet: {sheet}")
    return DONE


def _gallery(given: argparse.Namespace) -> int:
    from flows.progress import watching
    from flows.runners import LocalRunner
    from flows.settings import usable_cores
    from flows.store.layout import open_run
    from flows.store.lock import only_build
    from flows.view.gallery import write_gallery
    from flows.view.links import link_pages

    layout = open_run(given.run)
    with (
        only_build(layout),
        LocalRunner(given.workers or usable_cores()) as runner,
        watching(quiet=given.json) as watch,
    ):
        written = write_gallery(layout, over=runner.map, side=given.side, watch=watch)
        link_pages(layout)
    if given.json:
        print(json.dumps({"run": str(layout.run), **vars(written), "page": str(written.page)}))
    else:
        blank = written.samples - written.pictured
        without = f", {blank} of them without pictures" if blank else ""
        print(f"{written.samples} samples{without}, {written.size / 1e6:.1f} MB\ngallery: {written.page}")
    return DONE


def _statistics(given: argparse.Namespace) -> int:
    from flows.progress import watching
    from flows.runners import LocalRunner
    from flows.settings import usable_cores
    from flows.store.layout import open_run
    from flows.store.lock import only_build
    from flows.view.links import link_pages
    from flows.view.statistics import write_statistics

    layout = open_run(given.run)
    with (
        LocalRunner(given.workers or usable_cores()) as runner,
        watching(quiet=given.json) as watch,
        only_build(layout),
    ):
        written = write_statistics(layout, over=runner.map, watch=watch)
        link_pages(layout)
    if given.json:
        print(json.dumps({"run": str(layout.run), **vars(written), "page": str(written.page)}))
    else:
        blank = written.samples - written.measured
        without = f", {blank} of them without pictures that can be read" if blank else ""
        print(f"{written.samples} kept samples{without}\nstatistics: {written.page}")
    return DONE


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
