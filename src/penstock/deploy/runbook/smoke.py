"""smoke.sh: the server answers, as a client would ask it: health, models, an answer, a streamed answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from penstock.deploy.render.engine import api_key
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.service import health_path, service_port
from penstock.deploy.runbook.kube import namespace_flag
from penstock.deploy.runbook.shell import helpers_for, line, quote


def render_smoke(context: Context, *, head: str, connect: Sequence[str]) -> str:
    """A script: `./smoke.sh` asks through kubectl, `./smoke.sh URL` from outside. Exit 1 where an answer is missing."""
    body = "\n".join(
        [
            "need curl kubectl",
            'url="${1:-}"',
            _key(context),
            'if [ -z "$url" ]; then',
            *(f"  {each}" for text in connect for each in text.split("\n")),
            _forward(context),
            "fi",
            _ASK,
            _checks(context),
        ]
    )
    return f"{head}{helpers_for(body)}\n{body}\n"


def _key(context: Context) -> str:
    """The key that clients need, where they need one: out of its Secret, into a variable, never into an argument."""
    for variable in api_key(context).env:
        source = variable["valueFrom"]
        assert isinstance(source, dict)
        reference = source["secretKeyRef"]
        words = (
            "kubectl",
            "get",
            "secret",
            reference["name"],
            namespace_flag(context),
            f"--output=jsonpath={{.data.{reference['key']}}}",
        )
        return 'key="${API_KEY:-}"\nread_key() {\n' + f'  [ -n "$key" ] || key="$({line(*words)} | base64 -d)"\n' + "}"
    return 'key="${API_KEY:-}"\nread_key() { :; }'


def _forward(context: Context) -> str:
    command = line(
        "kubectl", "port-forward", f"service/{context.name}", f":{service_port(context)}", namespace_flag(context)
    )
    return f"""\
  read_key
  {command} >"$work/forward" 2>&1 &
  forward=$!
  trap 'kill "$forward" 2>/dev/null || true; rm -rf "$work"' EXIT
  port=
  for _ in $(seq 60); do
    port="$(sed -n 's/^Forwarding from 127\\.0\\.0\\.1:\\([0-9]*\\) .*/\\1/p' "$work/forward")"
    [ -z "$port" ] || break
    kill -0 "$forward" 2>/dev/null || die "no way to the server: $(cat "$work/forward")"
    sleep 1
  done
  [ -n "$port" ] || die "no way to the server in 60 s: $(cat "$work/forward")"
  url="http://127.0.0.1:$port\""""


# The key goes to curl by a file that only this user reads: arguments are for everybody to see.
_ASK = """\
url="${url%/}"
if [ -n "$key" ]; then
  (umask 077 && printf 'header = "Authorization: Bearer %s"\\n' "$key" >"$work/headers")
else
  : >"$work/headers"
fi
ask() { curl --config "$work/headers" --fail-with-body --silent --show-error --max-time 600 "$@"; }"""


def _checks(context: Context) -> str:
    tokens = context.settings.setup.smoke_tokens
    prompt = "San Francisco is a"
    request: dict[str, object] = {"model": context.settings.served_name, "max_tokens": tokens, "temperature": 0.1}
    if context.model.has_chat_template:
        path = "/v1/chat/completions"
        request["messages"] = [{"role": "user", "content": prompt}]
    else:
        path = "/v1/completions"
        request["prompt"] = prompt
    health = health_path(context)
    body, streamed = quote(json.dumps(request)), quote(json.dumps({**request, "stream": True}))
    name = context.settings.served_name
    json_header = "--header 'Content-Type: application/json'"
    return f"""\

ask "$url{health}" >/dev/null || die "$url{health} does not answer"
say healthy

ask "$url/v1/models" >"$work/models" || die "$url/v1/models: $(cat "$work/models")"
grep -q -F {quote(json.dumps(name))} "$work/models" ||
  die {quote(f"{name} is not served here:")} "$(cat "$work/models")"
say serves {quote(name)}

seconds="$(ask "$url{path}" {json_header} --data {body} --output "$work/answer" --write-out '%{{time_total}}')" ||
  die "{path}: $(cat "$work/answer")"
count="$(sed -n 's/.*"completion_tokens": *\\([0-9][0-9]*\\).*/\\1/p' "$work/answer")"
[ "${{count:-0}}" -gt 0 ] || die "{path}: no token in $(cat "$work/answer")"
say "$count tokens in $seconds s, $(awk -v n="$count" -v s="$seconds" 'BEGIN {{ printf "%.1f", n / s }}') a second"

seconds="$(ask "$url{path}" {json_header} --data {streamed} --no-buffer --output "$work/stream" \\
  --write-out '%{{time_starttransfer}}')" || die "streamed {path}: $(cat "$work/stream")"
grep -q '^data: {{' "$work/stream" || die "streamed {path}: nothing came: $(cat "$work/stream")"
grep -q '^data: \\[DONE\\]' "$work/stream" || die "streamed {path}: it broke off"
say "streams; the first byte after $seconds s"
cat "$work/answer"
echo"""
