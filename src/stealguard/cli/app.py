"""The command line: thin, in the same words as the Python API. Torch is loaded by the commands that need it."""

from __future__ import annotations

import os
import sys
import traceback

from cyclopts import App, CoercionError, CycloptsError, Parameter

from stealguard import __version__
from stealguard.cli.audit import audit
from stealguard.cli.card import card
from stealguard.cli.compare import compare
from stealguard.cli.data import app as data_app
from stealguard.cli.demo import demo
from stealguard.cli.export import export
from stealguard.cli.guard import guard
from stealguard.cli.keys import app as keys_app
from stealguard.cli.list import list_
from stealguard.cli.printing import RowsFailed
from stealguard.cli.protect import protect
from stealguard.cli.report import report
from stealguard.cli.serve import serve
from stealguard.cli.verify import verify
from stealguard.errors import StealguardError, disk_error, memory_error, one_line

app = App(
    name="stealguard",
    version=__version__,
    help="Protect classifiers against model stealing, and audit them.",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    default_parameter=Parameter(negative_iterable=()),
)
for command in (protect, audit, guard, compare, report, export, card, verify, serve, demo):
    app.command(command)
app.command(list_, name="list")
app.command(data_app)
app.command(keys_app)
app.register_install_completion_command(help="Let the Tab key complete commands and options in bash, zsh or fish.")

FIRST_STEPS = """\
stealguard protects classifiers against model stealing, and measures how well
they can be stolen. The five commands to begin with:

  protect   train a defended classifier
            stealguard protect lenet5 mnist --out runs/mine
  audit     steal it in several ways, and measure each clone
            stealguard audit runs/mine --suite quick
  report    print a table, and write a page to open
            stealguard report runs/mine --out report.html
  serve     answer over HTTP, with a page to try it
            stealguard serve runs/mine --open --page
  compare   train and attack many defenses; continues where it was stopped
            stealguard compare grid.yaml --out runs/compare

`stealguard demo` shows protect, audit and report on MNIST in a few minutes.
`stealguard list attacks` shows every name, `stealguard COMMAND --help` every
option, and `stealguard --help` every command."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; without arguments, show the commands to begin with.

    Exits with status 2, and one line on stderr, for what a user can mend, what the arguments lack and what the system
    refuses; with 130 when interrupted; with 1 and a traceback for an error of stealguard's own.

    Example:
        >>> main(["list", "nets", "--json"])  # doctest: +ELLIPSIS
        {"lenet5": ...}
    """
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        app(tokens, exit_on_error=False, print_error=False) if tokens else print(FIRST_STEPS)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does: nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (StealguardError, CycloptsError, OSError, UnicodeError) as e:
        _fail(e)
    except SystemExit as e:
        if isinstance(e, RowsFailed):
            raise
        _fail(StealguardError(f"The code of a module of your own ended the program: {e!r}."))
    except KeyboardInterrupt as e:
        print(one_line(e) if e.args else "interrupted; nothing that was finished is lost", file=sys.stderr)
        sys.exit(130)
    except Exception as e:
        if (cause := disk_error(e) or memory_error(e)) is not None:
            _fail(cause)
        traceback.print_exc()
        print("This is an error of stealguard itself: please report it, with the lines above.", file=sys.stderr)
        sys.exit(1)


def _fail(error: Exception) -> None:
    whole = isinstance(error, CoercionError) and error.target_type is int
    print(f"error: {one_line(error)}{' Write whole numbers like 20000 or 20_000.' * whole}", file=sys.stderr)
    sys.exit(2)
