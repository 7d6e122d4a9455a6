"""The console script: the group of commands, and how every ending becomes an exit status.

    0    done (diff: no difference)      2    usage: options, configuration
    1    error (diff: differences)       3    done, but some objects were refused (diff: error)
    70   a bug; the traceback is printed      130, 141  interrupted, nobody reads our output

``netplane --help`` is asked for often and by shells: it must not import what only a command
needs, so commands are modules imported when they are invoked. For the same reason help is plain
click; rich is imported by reports alone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from netplane.errors import NetplaneError

EXIT_BUG = 70  # EX_SOFTWARE in sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
EXIT_PIPE = 141  # 128 + SIGPIPE

#: Every command: its name, and the line ``netplane --help`` has about it.
COMMANDS = {
    "render": "Print the rules the input asks for; needs no privileges.",
    "diff": "Show what differs between the kernel and the input, per Service.",
    "apply": "Make the kernel what the input says, and tell what changed.",
    "status": "Show what is in the kernel now: frontends, endpoints, connections.",
    "cleanup": "Remove all and only what is netplane's.",
    "agent": "Keep this node's rules what the cluster says.",
    "doctor": "Check this machine, and say what to do about each finding.",
    "manifest": "Print what runs the agent on every node of a cluster.",
}


class _ReaderLeftError(Exception):
    """A broken pipe, in a form that click does not turn into the exit status 1."""


class LazyGroup(click.Group):
    """A group whose commands are modules of ``netplane.cli``, imported when invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a working day rather than of the alphabet."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"netplane.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' help without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise _ReaderLeftError from exc


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="netplane", message="%(prog)s %(version)s")
def cli() -> None:
    """A Kubernetes Service dataplane that people can read, rehearse, diff and trust.

    Every option can be set by an environment variable, NETPLANE_ and its name in capitals.
    """


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    try:
        status = cli.main(list(arguments), prog_name="netplane", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except NetplaneError as exc:
        from netplane.cli import log

        log.error(exc)
        return exc.exit_status
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, _ReaderLeftError):
        # The reader has what it wanted. Python flushes stdout once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception:  # noqa: BLE001 (the outermost edge: a bug gets a status of its own)
        traceback.print_exc()
        return EXIT_BUG
    return status if isinstance(status, int) else 0


def entry() -> None:
    """The console script."""
    # A command builds one large state, prints, and ends: collecting cycles would only walk it
    # again and again, a fifth of the time with 20,000 Services. What runs for long switches it on.
    gc.disable()
    status = main(sys.argv[1:])
    # Nor is it freed object by object at the end, another tenth of the time.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
