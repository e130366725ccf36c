#!/bin/sh
# make gpu: all tests and figures that need a GPU, on this machine's card, in under 9 minutes. They end in the folder GPU_OUT (.mmalign/gpu):
# tests.log, gpu.json. Needs no installation: a bare machine with torch and transformers does. What else it lacks comes from wheels/, which
# `make gpu-wheels` fills on a machine with a registry. Without deepspeed, DDP is measured in its place.
set -u
cd "$(dirname "$0")/.."
out=${GPU_OUT:-.mmalign/gpu}
limit=${GPU_SECONDS:-520}
began=$(date +%s)
left() { echo $((limit - $(date +%s) + began)); }
say() { printf 'make gpu: %s\n' "$*" >&2; }
mkdir -p "$out"

python=${PYTHON:-python3}
[ -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] && python=.venv/bin/python
if [ "$python" != .venv/bin/python ] && ls wheels/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --target "$site" wheels/*.whl \
        || say "wheels/ could not be installed: going on without"
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
missing() { ! "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
if missing torch || missing transformers; then say "$python has no torch or no transformers: set PYTHON to one that has"; exit 2; fi
if [ -z "${GPU_DRY:-}" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "torch sees no GPU here (GPU_DRY=1 tries all of it on a processor, with minute sizes)"
    exit 2
fi
for name in pydantic deepspeed liger_kernel trl; do
    missing $name && case $name in
        pydantic) say "pydantic is missing: run make gpu-wheels where there is a registry, and bring the folder wheels/"; exit 2 ;;
        deepspeed) say "deepspeed is missing (wheels/ would bring it): DDP is measured in its place" ;;
        liger_kernel) say "liger-kernel is missing (wheels/ would bring it): its kernels are not tried" ;;
        trl) say "trl is missing (wheels/ would bring it): there is no comparison with it" ;;
    esac
done
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

code=0
timeout "$((limit * 2 / 5))" "$python" -m pytest tests/gpu -q -p no:cacheprovider >"$out/tests.log" 2>&1 || code=1
tail -15 "$out/tests.log"
say "tests ended after $(($(date +%s) - began)) s; figures follow"
timeout "$(left)" "$python" -m benchmarks.gpu --json --seconds "$(($(left) - 10))" ${GPU_DRY:+--dry --rounds 1} >"$out/gpu.json" 2>"$out/gpu.log" || {
    code=1
    tail -15 "$out/gpu.log"
}
cat "$out/gpu.json"
say "ended after $(($(date +%s) - began)) s; all of it lies in $out"
exit $code
