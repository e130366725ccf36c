#!/bin/sh
# Makes .venv hold exactly the versions of requirements.txt, with uv (which pip brings where it is not installed), compiles bytecode, and
# builds DeepSpeed's CPU op and makes the run's databases, so that the first run waits for none of that. Does nothing when all of that is as it was.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
stop() { say "make install: $*"; exit 2; }

stamp=.venv/.installed
wanted=$(cat requirements.txt pyproject.toml infra/install.sh | cksum)
works() { [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }
# A checkout that was moved has scripts that name the old place.
in_place() { head -3 .venv/bin/mmalign 2>/dev/null | grep -qF "$PWD/.venv/bin"; }

if works && in_place && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

command -v git >/dev/null || stop "git is missing: install it with your system's package manager (data versions are kept beside it)"
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null \
    || stop "a C++ compiler is missing: install g++ (Debian, Ubuntu: apt install g++) or clang (macOS: xcode-select --install)"
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free" -gt 8000000 ] || works || stop "the environment takes some 7 GB and only $((free / 1000000)) GB are free here: make room"

if ! works || { [ -e .venv/bin/mmalign ] && ! in_place; }; then rm -rf .venv; fi
if ! works; then
    if command -v uv >/dev/null; then
        uv venv --quiet --python '>=3.11,<3.14' .venv || stop "uv found no Python 3.11 to 3.13: install one (uv python install 3.12)"
    else
        python=
        for name in python3.12 python3.11 python3.13 python3 python; do
            if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
                python=$name
                break
            fi
        done
        [ -n "$python" ] || stop "no Python 3.11 to 3.13 with its venv module was found: install one (Debian, Ubuntu: apt install python3 python3-venv)"
        "$python" -m venv .venv
    fi
fi
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    # pip's own resolver takes very long over some of these packages, so it brings uv and no more.
    uv=.venv/bin/uv
    [ -x "$uv" ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv || stop "pip could not install uv into .venv: check the network, or install uv yourself"
fi
say "make install: installing requirements.txt into .venv with uv (some 3 GB to download on the first time)"
VIRTUAL_ENV="$PWD/.venv" "$uv" pip install --quiet --compile-bytecode -r requirements.txt
VIRTUAL_ENV="$PWD/.venv" "$uv" pip install --quiet --no-deps --no-build-isolation --editable .
.venv/bin/python -m compileall -q components demo flows

say "make install: building DeepSpeed's CPU op"
PATH="$PWD/.venv/bin:$PATH" TORCH_EXTENSIONS_DIR="$PWD/.mmalign/torch_extensions" .venv/bin/python -c '
import os, sys
from components.errors import UserError
from components.engine.ops import ensure_built
try:
    ensure_built(dict(os.environ))
except UserError as error:
    sys.exit(f"make install: {error}")
'
say "make install: making the databases of Prefect and MLflow"
.venv/bin/python -m flows.prepare
printf '%s\n' "$wanted" > "$stamp"
say "make install: done; next: make run"
