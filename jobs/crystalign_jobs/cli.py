"""The `crystalign` command: one verb per stage, in the order of the pipeline.

Each verb is a module with a configuration class and a `main(config)`. The table below gives module names as strings, so
that `crystalign --help` does not import the modules.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign_jobs.settings import changed, nearest, with_defaults

if TYPE_CHECKING:
    from crystalign.config import Config


class Verb(NamedTuple):
    """One command and the module that implements it."""

    name: str
    """Name on the command line."""
    module: str
    """The module that holds the configuration class and `main(config)`."""
    config: str
    """The configuration class."""
    help: str
    """One line of help."""
    presets: str | None = None
    """Module whose `preset(name)` returns the settings of a preset, given as first argument or after `--config`."""
    resumes: bool = False
    """Whether `--resume RUN` takes the settings from a run; the module's `stored_settings(run)` reads them."""


GROUPS: dict[str, tuple[Verb, ...]] = {
    "Data": (
        Verb("ingest", "crystalign_jobs.ingest", "Ingest", "read crystals from files or a table into a dataset"),
        Verb("check", "crystalign_jobs.check", "Check", "check the rows of a dataset, also against its source files"),
        Verb("duplicates", "crystalign_jobs.duplicates", "Duplicates", "find materials with the same structure"),
        Verb("merge", "crystalign_jobs.merge", "Merge", "merge datasets, and find structures that occur in several"),
        Verb("derive", "crystalign_jobs.derive", "Derive", "compute diffraction patterns, captions and compositions"),
        Verb("hull", "crystalign_jobs.hull", "Hull", "compute energies above the convex hull"),
        Verb(
            "enumerate",
            "crystalign_jobs.enumerate",
            "Enumerate",
            "make millions of hypothetical crystals, as a load test",
        ),
    ),
    "Learning": (
        Verb(
            "pretrain",
            "crystalign_jobs.pretrain",
            "Pretrain",
            "train the encoders contrastively",
            presets="crystalign.training.presets",
            resumes=True,
        ),
        Verb("runs", "crystalign_jobs.runs", "Runs", "list runs: state, step, loss, and how to resume"),
        Verb("evaluate", "crystalign_jobs.evaluate", "Evaluate", "measure retrieval between all modalities"),
        Verb(
            "tune",
            "crystalign_jobs.tune",
            "Tune",
            "fine-tune to properties: run a campaign, write its table",
            presets="crystalign_jobs.campaign.presets",
            resumes=True,
        ),
        Verb("predict", "crystalign_jobs.predict", "Predict", "predict properties of crystals with fine-tuned models"),
    ),
    "Screening": (
        Verb("embed", "crystalign_jobs.embed", "Embed", "encode a dataset with a model"),
        Verb("index", "crystalign_jobs.index.build", "BuildIndex", "build a search index from embeddings"),
        Verb("index describe", "crystalign_jobs.index.describe", "Describe", "print what an index is, and its recall"),
        Verb("index verify", "crystalign_jobs.index.verify", "Verify", "check the files of an index and some searches"),
        Verb("index add", "crystalign_jobs.index.add", "Add", "add rows to an index"),
        Verb("index remove", "crystalign_jobs.index.remove", "Remove", "remove rows from an index"),
        Verb("index compact", "crystalign_jobs.index.compact", "Compact", "rewrite what additions and removals left"),
        Verb("index versions", "crystalign_jobs.index.versions", "Versions", "list the versions of an index"),
        Verb("index rollback", "crystalign_jobs.index.rollback", "Rollback", "go back to an earlier version"),
        Verb("index prune", "crystalign_jobs.index.prune", "Prune", "delete what only old versions need"),
        Verb("calibrate", "crystalign_serve.calibrate", "Calibrate", "measure how sure the answers of an index are"),
        Verb("serve", "crystalign_serve.launch", "Serve", "serve an index: HTTP API and web page"),
        Verb("search", "crystalign_serve.search", "Search", "query a served index by DOS, XRD, CIF, text or formula"),
        Verb("similar", "crystalign_serve.search", "Similar", "find the crystals most similar to one"),
        Verb("screen", "crystalign_serve.screen", "Screen", "search an index with thousands of queries, no service"),
        Verb("replay", "crystalign_serve.replay", "Replay", "run a screening again, and compare every row"),
    ),
    "More": (
        Verb("demo", "crystalign_jobs.demo", "Demo", "run the whole pipeline on a small corpus on this machine"),
        Verb("encoders", "crystalign_jobs.encoders", "Encoders", "list the networks, by modality"),
        Verb("submit", "crystalign_jobs.submit", "Submit", "run any of these commands on a running Ray cluster"),
    ),
}
"""Every verb, grouped in the order of the pipeline."""

