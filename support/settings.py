"""One dataclass per script becomes its command line; a wrong call ends with one line and exit code 2."""
import argparse
import difflib
import os
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import MISSING, field, fields

MAX = 2**63 - 1  # what fits a seed of torch's; also refuses inf


class BadInput(Exception):
    """Something the user gave is wrong; the message names the file or option and says what to do."""


class Diverged(Exception):
    """Training went wrong beyond repair; the message says where, and what is left."""


class Stopped(Exception):
    """A signal asked the program to stop, and it has saved what it was doing; `number` is the signal's."""

    def __init__(self, number, message):
        super().__init__(message)
        self.number = number


def is_panic(error):
    """Whether tiktoken's or tokenizers' Rust has given up, on a text too long for its expressions, say. It is no Exception."""
    return type(error).__name__ == "PanicException"


@contextmanager
def signals():
    """Yield a list to which Ctrl-C and SIGTERM are appended instead of killing us; a second one kills (not torchrun's ranks)."""
    seen = []

    def note(number, frame):
        if seen and "RANK" not in os.environ:  # torchrun and the terminal may both pass one on to its ranks
            raise KeyboardInterrupt
        seen.append(number)
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def option(default, help, **kwargs):
    """A dataclass field that is an option: `option(0.1, "weight decay")`. kwargs go to argparse (choices, nargs, ...).

    `low` and `high` bound a number, both ends included; `empty` says that "" is a value, too; `positional` marks the list of
    arguments without a name; `group` is the heading in --help of this option and of those after it.
    """
    given = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**given, metadata={"help": help, **kwargs})


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, and an unknown option is answered with the nearest known one."""

    def error(self, message):
        message = message.replace("unrecognized arguments: -", "unknown option -")
        message = message.replace("unrecognized arguments:", "a value too many (does one need quotes, or commas for spaces?):")
        for word in message.split() if message.startswith("unknown option") else ():
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            if word.startswith("-") and word not in self._option_string_actions and near:
                message += f" (did you mean {near[0]}?)"
                break
        raise BadInput(message)


def parse(settings, argv=None):
    """Fill the dataclass `settings` from the command line (sys.argv by default).

    Raises BadInput for unknown options, values of the wrong type, and numbers out of bounds.
    """
    parser = Parser(description=sys.modules[settings.__module__].__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    bounds, group = {}, parser
    for f in fields(settings):
        kwargs = dict(f.metadata)
        group = parser.add_argument_group(kwargs.pop("group")) if "group" in kwargs else group
        high = kwargs.pop("high", MAX if f.type in (int, float) else None)
        bounds[f.name] = kwargs.pop("low", None), high, kwargs.pop("empty", False)
        if kwargs.pop("positional", False):
            group.add_argument(f.name, nargs="*", **kwargs)
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if isinstance(default, bool):
            kwargs["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif not isinstance(default, list):
            kwargs["type"] = type(default)
        else:
            kwargs["action"] = "extend"  # given twice, they add up
        if default != "" and default != [] and default is not False:
            kwargs["help"] += " (default: %(default)s)"
        if "choices" not in kwargs and not isinstance(default, bool):
            kwargs.setdefault("metavar", {int: "N", float: "X"}.get(type(default), "TEXT"))
        group.add_argument(f"--{f.name}", default=default, **kwargs)
    values = vars(parser.parse_args(argv))
    given = [word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)]
    for name, (low, high, empty) in bounds.items():
        if given.count(f"--{name}") + given.count(f"--no-{name}") > 1 and not isinstance(values[name], list):
            raise BadInput(f"--{name} is given more than once")
        value = values[name]
        if value == "" and f"--{name}" in given and not empty:  # as of a variable of the shell that is not set
            raise BadInput(f"--{name} is empty; give it a value, or leave it out")
        if low is not None and not value >= low:  # also refuses nan
            raise BadInput(f"--{name} must be at least {low}, not {value}")
        if high is not None and not value <= high:
            raise BadInput(f"--{name} must be at most {high}, not {value}")
    return settings(**values)


def mixture(text, name="--data"):
    """"math=0.3,code=0.7" as a dictionary of weights that sum to 1; "math" alone means math=1.

    >>> mixture("math=3,code=1")
    {'math': 0.75, 'code': 0.25}

    Raises BadInput for weights that are no numbers, zero, negative or infinite, and for a domain named twice.
    """
    weights = {}
    for part in text.split(","):
        domain, equals, weight = part.strip().partition("=")
        try:
            value = float(weight if equals or ":" in domain else 1)  # math:0.5 is a slip, not a name
        except ValueError:
            raise BadInput(f"{name}: {part!r} should read domain=weight") from None
        if not 0 < value < float("inf") or not domain:
            raise BadInput(f"{name}: {part!r} needs a domain and a weight above zero")
        if domain in weights:
            raise BadInput(f"{name}: {domain} is named twice")
        weights[domain] = value
    total = sum(weights.values())
    shares = {domain: value / total for domain, value in weights.items()}
    if not all(shares.values()):  # also if the total is infinite
        raise BadInput(f"{name}: the weights are too large, or too far apart")
    return shares


def printable(line):
    """A line in which names from elsewhere can neither start another line nor command a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def run(main):
    """Call main() as a script does: what goes wrong becomes one line on stderr and an exit code.

    2 for BadInput, 3 for Diverged, 128 + its number for a signal.
    """
    code, line = 0, ""
    for name in ("stdout", "stderr"):  # closed by the shell's >&-
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a model may write what the terminal has no sign for
    try:
        main()
        sys.stdout.flush()
    except (BadInput, Diverged, Stopped) as error:
        code, line = 2 if isinstance(error, BadInput) else 3 if isinstance(error, Diverged) else 128 + error.number, str(error)
    except KeyboardInterrupt:
        code = 130
    except (MemoryError, RuntimeError) as error:  # torch's own of a GPU, and of a CPU, are RuntimeErrors
        if os.environ.get("BTX_TRACE") or not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        code, line = 2, "out of memory: try a smaller model or --batch_size; in training --grad_accum, --recompute, --loss_chunk"
    except OSError as error:  # a disk, a pipe or a terminal that fails at any other time
        if os.environ.get("BTX_TRACE"):
            raise
        code, line = 2, f"{error.filename or 'standard output'}: {error.strerror}"
    except BaseException as error:
        if not is_panic(error):
            raise
        code, line = 2, "a text is too much for its tokenizer; cut it into lines"
    if line:
        line = f"{sys.argv[0].rsplit('/', 1)[-1]}: {line[:1000]}"
        with suppress(OSError):  # one write, or ranks would mix their lines
            print(printable(line) + "\n", end="", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try once more at its end
    if "RANK" in os.environ:  # torch's gloo threads now and then abort a process that ends in the ordinary way
        os._exit(code)
    if code:
        sys.exit(code)
