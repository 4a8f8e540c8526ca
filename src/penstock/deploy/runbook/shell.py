"""Shell text that says what was meant: every word quoted, helpers that make a second run harmless."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Final

# What is known only when a script runs. Each is checked or computed before it is used; any other `$` is a character.
VARIABLES: Final = (
    "PROJECT_ID", "PROJECT_NUMBER", "REGION", "CLUSTER_NAME", "AWS_ACCOUNT_ID", "PROXY_RANGE", "work", "address",
)  # fmt: skip
_LIVE: Final = re.compile(r"\$\{(?:" + "|".join(VARIABLES) + r")\}")
_WIDTH: Final = 118

HELPERS: Final = {
    "say": """\
say() { printf '\\n== %s\\n' "$*" >&2; }
""",
    "die": """\
die() {
  printf 'error: %s\\n' "$*" >&2
  exit 1
}
""",
    "need": """\
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || die "$program is not installed"
  done
}
""",
    "have": """\
have() { "$@" >/dev/null 2>&1; }
""",
    "retry": """\
retry() { # what was just made is not known everywhere at once
  local pause
  for pause in 5 10 20 40 60; do
    if "$@"; then return 0; fi
    sleep "$pause"
  done
  "$@"
}
""",
    "gone": """\
gone() { # removes something; that it is not there is as good
  local said
  if said="$("$@" 2>&1)"; then return 0; fi
  case "$said" in
    *'not found'* | *NotFound* | *NOT_FOUND* | *'not exist'* | *NoSuch*) return 0 ;;
    *'no matches for kind'* | *'have a resource type'*) return 0 ;;
  esac
  printf '%s\\n' "$said" >&2
  return 1
}
""",
    "hub_token": """\
hub_token() { # prints it: of the environment, of a file, or of `hf auth login`
  if [ -n "${HF_TOKEN:-}" ]; then
    printf '%s' "$HF_TOKEN"
    return
  fi
  local file="${HF_TOKEN_PATH:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/token}"
  [ -s "$file" ] && tr -d '\\r\\n' <"$file"
}
""",
    "random_key": """\
random_key() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'; }
""",
    "wait_for_job": """\
wait_for_job() { # NAMESPACE NAME
  local state
  while :; do
    state="$(kubectl get job "$2" --namespace="$1" \\
      --output=jsonpath='{.status.conditions[?(@.status=="True")].type}')"
    case " $state " in
      *' Complete '*) return 0 ;;
      *' Failed '*)
        kubectl logs "job/$2" --namespace="$1" --tail=20 >&2 || true
        die "job $2 failed; its log is above"
        ;;
    esac
    kubectl logs "job/$2" --namespace="$1" --tail=1 2>/dev/null || true
    sleep 10
  done
}
""",
    "confirm": """\
confirm() { # asks, unless --yes
  local answer
  if [ -n "$yes" ]; then return 0; fi
  [ -t 0 ] || die "there is nobody to ask; --yes answers"
  read -r -p "$1 [y/N] " answer
  [ "$answer" = y ] || [ "$answer" = Y ]
}
""",
}


def quote(word: str) -> str:
    """`word` as one word of a shell, whatever is in it; `${NAME}` of VARIABLES is replaced when it runs."""
    if "\n" in word or "\r" in word:  # on one line, whoever indents it
        return "$'" + re.sub(r"([\\'])", r"\\\1", word).replace("\n", r"\n").replace("\r", r"\r") + "'"
    if not _LIVE.search(word):
        readable = "'" in word and not set(word) & set('"\\`$!')
        return f'"{word}"' if readable else shlex.quote(word)
    fixed = [re.sub(r'([\\"`$])', r"\\\1", part) for part in _LIVE.split(word)]
    live = [*_LIVE.findall(word), ""]
    return '"' + "".join(text + variable for text, variable in zip(fixed, live, strict=True)) + '"'


def line(*words: str) -> str:
    """A command; on several lines where it is long."""
    quoted = [quote(word) for word in words]
    text = " ".join(quoted)
    if len(text) <= _WIDTH:
        return text
    lines: list[str] = []
    for word in quoted:
        if lines and not word.startswith(("-", '"-', "'-")) and len(lines[-1]) + 1 + len(word) <= _WIDTH - 2:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return " \\\n  ".join(lines)


def gone(*words: str) -> str:
    """A command that removes something, and does not mind that it is not there."""
    return f"gone {line(*words)}"


def must(probe: Iterable[str], told: str) -> str:
    """Stops the script with `told`, where `probe` finds nothing."""
    return f"have {line(*probe)} || {line('die', told)}"


def block(head: str, body: Iterable[str], tail: str = "fi") -> str:
    """`if …; then` and what it encloses, indented; lines of a here-document stay where they are."""
    return "\n".join([head, *(indent(each) for each in body), tail])


def indent(text: str) -> str:
    """Each line two further in, but those of a here-document."""
    lines, until = [], None
    for each in text.split("\n"):
        lines.append(each if until is not None or not each else f"  {each}")
        if until is None:
            found = re.search(r"<<'?(\w+)'?", each)
            until = found.group(1) if found else None
        elif each == until:
            until = None
    return "\n".join(lines)


def unless(probe: Iterable[str], *body: str) -> str:
    """`body`, where `probe` finds nothing."""
    return block(f"if ! have {line(*probe)}; then", body)


def feed(text: str, *words: str) -> str:
    """A command that reads `text`, which holds no secret. `${NAME}` of VARIABLES is replaced in it, nothing else."""
    end = "END"
    while end in text.split("\n"):
        end += "_"
    mark = f"'{end}'"
    if _LIVE.search(text):
        mark, parts = end, [re.sub(r"([\\`$])", r"\\\1", part) for part in _LIVE.split(text)]
        text = "".join(part + live for part, live in zip(parts, [*_LIVE.findall(text), ""], strict=True))
    return f"{line(*words)} <<{mark}\n{text.rstrip()}\n{end}"


def helpers_for(body: str) -> str:
    """The helpers that `body` calls, and those that they call."""
    wanted: set[str] = set()
    text = body
    while more := {name for name in HELPERS if name not in wanted and re.search(rf"(?<![\w-]){name}(?![\w-])", text)}:
        wanted |= more
        text = "\n".join(HELPERS[name] for name in more)
    return "\n".join(HELPERS[name] for name in HELPERS if name in wanted)
