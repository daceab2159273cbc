"""A page of the documents, done by its reader: files saved, programs and commands run."""

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

from tests.support.command_line import Call
from tests.support.documents import Block, blocks


class Session:
    """Do what a page shows, in the working directory, and compare what it prints.

    `sh` is run, `shell` is not: it stands for what takes long, or is not at hand. Numbers
    that a command prints come out of a training, and may differ from machine to machine;
    those that `python` prints may not.

    Args:
        gradguard: Runs `gradguard ...` in this process, which is faster.
    """

    def __init__(self, gradguard: Call) -> None:
        self._gradguard = gradguard
        self._names: dict[str, Any] = {}

    def read(self, page: str) -> None:
        """Do all of the page, in its order."""
        shown = blocks(page)
        for block in shown:
            if block.title:
                Path(block.title).write_text(block.text)
            elif block.language == "python":
                _compare(block, self._run_python(block.text))
            elif block.language == "sh":
                _compare(block, self._run_lines(block.text), change=without_numbers)
        for block in shown:
            if block.title.endswith(".py") and not _mentioned(block.title, shown):
                runpy.run_path(block.title)  # its names and imports are right, at least

    def _run_python(self, code: str) -> str:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "page", "exec"), self._names)
        return printed.getvalue()

    def _run_lines(self, lines: str) -> str:
        """Return what the last line prints."""
        printed = ""
        for line in lines.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gradguard"]:
                code, printed, told = self._gradguard(*words[1:])
                assert code == 0, told
            elif words:
                printed = _run(line)
        return printed


def _run(line: str) -> str:
    here = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _compare(
    block: Block, got: str, *, change: Callable[[str], str] = lambda text: text
) -> None:
    if block.printed is None:
        return
    wanted = change(block.printed)
    same = OutputChecker().check_output(
        wanted, change(got), ELLIPSIS | NORMALIZE_WHITESPACE
    )
    assert same, f"{block.text}\nshall print\n{block.printed}\nand prints\n{got}"


def without_numbers(text: str) -> str:
    """Return the text with a # for each number."""
    return re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "#", text)


def _mentioned(name: str, shown: list[Block]) -> bool:
    return any(block.language == "sh" and name in block.text for block in shown)