VERBS: dict[str, Verb] = {verb.name: verb for group in GROUPS.values() for verb in group}
"""Every verb by name."""

COMMON_OPTIONS = """\
Every command also takes
  --config FILE.yaml|PRESET  settings that replace the defaults; flags override them
  --set NAME.NAME=VALUE      one setting, also a nested one; VALUE is YAML, and null removes an entry
  --debug                    show the traceback of an error"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 after an error of the user, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        return _run([a for a in args if a != "--debug"])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of the pipe has exited
        return 141
    except Exception as error:
        from crystalign_ray.errors import unwrap_error

        cause = unwrap_error(error)
        if debug or cause is None:
            raise
        print(_red(f"crystalign: {' '.join(str(cause).split())}"), file=sys.stderr)
        return 2


def _run(args: list[str]) -> int:
    if not args or args[0] in {"-h", "--help", "help"}:
        print(overview())
        return 0
    if args[0] in {"-V", "--version"}:
        from crystalign import __version__

        print(f"crystalign {__version__}")
        return 0
    words = 2 if " ".join(args[:2]) in VERBS else 1
    verb = find_verb(" ".join(args[:words]))
    rest, source = _take_config(verb, args[words:])
    rest, changes = _take_changes(verb, rest)
    module = importlib.import_module(verb.module)
    cls = getattr(module, verb.config)
    rest, run = _take_run(verb, cls, rest, source)
    stored = None if run is None else with_defaults(cls, module.stored_settings(run), origin=f"the settings of {run}")
    module.main(parse(verb, cls, rest, source, stored, changes))
    return 0


def overview() -> str:
    """The help of the bare command."""
    lines = ["usage: crystalign COMMAND [OPTIONS]", "", "Trains and serves multimodal models of crystals."]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {verb.name:<14} {verb.help}" for verb in verbs)]
    return "\n".join([*lines, "", COMMON_OPTIONS, "", "`crystalign COMMAND --help` explains each."])


def find_verb(name: str) -> Verb:
    """The verb of that name.

    Raises:
        ConfigError: there is no such verb; the message suggests the closest one.
    """
    if name in VERBS:
        return VERBS[name]
    from crystalign.errors import ConfigError

    raise ConfigError(f"no command {name!r}{nearest(name, VERBS)}; `crystalign --help` lists all")


def parse(
    verb: Verb,
    cls: type[Config],
    args: Sequence[str],
    source: str | None = None,
    stored: Config | None = None,
    changes: Sequence[str] = (),
) -> Config:
    """The configuration of a command: its defaults or `stored`, overridden by `source`, `changes` and the flags `args`.

    Raises:
        ConfigError: `source` does not exist or is not valid.
        SystemExit: the flags are not valid (2), or ask for help (0).
    """
    import inspect

    import tyro

    default = stored
    if source is not None:
        default = settings(verb, cls, read_source(verb, source), origin=source, base=stored)
    for change in changes:
        default = changed(cls, default, change)
    description = f"{inspect.getdoc(cls)}\n\n{COMMON_OPTIONS}"
    config: Config = tyro.cli(
        cls,
        args=list(args),
        prog=f"crystalign {verb.name}",
        description=description,
        default=default,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return config


def read_source(verb: Verb, source: str) -> dict[str, Any]:
    """The settings from the argument of `--config`: a YAML file, a job file of the same verb, or a preset.

    An inline `{…}` mapping is parsed as YAML; a submitted job passes its settings in this way.

    Raises:
        ConfigError: there is no such file or preset, or it is a job file of another verb.
    """
    import yaml

    from crystalign.config import read_yaml
    from crystalign.errors import ConfigError

    if source.startswith("{"):
        values: dict[str, Any] = yaml.safe_load(source)
        return values
    if source.endswith((".yaml", ".yml")) or os.path.sep in source:
        values = read_yaml(source)
        if set(values) >= {"verb", "config"}:
            if values["verb"] != verb.name:
                raise ConfigError(f"{source} is a job for `crystalign {values['verb']}`, not for {verb.name!r}")
            return dict(values["config"] or {})
        return values
    return _preset(verb, source)


def settings(
    verb: Verb, cls: type[Config], values: dict[str, Any], *, origin: str, base: Config | None = None
) -> Config:
    """`values` layered over the preset that their key `preset` names, over `base`, or over the defaults of `cls`.

    Raises:
        ConfigError: the preset or a field does not exist, or a value is not valid.
    """
    name = values.get("preset") if "preset" not in cls.model_fields else None
    if name is not None:
        base = with_defaults(cls, _preset(verb, name), origin=f"preset {name!r}", base=base)
    own = {key: value for key, value in values.items() if name is None or key != "preset"}
    return with_defaults(cls, own, origin=origin, base=base)


def _preset(verb: Verb, name: str) -> dict[str, Any]:
    from crystalign.errors import ConfigError

    if verb.presets is None:
        raise ConfigError(f"`crystalign {verb.name}` has no presets; --config takes a .yaml file, not {name!r}")
    values: dict[str, Any] = importlib.import_module(verb.presets).preset(name)
    return values


def _take_config(verb: Verb, args: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without `--config X`, and X; if the verb has presets, X may also be its first argument."""
    from crystalign.errors import ConfigError

    leading = list(args[:1]) if verb.presets and args and not args[0].startswith("-") else []
    rest, sources = _take_all(args[len(leading) :], "--config")
    sources = leading + sources
    if len(sources) > 1:
        raise ConfigError(f"settings can come from one source only, not from {' and '.join(sources)}")
    if sources == [""]:
        raise ConfigError("--config needs a .yaml file or the name of a preset")
    return rest, sources[0] if sources else None


