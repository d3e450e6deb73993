from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.plugins import HookContext

from flows import plugin, services
from flows.plugin import command_line, expand, may_redirect, setup_environment
from flows.services import Process, Services

OURS = Process(os.getpid(), "now")
CONTEXT = HookContext(prefect_version="3", api_url=None, logger_factory=logging.getLogger)


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder that looks like this project's."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "build_hcoco.py").touch()
    (tmp_path / "pyproject.toml").write_text("[tool.prefect.plugins]\nenabled = true\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let environment changes of the hook itself be undone after the test."""
    before = dict(os.environ)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


def type_command(monkeypatch: pytest.MonkeyPatch, *words: str, found: Services | None = None) -> None:
    """Pretend that `prefect` was typed with these words, where `found` is what runs."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/prefect", *words])
    if found is not None:
        monkeypatch.setattr(plugin, "status", lambda *, root: replace(found, root=root))


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("typed_words", "meant"),
    [
        ("deployment run build-hcoco", "deployment run build-hcoco/build-hcoco"),
        ("deployments run build-hcoco --watch", "deployments run build-hcoco/build-hcoco --watch"),
        (
            "deployment run --watch -p samples=2 build-hcoco",
            "deployment run --watch -p samples=2 build-hcoco/build-hcoco",
        ),
        ("--profile run deployment run self-teach", "--profile run deployment run self-teach/self-teach"),
        ("--no-prompt deployment run build-hcoco", "--no-prompt deployment run build-hcoco/build-hcoco"),
    ],
)
def test_our_bare_names_are_expanded(typed_words: str, meant: str) -> None:
    """A bare name of this project's is written as flow and deployment, wherever it stands in the command."""
    assert expand(typed_words.split()) == meant.split()


@pytest.mark.parametrize(
    "typed_words",
    [
        "deployment run build-hcoco/build-hcoco",
        "deployment run another-flow",
        "deployment run --tag build-hcoco another/flow",
        "deployment run another/flow --flow-run-name build-hcoco",
        "deployment inspect build-hcoco",
        "deployment ls",
        "flow-run ls --flow-name build-hcoco",
        "--profile build-hcoco version",
        "deployment",
        "",
    ],
)
def test_everything_else_is_left_as_typed(typed_words: str) -> None:
    """The slash form, other names, values of options and other commands are not touched."""
    assert expand(typed_words.split()) == typed_words.split()


# ------------------------------------------------------------------------------------------- whose command it is


def test_a_script_is_not_taken_for_the_prefect_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that imports Prefect keeps its own arguments."""
    monkeypatch.setattr(sys, "argv", ["train.py", "deployment", "run", "build-hcoco"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "deployment", "run", "build-hcoco"])
    assert command_line() is None


def test_python_m_prefect_is_the_prefect_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m prefect` counts too; Python shows `-m` as its name while the package is imported."""
    monkeypatch.setattr(sys, "argv", ["-m", "deployment", "ls"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "prefect", "deployment", "ls"])
    assert command_line() == ["deployment", "ls"]


@pytest.mark.parametrize(
    "typed_words", ["--profile mine deployment ls", "-p mine deployment ls", "--profile=mine version"]
)
def test_a_profile_on_the_command_line_wins(typed_words: str) -> None:
    """Who names a profile has chosen a server."""
    assert not may_redirect(typed_words.split())


@pytest.mark.parametrize("typed_words", ["server start", "config set A=b", "profile ls", "cloud login", ""])
def test_commands_about_the_users_own_prefect_are_left_alone(typed_words: str) -> None:
    """Settings, profiles and servers of the user's are managed as outside this folder."""
    assert not may_redirect(typed_words.split())


def test_an_address_of_the_users_own_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PREFECT_API_URL` in the environment is an explicit choice."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not may_redirect(["deployment", "ls"])


# ------------------------------------------------------------------------------------------- the hook


def test_the_command_is_pointed_at_our_server(project: Path, typed: pytest.MonkeyPatch) -> None:
    """With our services up, the name is expanded, the address is ours, and the user's key stays away from it."""
    typed.setenv("PREFECT_API_KEY", "the user's own")
    typed.setenv("PREFECT_PROFILE", "the user's own")
    found = Services(project, port=4217, server=OURS, worker=OURS)
    type_command(typed, "deployment", "run", "build-hcoco", found=found)
    result = setup_environment(ctx=CONTEXT)
    assert sys.argv[1:] == ["deployment", "run", "build-hcoco/build-hcoco"]
    assert result is not None
    assert result.env["PREFECT_API_URL"] == "http://127.0.0.1:4217/api"
    assert result.env["PREFECT_HOME"] == str(project / ".prefect")
    assert not {"PREFECT_API_KEY", "PREFECT_PROFILE"} & set(os.environ)


def test_a_run_without_a_server_ends_with_one_line(
    project: Path, typed: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Instead of starting a temporary server that knows no deployment, the command says what to do."""
    type_command(typed, "deployment", "run", "build-hcoco", found=Services(project))
    with pytest.raises(SystemExit) as ended:
        setup_environment(ctx=CONTEXT)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("hcoco's Prefect server is not up: run `hcoco up` first")


def test_a_run_without_a_worker_is_sent_and_said(
    project: Path, typed: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run may wait for its worker, but not silently."""
    type_command(typed, "deployment", "run", "build-hcoco", found=Services(project, port=4217, server=OURS))
    assert setup_environment(ctx=CONTEXT) is not None
    assert "worker is not running" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("deployment", "run", "build-hcoco", "--help"), ("deployment", "run", "my/flow")])
def test_help_and_other_deployments_need_no_server_of_ours(
    project: Path, typed: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Only a run of this project's own deployments is stopped for want of a server."""
    type_command(typed, *words, found=Services(project))
    assert setup_environment(ctx=CONTEXT) is None


def test_other_folders_are_left_alone(tmp_path: Path, typed: pytest.MonkeyPatch) -> None:
    """In a folder that is not this project's the hook changes nothing, whatever is typed."""
    typed.chdir(tmp_path)
    type_command(typed, "deployment", "run", "build-hcoco", found=Services(tmp_path, port=4217, server=OURS))
    assert setup_environment(ctx=CONTEXT) is None
    assert sys.argv[1:] == ["deployment", "run", "build-hcoco"]


def test_the_installed_command_calls_the_hook(project: Path) -> None:
    """The real `prefect` finds the plugin, and ends with the line that names `hcoco up`."""
    environment = dict(os.environ) | {"HOME": str(project / "home"), "DO_NOT_TRACK": "1"}
    (project / "home").mkdir()
    prefect = Path(sys.executable).with_name("prefect")
    done = subprocess.run(
        [str(prefect), "deployment", "run", "build-hcoco"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "hcoco's Prefect server is not up: run `hcoco up` first (or set PREFECT_API_URL to use another server)."
    ]


def test_every_deployment_of_the_project_file_has_a_bare_name() -> None:
    """What prefect.yaml deploys can be run by its bare name."""
    lines = (services.project_root() / "prefect.yaml").read_text(encoding="utf-8").splitlines()
    named = {line.partition("name:")[2].strip() for line in lines if line.startswith("  - name:")}
    assert named
    assert named <= set(services.DEPLOYMENTS)
