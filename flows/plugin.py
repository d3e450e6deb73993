"""Make `prefect deployment run build-hcoco`, typed in the project's folder, reach this project's own server.

Prefect calls `setup_environment` when a process imports it, before it reads the command line; it does so only
where `[tool.prefect.plugins] enabled = true` of pyproject.toml is in the current directory. The hook looks at
`prefect ...` commands alone: a script or a test that imports Prefect here is left as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prefect.plugins import HookContext, SetupResult, register_hook

from flows.services import DEPLOYMENTS, Services, client_settings, status

_TAKE_A_VALUE: Final = frozenset(
    {
        *("--id", "--job-variable", "-jv", "--param", "-p", "--params", "--start-in", "--start-at", "--tag"),
        *("--watch-interval", "--watch-timeout", "--flow-run-name"),
    }
)
"""Options of `prefect deployment run` whose next word is a value: `--tag build-hcoco` names no deployment."""

_GLOBAL_WITH_VALUE: Final = frozenset({"--profile", "-p"})
_LEFT_ALONE: Final = frozenset({"cloud", "config", "profile", "profiles", "server"})
"""Commands about the user's own settings and servers, which our services must not get into the way of."""

_OF_ANOTHER_SERVER: Final = (
    "PREFECT_API_",
    "PREFECT_CLOUD_",
    "PREFECT_PROFILE",
    "PREFECT_UI_",
    "PREFECT_CLIENT_CUSTOM",
)
"""Beginnings of variables that belong to the server they were set for: a key of the user's stays off ours."""


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Expand this project's bare deployment names, and point the command at our server where it is up."""
    del ctx  # the settings that it carries are the ones that are about to change
    root = Path.cwd()
    words = command_line()
    if words is None or not (root / "flows" / "build_hcoco.py").is_file():
        return None
    expanded = expand(words)
    sys.argv[len(sys.argv) - len(words) :] = expanded
    if not may_redirect(expanded):
        return None
    services = status(root=root)
    _explain_what_is_missing(expanded, services)
    if services.server is None or services.port is None:
        return None
    for name in [name for name in os.environ if name.startswith(_OF_ANOTHER_SERVER)]:
        del os.environ[name]
    return SetupResult(env=client_settings(services.root, port=services.port), note="hcoco's own server")


def command_line() -> list[str] | None:
    """Return the words after `prefect`, or None where this process is no `prefect` command."""
    if Path(sys.argv[0]).name == "prefect" or sys.orig_argv[1:3] == ["-m", "prefect"]:
        return sys.argv[1:]
    return None


def expand(words: Sequence[str]) -> list[str]:
    """Write this project's names as `<flow>/<deployment>` in the words of a `deployment run`; leave all others."""
    position = _run_position(words)
    if position is None:
        return list(words)
    return [
        f"{word}/{word}" if at > position and word in DEPLOYMENTS and words[at - 1] not in _TAKE_A_VALUE else word
        for at, word in enumerate(words)
    ]


def may_redirect(words: Sequence[str]) -> bool:
    """Say whether the user left the choice of server open: no address, no profile, no command about servers."""
    command = _command_position(words)
    if "PREFECT_API_URL" in os.environ or command is None:
        return False
    chose_profile = any(word.partition("=")[0] in _GLOBAL_WITH_VALUE for word in words[:command])
    return not chose_profile and words[command] not in _LEFT_ALONE


def _command_position(words: Sequence[str]) -> int | None:
    """Find the first word that is neither an option of `prefect` itself nor the value of one."""
    for at, word in enumerate(words):
        if not word.startswith("-") and (at == 0 or words[at - 1] not in _GLOBAL_WITH_VALUE):
            return at
    return None


def _run_position(words: Sequence[str]) -> int | None:
    """Find the `run` of `deployment run`; None in any other command."""
    at = _command_position(words)
    if at is None or words[at] not in {"deployment", "deployments"} or words[at + 1 : at + 2] != ["run"]:
        return None
    return at + 1


def _explain_what_is_missing(words: Sequence[str], services: Services) -> None:
    """End with one line where a run of ours has no server; say so where it has no worker."""
    at = _run_position(words)
    ours = {f"{name}/{name}" for name in DEPLOYMENTS}
    if at is None or "--help" in words or not ours & set(words[at:]):
        return
    if services.server is None:
        sys.stderr.write(
            "hcoco's Prefect server is not up: run `hcoco up` first (or set PREFECT_API_URL to use another server).\n"
        )
        raise SystemExit(2)
    if services.worker is None:
        sys.stderr.write("hcoco's worker is not running, the run will wait for one: run `hcoco up`.\n")