def _take_changes(verb: Verb, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--set X`, and every X; `resume`, `out` and `name` can only be set by flags."""
    rest, changes = _take_all(args, "--set")
    for change in changes:
        name = change.partition("=")[0]
        if verb.resumes and name in {"resume", "out", "name"}:
            from crystalign.errors import ConfigError

            raise ConfigError(f"--set {change}: use the flag --{name} instead")
    return rest, changes


def _take_all(args: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The arguments without `flag X` and `flag=X`, and every X; X is empty if nothing follows the flag."""
    rest: list[str] = []
    values: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        if arg == flag:
            values.append(next(remaining, ""))
        elif arg.startswith(f"{flag}="):
            values.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    return rest, values


def _take_run(verb: Verb, cls: type[Config], args: Sequence[str], source: str | None) -> tuple[list[str], str | None]:
    """The arguments without the URI after `--resume`, and the URI of the resumed run, if any.

    Without a URI, `--out` and `--name` name the run, on the command line or in `--config`.
    """
    rest = list(args)
    configured = read_source(verb, source) if verb.resumes and source is not None else {}
    if not verb.resumes or not ("--resume" in rest or configured.get("resume")):
        return rest, None
    from crystalign import storage
    from crystalign.errors import ConfigError

    position = rest.index("--resume") + 1 if "--resume" in rest else len(rest)
    if position < len(rest) and not rest[position].startswith("-"):
        return rest[:position] + rest[position + 1 :], storage.absolute(rest[position].rstrip("/"))
    out = _flag(rest, "--out") or configured.get("out")
    name = _flag(rest, "--name") or configured.get("name") or cls.model_fields["name"].default
    if out is None:
        raise ConfigError("which run? --resume OUT/NAME, or --resume --out OUT --name NAME")
    return rest, storage.join(storage.absolute(out), name)


def _flag(args: Sequence[str], name: str) -> str | None:
    """The value of a flag, written `--flag value` or `--flag=value`."""
    for position, arg in enumerate(args):
        if arg == name:
            return args[position + 1] if position + 1 < len(args) else None
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


def _red(text: str) -> str:
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return f"\033[31m{text}\033[0m" if coloured else text


if __name__ == "__main__":
    sys.exit(main())
