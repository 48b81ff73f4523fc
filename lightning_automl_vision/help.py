"""``--help``: written by us, because hydra's own takes a second of composing to list the groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_automl_vision.config import config_folders
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.jobs import VERBS, job_configs
from lightning_automl_vision.keys import DescribedKey, described, nearest
from lightning_automl_vision.tables import table
from lightning_automl_vision.typed_nodes import typed_nodes

USAGE = """\
AutoML for images: from labelled pictures to a trained model.

  lav [VERB] [+experiment=NAME] [key=value ...]
  python -m lightning_automl_vision [VERB] [+experiment=NAME] [key=value ...]
"""
EXAMPLES = """\
Examples
  lav data.training=photos/ model=resnet18
  lav task=image_classification_multilabel data.training=train.jsonl data.validation=validation.jsonl
  lav predict RUN input=photos/ output=answers draw=true
  lav convert input=annotations.json output=train.jsonl task=image_object_detection
  lav -m model=resnet18,mobilenetv2 data.training=photos/
"""
MORE = """\
More help
  lav --help training                    the keys of a group, their defaults and ranges
  lav convert --help                     the keys of a verb
  lav key=value ... --cfg job --resolve  what a run would use
  lav --hydra-help                       hydra's own flags, such as --multirun
"""

# Groups whose choices have keys of their own.
_APART = ("augment", "task", "tiler")

KEYS_INTRODUCTION = """\
# Keys

Made from the typed nodes by `make docs`; a test keeps it so. A key is written `group.key=value` on the command line,
below its group in YAML, and as `group={"key": value}` in Python. "by model and task" is what the chosen model and task
bring: `lav key=value ... --cfg job --resolve` shows it.

Beside the groups there are `output_dir` (where a run writes), `quiet` (no progress bar and no report), `resume`
(`auto` goes on where an earlier attempt at the same run was ended, `never` begins anew in its folder),
`checkpoint` and `runs` (other runs, for the verbs that take them). A verb's own keys stand under `job`;
after `lav VERB` the prefix may be left out."""


def help_text(words: Sequence[str]) -> str:
    """Help on the groups and verbs among the words, or on everything."""
    topics = [topic for word in words for topic in _topic(word)]
    if topics:
        return "\n\n".join(topics)
    verbs = table(("Verbs", ""), [(verb, _first_line(config.__doc__)) for verb, config in job_configs().items()])
    groups = table(("Config groups", "choices"), [(group, ", ".join(names)) for group, names in choices().items()])
    return "\n".join([USAGE, verbs, "", groups, "", EXAMPLES, MORE])


def choices() -> Mapping[str, Sequence[str]]:
    """What can be chosen in each config group."""
    names = {(group, name) for group, name in typed_nodes() if not name.startswith("default_for_")}
    for folder in config_folders():
        found = {(path.parent.name, path.stem) for path in folder.glob("*/*.yaml")}
        names |= {(group, name) for group, name in found if not name.startswith("default_for_")}
    return {
        group: sorted(name for owner, name in names if owner == group) for group in sorted(group for group, _ in names)
    }


def _topic(word: str) -> list[str]:
    if word in VERBS:
        config = job_configs()[word]
        own = [row for row in _rows(config, "") if row[0] != "name"]
        text = f"lav {word}: {_first_line(config.__doc__)}"
        return [
            f"{text}\n\n{table(('key', 'default', 'allowed', 'meaning'), own)}"
            if own
            else f"{text} It has no keys of its own."
        ]
    tables = {owner: rows for owner, rows in _by_owner().items() if owner.partition(":")[0] == word}
    if not tables and word in choices():
        return [f"{word}: choose from {', '.join(choices()[word])}."]
    if not tables:
        known = [*VERBS, *choices()]
        raise ConfigError(f"No help on {word!r}.{nearest(word, known)} There is some on {', '.join(known)}.")
    return [
        f"{owner}\n\n" * (len(tables) > 1) + table(("key", "default", "allowed", "meaning"), list(rows.values()))
        for owner, rows in tables.items()
    ]


def _by_owner() -> dict[str, dict[str, tuple[str, ...]]]:
    """The rows of each group by key; of groups whose choices have keys of their own, those of each kind of choice."""
    nodes: dict[str, dict[str, tuple[str, ...]]] = {}
    choosing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (group, name), node in typed_nodes().items():
        alike = [
            other for (owner, other), value in typed_nodes().items() if owner == group and _kind(value) is _kind(node)
        ]
        owner = f"{group}: {', '.join(alike)}" if group in _APART else f"{group}: {name}" if group == "job" else group
        for row in _rows(node, group):
            nodes.setdefault(owner, {}).setdefault(row[0], row)
            if not name.startswith("default_for_"):
                choosing.setdefault((owner, row[0]), {}).setdefault(row[1], []).append(name)
    return {
        owner: {key: (key, _by_choice(choosing[owner, key]), *row[2:]) for key, row in rows.items()}
        for owner, rows in sorted(nodes.items())
    }


def _by_choice(defaults: Mapping[str, Sequence[str]]) -> str:
    """The default of most choices that have the key, and in parentheses what others have instead."""
    first, *others = sorted(defaults, key=lambda text: -len(defaults[text]))
    named = [", ".join([*defaults[text][:2], *(["..."] if defaults[text][2:] else [])]) for text in others]
    instead = "; ".join(f"{names}: {text}" for names, text in zip(named, others, strict=True))
    return f"{first} ({instead})" if instead else first


def _kind(node: Any) -> Any:
    return node if isinstance(node, type) else type(node)


def _rows(node: Any, prefix: str) -> list[tuple[str, str, str, str]]:
    return [
        (found.name.lstrip("."), _default(found), found.allowed, found.key.help) for found in described(node, prefix)
    ]


def _default(found: DescribedKey) -> str:
    own_name = found.name.endswith(".name") and found.name.count(".") <= 1
    return "the choice" if own_name else "required" if found.value == "???" else default_text(found.value)


def default_text(value: Any) -> str:
    """A default as a reader understands it: interpolations are the model's or another key's."""
    if value is None:
        return "none"
    if isinstance(value, str) and value.startswith("${lav.default:"):
        fallback = value.removeprefix("${lav.default:").removesuffix("}").partition(",")[2]
        return f"by model ({fallback.strip('${.}')})" if fallback else "by model and task"
    return str(value).lower() if isinstance(value, bool) else str(value)


def keys_document() -> str:
    """docs/keys.md: every key of every group, from the typed nodes."""
    sections = [f"## {owner}\n\n{_markdown(list(rows.values()))}" for owner, rows in _by_owner().items()]
    return "\n\n".join([KEYS_INTRODUCTION, *sections]) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [("key", "default", "allowed", "meaning"), ("---",) * 4, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if text else ""


if __name__ == "__main__":
    print(keys_document(), end="")
